//! How the fake misbehaves.

use std::time::Duration;

use serde_json::{Value, json};

/// What goes wrong with one request. Before the greeting, `upgrade` and `connect` are requests too.
#[derive(Clone, PartialEq, Debug)]
pub enum Fault {
    /// The connection breaks; nothing was done.
    CutBefore,
    /// It is done, and the connection breaks before the reply.
    CutAfter,
    /// It is done, and the connection breaks in the midst of the reply's frame.
    CutInFrame,
    /// Nothing is done, nothing said.
    Hang,
    /// It is done, nothing said.
    HangAfter,
    /// It is done, and the reply comes twice.
    Twice,
    /// It is done, and the reply comes late.
    Late(Duration),
    /// It is done late, whatever became of the connection; the reply comes after it.
    DoneLate(Duration),
    /// Refused with this error; nothing was done.
    Refuse(Value),
    /// Done, with this payload instead of the right one.
    Answer(Value),
    /// Done, with a payload of so many bytes.
    Huge(usize),
    /// Done; what comes is no JSON, and no reply.
    Garbage,
    /// Closed with this code; nothing was done.
    Close(u16, &'static str),
    /// It is done, and the gateway restarts before the reply.
    Restart,
    /// For `connect`: let in, with this greeting.
    Hello(Value),
    /// For `upgrade`: this status instead of a WebSocket.
    Status(u16),
    /// For `upgrade`: 503 instead of a WebSocket, with this `Retry-After`.
    ComeLater(&'static str),
}

impl Fault {
    /// The gateway wants fewer requests.
    #[must_use]
    pub fn rate_limit(method: &str, pause: Duration) -> Self {
        let message = format!("rate limit exceeded for {method}; retry after {}s", pause.as_secs());
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        Self::Refuse(json!({"code": "UNAVAILABLE", "message": message, "retryable": true, "retryAfterMs": pause}))
    }

    /// The gateway has too much to do.
    #[must_use]
    pub fn busy() -> Self {
        let message = "The server is busy. Please try again in a moment.";
        Self::Refuse(json!({"code": "UNAVAILABLE", "message": message, "retryable": true}))
    }
}

/// An error of the gateway's own.
pub(super) fn invalid(message: impl Into<String>) -> Value {
    json!({"code": "INVALID_REQUEST", "message": message.into()})
}

/// The same, with a finer word.
pub(super) fn detailed(code: &str, message: &str, details: &Value) -> Value {
    json!({"code": code, "message": message, "details": details})
}
