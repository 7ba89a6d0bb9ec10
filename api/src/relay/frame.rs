//! An event on its way to watchers: encoded at most once for SSE and once for WebSockets, then shared.

use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

use axum::extract::ws::Utf8Bytes;
use bytes::Bytes;
use errand_common::domain::{Event, EventType, Stream};

/// One event of one stream.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) stream: Stream,
    pub(crate) seq: i64,
    pub(crate) event: Event,
    epoch: Arc<str>,
    sse: OnceLock<Bytes>,
    socket: OnceLock<Utf8Bytes>,
}

/// Whether an event is the last of its job, but for what comes late.
pub(crate) const fn ends_job(kind: EventType) -> bool {
    matches!(kind, EventType::Completed | EventType::Error | EventType::Cancelled)
}

/// How the type is told: SSE has it as `type`; a WebSocket's frame is itself of `type` `event`.
#[derive(Clone, Copy)]
enum Flavour {
    Sse,
    Socket,
}

/// Fields of the envelope; an event's own field of such a name does not get past it.
const ENVELOPE: &[&str] =
    &["stream", "epoch", "seq", "prev", "ts", "session_id", "job_id", "attempt", "type", "event_type"];

impl Frame {
    /// `None`: the event is not of this stream.
    pub(crate) fn new(stream: Stream, epoch: Arc<str>, event: Event) -> Option<Self> {
        let seq = event.seq_in(stream)?;
        Some(Self { stream, seq, event, epoch, sse: OnceLock::new(), socket: OnceLock::new() })
    }

    /// As one server-sent event. `prev` is given where some events are left out.
    pub(crate) fn sse(&self, prev: Option<i64>) -> Bytes {
        match prev {
            None => self.sse.get_or_init(|| self.encode_sse(None)).clone(),
            prev => self.encode_sse(prev),
        }
    }

    /// As one frame of a WebSocket.
    pub(crate) fn socket(&self, prev: Option<i64>) -> Utf8Bytes {
        match prev {
            None => self.socket.get_or_init(|| self.encode(Flavour::Socket, None).into()).clone(),
            prev => self.encode(Flavour::Socket, prev).into(),
        }
    }

    fn encode_sse(&self, prev: Option<i64>) -> Bytes {
        let data = self.encode(Flavour::Sse, prev);
        format!("id: {}:{}\ndata: {data}\n\n", self.epoch, self.seq).into()
    }

    fn encode(&self, flavour: Flavour, prev: Option<i64>) -> String {
        let event = &self.event;
        let mut text = String::with_capacity(320);
        text.push('{');
        if matches!(flavour, Flavour::Socket) {
            text.push_str(r#""type":"event","#);
        }
        let _ = write!(text, r#""stream":"{}","epoch":"#, self.stream);
        quote(&mut text, &self.epoch);
        let _ = write!(text, r#","seq":{}"#, self.seq);
        if let Some(prev) = prev {
            let _ = write!(text, r#","prev":{prev}"#);
        }
        let _ = write!(text, r#","ts":"{}""#, event.ts);
        if let Some(session) = event.session_id {
            let _ = write!(text, r#","session_id":"{session}""#);
        }
        if let Some(job) = event.job_id {
            let _ = write!(text, r#","job_id":"{job}","attempt":{}"#, event.attempt);
        }
        let name = match flavour {
            Flavour::Sse => "type",
            Flavour::Socket => "event_type",
        };
        let _ = write!(text, r#","{name}":"{}""#, event.kind);
        for (name, value) in event.data.as_object().into_iter().flatten() {
            if ENVELOPE.contains(&name.as_str()) {
                continue;
            }
            text.push(',');
            quote(&mut text, name);
            let _ = write!(text, ":{value}");
        }
        text.push('}');
        text
    }
}

fn quote(text: &mut String, value: &str) {
    let _ = write!(text, "{}", serde_json::Value::from(value));
}

#[cfg(test)]
pub(crate) mod tests {
    use errand_common::domain::{JobId, SessionId, Timestamp};
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn event(job: JobId, seq: i64, kind: EventType) -> Event {
        Event {
            job_id: Some(job),
            board_id: None,
            seq,
            session_id: Some(SessionId::new()),
            session_seq: Some(seq + 100),
            ts: Timestamp::from_micros(1_800_000_000_000_000),
            attempt: 1,
            kind,
            data: json!({"content": "line\n\"two\"", "seq": "not the envelope's"}),
        }
    }

    #[test]
    fn an_event_carries_the_number_of_the_stream_it_was_asked_for() {
        let job = JobId::new();
        let event = event(job, 7, EventType::Text);
        let session = Stream::Session(event.session_id.expect("a session"));
        let of = |stream| Frame::new(stream, "e1".into(), event.clone()).expect("of this stream");
        assert_eq!((of(Stream::Job(job)).seq, of(session).seq), (7, 107));
        assert!(Frame::new(Stream::Job(JobId::new()), "e1".into(), event).is_none());
    }

    #[test]
    fn both_encodings_say_the_same_and_the_envelope_wins() {
        let job = JobId::new();
        let event = event(job, 7, EventType::Text);
        let frame = Frame::new(Stream::Job(job), "e1".into(), event).expect("of this stream");
        let sse = String::from_utf8(frame.sse(None).to_vec()).expect("text");
        let data = sse.strip_prefix("id: e1:7\ndata: ").and_then(|rest| rest.strip_suffix("\n\n")).expect(&sse);
        let sse: Value = serde_json::from_str(data).expect("json");
        let socket: Value = serde_json::from_str(frame.socket(Some(5)).as_str()).expect("json");
        assert_eq!(
            (&sse["type"], &socket["type"], &socket["event_type"]),
            (&json!("text"), &json!("event"), &json!("text"))
        );
        assert_eq!((&sse["seq"], &socket["prev"], &sse["content"]), (&json!(7), &json!(5), &json!("line\n\"two\"")));
        assert_eq!(sse.get("prev"), None);
    }
}
