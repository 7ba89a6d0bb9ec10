//! Frames: ours exactly as gateways want them, theirs as far as they are understood.

use errand_common::telemetry::trace;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// A request. Gateways refuse any other field.
#[derive(Serialize)]
pub(super) struct Request<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    method: &'a str,
    params: &'a Value,
    /// At most 128 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
}

impl<'a> Request<'a> {
    pub(super) const fn new(id: &'a str, method: &'a str, params: &'a Value) -> Self {
        Self { kind: "req", id, method, params, traceparent: None }
    }

    /// In the trace of the work at hand.
    pub(super) fn traced(self) -> Self {
        Self { traceparent: trace::current().map(|context| context.traceparent()), ..self }
    }
}

/// What came.
#[derive(Debug)]
pub(super) enum Incoming {
    /// An answer.
    Response(Response),
    /// News.
    Event(Event),
    /// Something else, to be ignored.
    Other,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) id: String,
    /// The payload, or the gateway's error.
    pub(super) outcome: Result<Payload, ErrorFrame>,
}

/// News.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) name: String,
    /// Counts the events of a connection from 1; a gap means that some were dropped.
    pub(super) seq: Option<u64>,
    pub(super) payload: Payload,
}

/// JSON that is read when somebody wants it; most events are wanted by nobody.
#[derive(Clone, Debug, Default)]
pub(super) struct Payload(Option<Box<RawValue>>);

impl Payload {
    /// Read as a `T`; a missing one as `null`.
    pub(super) fn read<T: for<'de> Deserialize<'de>>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0.as_ref().map_or("null", |json| json.get()))
    }
}

/// A gateway's error.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ErrorFrame {
    #[serde(deserialize_with = "text")]
    pub(super) code: String,
    #[serde(deserialize_with = "text")]
    pub(super) message: String,
    pub(super) details: Value,
    #[serde(deserialize_with = "lenient")]
    pub(super) retryable: Option<bool>,
    #[serde(deserialize_with = "lenient")]
    pub(super) retry_after_ms: Option<u64>,
}

impl ErrorFrame {
    /// The finer word of the details: `code` at connect, `reason` or `type` elsewhere.
    pub(super) fn detail(&self) -> &str {
        ["code", "reason", "type"].iter().find_map(|name| self.details.get(name)?.as_str()).unwrap_or_default()
    }
}

/// Any value that is not what is wanted counts as missing.
pub(super) fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: for<'any> Deserialize<'any>,
{
    Ok(T::deserialize(Value::deserialize(deserializer)?).ok())
}

/// As [`lenient`], for text that is empty if it is missing.
pub(super) fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(lenient::<_, String>(deserializer)?.unwrap_or_default())
}

/// All kinds of frames in one.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw {
    #[serde(rename = "type", deserialize_with = "text")]
    kind: String,
    #[serde(deserialize_with = "lenient")]
    id: Option<String>,
    #[serde(deserialize_with = "lenient")]
    ok: Option<bool>,
    payload: Option<Box<RawValue>>,
    /// Where frames have no `type`.
    result: Option<Box<RawValue>>,
    error: Option<Value>,
    #[serde(deserialize_with = "text")]
    event: String,
    #[serde(deserialize_with = "lenient")]
    seq: Option<u64>,
}

/// Reads a frame. What is no JSON, or none of the known frames, is [`Incoming::Other`].
pub(super) fn decode(frame: &str) -> Incoming {
    let Ok(raw) = serde_json::from_str::<Raw>(frame) else { return Incoming::Other };
    match (raw.kind.as_str(), raw.id) {
        ("event", _) => Incoming::Event(Event { name: raw.event, seq: raw.seq, payload: Payload(raw.payload) }),
        ("res" | "", Some(id)) => {
            let refused = raw.ok == Some(false) || (raw.ok.is_none() && raw.error.is_some());
            let outcome = if refused {
                Err(read_error(raw.error.unwrap_or_default()))
            } else {
                Ok(Payload(raw.payload.or(raw.result)))
            };
            Incoming::Response(Response { id, outcome })
        }
        _ => Incoming::Other,
    }
}

/// An error may be an object, a bare text, or missing.
fn read_error(error: Value) -> ErrorFrame {
    match error {
        Value::String(message) => ErrorFrame { message, ..ErrorFrame::default() },
        error => ErrorFrame::deserialize(error).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use errand_common::domain::{JobId, TraceContext};
    use serde_json::json;

    use super::*;

    fn response(frame: &Value) -> Response {
        match decode(&frame.to_string()) {
            Incoming::Response(response) => response,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_has_exactly_its_fields() {
        let params = json!({"sessionKey": "main"});
        let frame = serde_json::to_value(Request::new("7", "chat.history", &params)).expect("plain data");
        assert_eq!(frame, json!({"type": "req", "id": "7", "method": "chat.history", "params": params}));
    }

    #[tokio::test]
    async fn a_request_of_a_run_names_its_trace() {
        let job = JobId::new();
        let context = TraceContext::of_job(job).run(job, 1);
        let named = context.traceparent();
        let frame = trace::within_run(Some(context), job, async {
            serde_json::to_value(Request::new("7", "chat.send", &Value::Null).traced()).expect("plain data")
        });
        assert_eq!(frame.await["traceparent"], named);
    }

    #[test]
    fn answers_of_any_age_are_understood() {
        for (frame, expected) in [
            (json!({"type": "res", "id": "1", "ok": true, "payload": {"a": 1}, "new": []}), json!({"a": 1})),
            (json!({"type": "res", "id": "1", "ok": null, "payload": 2}), json!(2)),
            (json!({"type": "res", "id": "1", "ok": true}), Value::Null),
            (json!({"id": "1", "result": [3]}), json!([3])),
        ] {
            assert_eq!(response(&frame).outcome.expect("ok").read::<Value>().expect("JSON"), expected, "{frame}");
        }
    }

    #[test]
    fn errors_of_any_form_are_understood() {
        let error = json!({"code": "UNAVAILABLE", "message": "m", "details": {"reason": "r"}, "retryable": true, "retryAfterMs": 5});
        let full =
            response(&json!({"type": "res", "id": "1", "ok": false, "error": error})).outcome.expect_err("refused");
        assert_eq!(
            (full.code.as_str(), full.detail(), full.retryable, full.retry_after_ms),
            ("UNAVAILABLE", "r", Some(true), Some(5))
        );
        for (frame, message) in [
            (json!({"type": "res", "id": "1", "ok": false}), ""),
            (json!({"type": "res", "id": "1", "ok": false, "error": "broken"}), "broken"),
            (json!({"id": "1", "error": {"code": 5, "message": "m", "retryable": "yes", "retryAfterMs": -1}}), "m"),
        ] {
            let error = response(&frame).outcome.expect_err("refused");
            assert_eq!(
                (error.message.as_str(), error.code.as_str(), error.retry_after_ms),
                (message, "", None),
                "{frame}"
            );
        }
    }

    #[test]
    fn what_is_no_frame_is_ignored() {
        for frame in ["", "hello", "[1]", "{}", r#"{"type":"res","ok":true}"#, r#"{"type":"new","id":"1"}"#] {
            assert!(matches!(decode(frame), Incoming::Other), "{frame}");
        }
        let Incoming::Event(event) = decode(r#"{"type":"event","event":"tick","seq":4,"payload":{"ts":1}}"#) else {
            panic!("an event");
        };
        assert_eq!((event.name.as_str(), event.seq), ("tick", Some(4)));
    }
}
