//! JSON bodies: their type, their size, their strings and their fields.

use std::{borrow::Cow, sync::Arc};

use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    limit,
    problem::{Faults, Problem},
    state::App,
};

/// A body that a route takes. Whether unknown fields are refused is the type's own `deny_unknown_fields`.
pub(crate) trait Wanted: DeserializeOwned {
    /// Encoded attachments come on top of the body's limit.
    const ATTACHMENTS: bool = false;
}

/// A decoded body, with the hash of its bytes for `Idempotency-Key`.
#[derive(Debug)]
pub(crate) struct JsonBody<T> {
    pub(crate) value: T,
    pub(crate) digest: [u8; 32],
    /// Held as long as the value may be in memory.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

impl<T: Wanted + Send + 'static> FromRequest<Arc<App>> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        require_json(request.headers())?;
        let bounds = Bounds::new(app.body_limit(), if T::ATTACHMENTS { app.attachment_allowance() } else { 0 });
        let (bytes, room) = read(request, bounds.wire(), Some((bounds.body, &app.room))).await?;
        if bytes.len() < limit::LARGE_BODY {
            let (value, digest) = take_in(&bytes, bounds)?;
            return Ok(Self { value, digest, room });
        }
        let taken = tokio::task::spawn_blocking(move || take_in(&bytes, bounds)).await;
        let (value, digest) = taken.map_err(|error| {
            tracing::error!(%error, "a body was not decoded to its end");
            Problem::internal()
        })??;
        Ok(Self { value, digest, room })
    }
}

fn take_in<T: Wanted>(bytes: &[u8], bounds: Bounds) -> Result<(T, [u8; 32]), Problem> {
    bounds.check(bytes)?;
    Ok((decode(bytes)?, Sha256::digest(bytes).into()))
}

/// A decoded body with its bytes, for who signs them.
#[derive(Debug)]
pub(crate) struct SignedBody<T> {
    pub(crate) value: T,
    pub(crate) bytes: Bytes,
}

impl<T: Wanted + Send + 'static> SignedBody<T> {
    /// Reads it. Not an extractor: who may send it is judged first.
    pub(crate) async fn read(request: Request, app: &App) -> Result<Self, Problem> {
        require_json(request.headers())?;
        let bounds = Bounds::new(app.body_limit(), 0);
        let (bytes, _) = read(request, bounds.wire(), None).await?;
        let (value, _) = take_in(&bytes, bounds)?;
        Ok(Self { value, bytes })
    }
}

/// For POSTs that say everything in their path: nothing, or `{}`.
#[derive(Debug)]
pub(crate) struct NoBody {
    pub(crate) digest: [u8; 32],
}

impl FromRequest<Arc<App>> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        let (bytes, _) = read(request, app.body_limit(), None).await?;
        let nothing =
            bytes.trim_ascii().is_empty() || matches!(decode::<Value>(&bytes)?, Value::Object(o) if o.is_empty());
        if !nothing {
            return Err(Problem::field("", "this route takes no body, or {}"));
        }
        Ok(Self { digest: Sha256::digest(&bytes).into() })
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported =
        |detail: String| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail);
    if let Some(coding) =
        headers.get(header::CONTENT_ENCODING).filter(|coding| !coding.is_empty() && *coding != "identity")
    {
        let detail = format!("Bodies are taken uncompressed only, not as {}", coding.to_str().unwrap_or("?"));
        return Err(unsupported(detail).with("header:Content-Encoding", "must be absent"));
    }
    let found = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let essence = found.unwrap_or("").split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let detail = match found {
        Some(found) => format!("Content-Type must be application/json, not {found}"),
        None => "Content-Type must be application/json; there is none".to_owned(),
    };
    Err(unsupported(detail).with("header:Content-Type", "must be application/json"))
}

fn too_large(limit: usize) -> Problem {
    let detail = format!("The body is larger than {limit} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail)
        .with("", format!("may take {limit} bytes at most"))
}

/// Reads a body up to `limit`. What is beyond it is thrown away, up to a multiple, so that the client reads the answer.
/// With `room`, what is beyond a common size waits until there is memory for it.
async fn read(
    request: Request,
    limit: usize,
    room: Option<(usize, &Room)>,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
    let drain = limit.saturating_mul(limit::BODY_DRAIN_FACTOR);
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: usize| length > drain) {
        return Err(too_large(limit));
    }
    let bounds = Collecting { limit, drain, announced: announced.unwrap_or(limit).min(limit), room };
    let collected = tokio::time::timeout(limit::BODY_READ_TIMEOUT, collect(request.into_body(), bounds));
    collected.await.unwrap_or_else(|_| {
        let detail = format!("The body did not arrive within {} s", limit::BODY_READ_TIMEOUT.as_secs());
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail))
    })
}

