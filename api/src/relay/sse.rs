//! Server-sent events: one stream over one response.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::FromRequestParts,
    http::{HeaderValue, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use errand_common::domain::{EventType, Stream};
use futures::{FutureExt, future::BoxFuture, stream};
use serde_json::{Value, json};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, Interval},
};
use utoipa::{
    IntoParams,
    openapi::{
        KnownFormat, ObjectBuilder, Required, SchemaFormat, Type,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

use super::{
    start::{Position, Started, start},
    watch::{Filter, Step, Watch},
};
use crate::{auth::Caller, extract::Params, limit, problem::Problem, state::App};

/// Where an event source was, by `Last-Event-ID`, `?last_event_id=` or `?after=`, in this order; and which types it wants.
#[derive(Debug)]
pub(crate) struct From {
    position: Option<Position>,
    filter: Filter,
}

impl<S: Send + Sync> FromRequestParts<S> for From {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let header = parts.headers.get("last-event-id").map(|value| {
            let position = value.to_str().ok().and_then(parse);
            position
                .ok_or_else(|| Problem::field("header:Last-Event-ID", "must be <epoch>:<seq>, as an id of this stream"))
        });
        let mut query = Params::from_request_parts(parts, state).await?;
        let by_id = query.text("last_event_id").map(|text| (parse(&text), text));
        if let Some((None, _)) = by_id {
            query.fault("last_event_id", "must be <epoch>:<seq>, as an id of this stream");
        }
        let after = query.number("after", 0..=i64::MAX).map(|after| Position { epoch: None, after });
        let types = query.text("types").and_then(|text| {
            let types: Result<Vec<_>, _> = text.split(',').map(str::parse).collect();
            types.map_err(|unknown| query.fault("types", format!("{unknown}; must be types of events"))).ok()
        });
        query.finish_ignoring_unknown()?;
        let position = header.transpose()?.or(by_id.and_then(|(position, _)| position)).or(after);
        Ok(Self { position, filter: Filter { types } })
    }
}

/// Where an event source was, as the document says it: what is read is [`From`], which also asks for types.
pub(crate) struct Place;

impl IntoParams for Place {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let number =
            ObjectBuilder::new().schema_type(Type::Integer).format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)));
        let text = || ObjectBuilder::new().schema_type(Type::String);
        vec![
            parameter("Last-Event-ID", ParameterIn::Header, "`<epoch>:<seq>`: go on after it; beats the query", text()),
            parameter("last_event_id", ParameterIn::Query, "the same; beats `after`", text()),
            parameter("after", ParameterIn::Query, "go on after this number", number.minimum(Some(0))),
        ]
    }
}

impl IntoParams for From {
    fn into_params(place: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let types = "only these types of events, comma-separated; each then carries `prev`";
        let mut all = Place::into_params(place);
        all.push(parameter("types", ParameterIn::Query, types, ObjectBuilder::new().schema_type(Type::String)));
        all
    }
}

fn parameter(name: &str, place: ParameterIn, description: &str, schema: ObjectBuilder) -> Parameter {
    let parameter = ParameterBuilder::new().name(name).parameter_in(place).required(Required::False);
    parameter.description(Some(description)).schema(Some(schema)).build()
}

impl From {
    /// The same position, but only these types.
    pub(crate) fn only(self, types: &[EventType]) -> Self {
        Self { filter: Filter { types: Some(types.to_vec()) }, ..self }
    }
}

fn parse(id: &str) -> Option<Position> {
    let (epoch, after) = id.rsplit_once(':')?;
    let after = after.parse().ok().filter(|after| *after >= 0)?;
    (!epoch.is_empty()).then(|| Position { epoch: Some(epoch.to_owned()), after })
}

/// Serves a stream that the caller may see.
pub(crate) async fn serve(app: Arc<App>, caller: Arc<Caller>, stream: Stream, from: From) -> Result<Response, Problem> {
    let permit = app.admit_watcher()?;
    let started = start(&app, &caller, stream, from.position, from.filter).await?;
    let Started { watch, epoch, state, snapshot } = started;
    let first = snapshot.map(|snapshot| control("snapshot", &format!("{epoch}:{}", state.first_seq - 1), &snapshot));
    let comment = tokio::time::interval_at(Instant::now() + limit::SSE_COMMENT, limit::SSE_COMMENT);
    let expired = caller.expiry().boxed();
    let source = Source { app, caller, expired, stream, watch, epoch, first, comment, done: false, _permit: permit };
    let body = Body::from_stream(stream::unfold(source, |mut source| async move {
        let bytes = source.next().await?;
        Some((Ok::<_, Infallible>(bytes), source))
    }));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, body).into_response())
}

struct Source {
    app: Arc<App>,
    caller: Arc<Caller>,
    expired: BoxFuture<'static, ()>,
    stream: Stream,
    watch: Watch,
    epoch: Arc<str>,
    first: Option<Bytes>,
    comment: Interval,
    done: bool,
    _permit: OwnedSemaphorePermit,
}

impl Source {
    /// `None`: the response is over. Who was cut off comes again with `Last-Event-ID`.
    async fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        tokio::select! {
            biased;
            () = self.app.shutdown.cancelled() => {
                self.done = true;
                Some(format!("retry: {}\n\n", self.app.retry_after_ms()).into())
            }
            // Before the events: on a stream that never rests, too, a credential that is good no longer must be found out.
            () = &mut self.expired => {
                self.done = true;
                None
            }
            _ = self.comment.tick() => match self.app.auth.still_valid(&self.caller).await {
                Ok(false) => None,
                _ => Some(Bytes::from_static(b": still here\n\n")),
            },
            step = self.watch.next() => match step {
                Step::Event(frame, prev) => Some(frame.sse(prev)),
                Step::End => {
                    self.done = true;
                    let data = json!({"stream": self.stream.to_string(), "epoch": &*self.epoch});
                    Some(control("end", "", &data))
                }
                Step::Slow | Step::Failed => None,
            },
        }
    }
}

/// A control frame. Only one with an id moves the client's position.
fn control(event: &str, id: &str, data: &Value) -> Bytes {
    let id = if id.is_empty() { String::new() } else { format!("id: {id}\n") };
    format!("{id}event: {event}\ndata: {data}\n\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_an_epoch_and_a_number() {
        assert_eq!(parse("e1:7"), Some(Position { epoch: Some("e1".into()), after: 7 }));
        for id in ["", "7", ":7", "e1:", "e1:-1", "e1:x"] {
            assert_eq!(parse(id), None, "{id}");
        }
    }

    #[test]
    fn a_control_frame_is_one_event_with_its_name() {
        let bytes = control("end", "", &json!({"stream": "job:x"}));
        assert_eq!(&bytes[..], b"event: end\ndata: {\"stream\":\"job:x\"}\n\n");
    }
}