/// How a body is read.
struct Collecting<'a> {
    limit: usize,
    /// What is thrown away at most, the body included.
    drain: usize,
    /// What it takes at most, if it keeps to its word and its limit.
    announced: usize,
    /// From which size on it needs room, and where that is.
    room: Option<(usize, &'a Room)>,
}

async fn collect(body: Body, bounds: Collecting<'_>) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
    let Collecting { limit, drain, announced, room } = bounds;
    let mut permit = None;
    let mut stream = body.into_data_stream();
    let mut kept = BytesMut::new();
    let mut seen = 0_usize;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| {
            Problem::new(StatusCode::BAD_REQUEST, "unreadable_body", "The body broke off before its end")
        })?;
        seen += chunk.len();
        if seen <= limit {
            if permit.is_none()
                && let Some((common, room)) = room
                && seen > common
            {
                permit = Some(room.take(announced.max(seen)).await?);
            }
            kept.extend_from_slice(&chunk);
        } else if seen > drain {
            break;
        }
    }
    if seen > limit { Err(too_large(limit)) } else { Ok((kept.freeze(), permit)) }
}

/// Memory for the bodies that take much of it: those with attachments.
#[derive(Debug)]
pub(crate) struct Room {
    kib: Arc<Semaphore>,
    all: u32,
}

impl Room {
    /// How often a body is in memory at once: as it came, and decoded.
    const COPIES: usize = 2;

    pub(crate) fn new(mib: u32) -> Self {
        let all = mib.saturating_mul(1024);
        Self { kib: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// For a body of so many bytes; one that needs more than there is has it alone.
    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let wanted = u32::try_from(bytes.saturating_mul(Self::COPIES).div_ceil(1024)).unwrap_or(u32::MAX).min(self.all);
        let granted = tokio::time::timeout(limit::ROOM_WAIT, self.kib.clone().acquire_many_owned(wanted)).await;
        granted.ok().and_then(Result::ok).ok_or_else(|| {
            let detail = "This process reads as many attachments as server.attachment_memory_mib allows";
            Problem::unavailable("too_many_attachments", detail)
        })
    }
}

/// What a body may hold.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Of the body without encoded attachments, and of every single string.
    body: usize,
    /// On top of it, for encoded attachments.
    attachments: usize,
}

impl Bounds {
    const fn new(body: usize, attachments: usize) -> Self {
        Self { body, attachments }
    }

    const fn wire(self) -> usize {
        self.body + self.attachments
    }

    /// Looks into the body only if it may break a bound: no string of a body within the limit is beyond it.
    fn check(self, bytes: &[u8]) -> Result<(), Problem> {
        if bytes.len() <= self.body && !holds_escaped_nul(bytes) {
            return Ok(());
        }
        let mut walk = Walk { bounds: self, faults: Faults::default(), attached: 0, pointer: String::new() };
        // What is no JSON is told by who decodes it.
        if Seen(&mut walk).deserialize(&mut serde_json::Deserializer::from_slice(bytes)).is_err() {
            return Ok(());
        }
        if bytes.len() - walk.attached.min(bytes.len()) > self.body {
            return Err(too_large(self.body));
        }
        walk.faults.finish()
    }
}

fn holds_escaped_nul(bytes: &[u8]) -> bool {
    bytes.windows(6).any(|window| window == b"\\u0000")
}

/// Looks at every text of a body without keeping any.
struct Walk {
    bounds: Bounds,
    faults: Faults,
    attached: usize,
    /// Where it is.
    pointer: String,
}

impl Walk {
    fn text(&mut self, text: &str) {
        let pointer = &self.pointer;
        self.faults.check(!text.contains('\0'), pointer, || "must not contain U+0000".to_owned());
        let attachment =
            self.bounds.attachments > 0 && pointer.starts_with("/attachments/") && pointer.ends_with("/base64Data");
        if attachment {
            self.attached += text.len();
            return;
        }
        let limit = self.bounds.body;
        self.faults.check(text.len() <= limit, pointer, || format!("may take {limit} bytes at most"));
    }
}

/// A value that the walk comes by.
struct Seen<'a>(&'a mut Walk);

impl<'de> DeserializeSeed<'de> for Seen<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seen<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.text(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let depth = self.0.pointer.len();
        for index in 0_usize.. {
            push(&mut self.0.pointer, &index.to_string());
            let more = items.next_element_seed(Seen(self.0))?;
            self.0.pointer.truncate(depth);
            if more.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let depth = self.0.pointer.len();
        while let Some(name) = fields.next_key::<Cow<'de, str>>()? {
            push(&mut self.0.pointer, &name);
            self.0.text(&name);
            fields.next_value_seed(Seen(self.0))?;
            self.0.pointer.truncate(depth);
        }
        Ok(())
    }
}

fn push(pointer: &mut String, segment: &str) {
    pointer.push('/');
    pointer.push_str(&segment.replace('~', "~0").replace('/', "~1"));
}

/// Decodes JSON; a fault names its field.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        // Broken text is told before a wrong field: the field may only look wrong because the text breaks off.
        match serde_json::from_slice::<Value>(bytes) {
            Err(broken) => malformed(&broken),
            Ok(_) => fault(pointer_of(error.path()), error.inner()),
        }
    })?;
    deserializer.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn pointer_of(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => push(&mut pointer, &index.to_string()),
            Segment::Map { key } => push(&mut pointer, key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

fn malformed(error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let detail = format!("The body is not valid JSON: {text}");
    Problem::new(StatusCode::BAD_REQUEST, "malformed_json", detail).with("", text)
}

fn fault(mut pointer: String, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    for kind in ["unknown field `", "missing field `", "duplicate field `"] {
        if let Some((name, _)) = text.strip_prefix(kind).and_then(|rest| rest.split_once('`')) {
            // Some faults are found when the field's own name is already part of the path.
            if !pointer.ends_with(&format!("/{name}")) {
                push(&mut pointer, name);
            }
        }
    }
    Problem::field(pointer, text)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Order {
        #[expect(dead_code, reason = "only decoding is looked at")]
        items: Vec<Item>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        #[expect(dead_code, reason = "only decoding is looked at")]
        count: crate::extract::Int<1, 9>,
    }

    fn pointer(text: &str) -> String {
        decode::<Order>(text.as_bytes()).expect_err(text).errors[0].pointer.clone()
    }

    #[test]
    fn a_fault_names_its_field_as_a_json_pointer() {
        assert_eq!(pointer(r#"{"items":[{"count":1},{"count":"two"}]}"#), "/items/1/count");
        assert_eq!(pointer(r#"{"items":[{"count":10}]}"#), "/items/0/count");
        assert_eq!(pointer(r#"{"items":[{}]}"#), "/items/0/count");
        assert_eq!(pointer(r#"{"items":[],"colour":1}"#), "/colour");
        assert_eq!(pointer(r#"{"items":{}}"#), "/items");
        assert_eq!(pointer("{}"), "/items");
    }

    #[test]
    fn text_that_is_no_json_is_told_apart_from_json_of_the_wrong_shape() {
        for text in ["", "{", "{\"items\":[]} x", "{\"colour\":1", "\u{0}"] {
            assert_eq!(decode::<Order>(text.as_bytes()).expect_err(text).code, "malformed_json", "{text:?}");
        }
    }

    #[test]
    fn a_nul_is_found_wherever_it_hides() {
        let bounds = Bounds::new(1_000, 0);
        let problem = bounds.check(br#"{"a":[{"b/c":"x\u0000"}]}"#).expect_err("a nul");
        assert_eq!(problem.errors[0].pointer, "/a/0/b~1c");
        assert!(bounds.check(br#"{"a":"\\u0000 written out"}"#).is_ok());
        assert!(bounds.check(br#"{"\u0000":1}"#).is_err());
    }

    #[test]
    fn attachments_come_on_top_of_the_bodys_limit_and_nothing_else_does() {
        let bounds = Bounds::new(100, 1_000);
        let attached = format!(r#"{{"attachments":[{{"base64Data":"{}"}}]}}"#, "A".repeat(500));
        assert!(bounds.check(attached.as_bytes()).is_ok());
        let prompt = format!(r#"{{"prompt":"{}"}}"#, "A".repeat(500));
        assert_eq!(bounds.check(prompt.as_bytes()).expect_err("too long").status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_body_beyond_its_limit_is_drained_before_it_is_refused() {
        let collect = |length| {
            let bounds = Collecting { limit: 100, drain: 400, announced: 100, room: None };
            collect(Body::from(vec![b'x'; length]), bounds)
        };
        let problem = collect(350).await.expect_err("too large");
        assert_eq!(problem.code, "payload_too_large");
        assert!(problem.detail.contains("100 bytes"));
        assert_eq!(collect(100).await.expect("fits").0.len(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_wait_for_room_and_are_told_to_come_again_if_there_is_none() {
        let room = Room::new(1);
        let read = async |length: usize| {
            let bounds = Collecting { limit: 1 << 20, drain: 4 << 20, announced: length, room: Some((100, &room)) };
            collect(Body::from(vec![b'x'; length]), bounds).await
        };
        let (_, all) = read(1 << 20).await.expect("it has all the room alone");
        assert!(all.is_some());
        assert!(read(100).await.expect("a common body needs none").1.is_none());
        assert_eq!(read(101).await.expect_err("no room").code, "too_many_attachments");
        drop(all);
        assert!(read(101).await.is_ok());
    }
}
