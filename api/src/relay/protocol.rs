//! What a WebSocket says: frames, close codes.

use std::borrow::Cow;

use axum::http::StatusCode;
use errand_common::domain::EventType;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::problem::Problem;

/// The subprotocol.
pub(crate) const SUBPROTOCOL: &str = "errand.v1";

/// What a client may say. `id` is the client's own and comes back with the answer.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ClientFrame {
    /// The credential, as the first frame.
    Auth { token: String },
    /// Watch a stream.
    Subscribe {
        #[serde(default)]
        id: Value,
        stream: String,
        #[serde(default)]
        epoch: Option<String>,
        #[serde(default)]
        after: Option<i64>,
        #[serde(default)]
        types: Option<Vec<EventType>>,
    },
    /// Watch it no longer.
    Unsubscribe {
        #[serde(default)]
        #[expect(dead_code, reason = "clients may number every frame; this one has no answer")]
        id: Value,
        stream: String,
    },
    /// Are you there?
    Ping {
        #[serde(default)]
        id: Value,
    },
}

/// What the server says, besides events.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum ServerFrame<'a> {
    Subscribed { id: &'a Value, stream: String, epoch: &'a str, first_seq: i64, tail_seq: i64, recovered: bool },
    Snapshot(&'a Value),
    End { stream: String },
    Error { id: &'a Value, code: &'a str, detail: &'a str },
    Pong { id: &'a Value },
}

impl ServerFrame<'_> {
    pub(crate) fn text(&self) -> String {
        // Frames have string keys only, so they always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Why the server closes. Up to 4499 a client should come again; from 4500 on it should not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Close {
    /// To come again after so many milliseconds.
    ShuttingDown {
        retry_after_ms: u32,
    },
    CredentialExpired,
    TooSlow,
    RateLimited,
    Unavailable,
    BadCredential,
    NoCredential,
    Forbidden,
    Protocol(&'static str),
}

impl Close {
    /// Why a credential was not taken.
    pub(crate) fn unverified(problem: &Problem) -> Self {
        match problem.status {
            StatusCode::TOO_MANY_REQUESTS => Self::RateLimited,
            status if status.is_server_error() => Self::Unavailable,
            _ => Self::BadCredential,
        }
    }

    pub(crate) const fn code(self) -> u16 {
        match self {
            Self::ShuttingDown { .. } | Self::Unavailable => 4000,
            Self::CredentialExpired => 4001,
            Self::TooSlow => 4008,
            Self::RateLimited => 4013,
            Self::BadCredential | Self::NoCredential => 4500,
            Self::Forbidden => 4507,
            Self::Protocol(_) => 4509,
        }
    }

    pub(crate) fn reason(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::ShuttingDown { retry_after_ms } => {
                return Cow::Owned(format!("shutting down; retry_after_ms={retry_after_ms}"));
            }
            Self::Unavailable => "the database can't be read now",
            Self::CredentialExpired => "the credential has expired, or was revoked",
            Self::TooSlow => "too slow",
            Self::RateLimited => "too many failed authentications from this address",
            Self::BadCredential => "bad credential",
            Self::NoCredential => "no credential came in time",
            Self::Forbidden => "the credential lacks the scope jobs:read",
            Self::Protocol(what) => what,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_subscription_is_read_with_or_without_a_position() {
        let bare: ClientFrame = serde_json::from_str(r#"{"type":"subscribe","stream":"job:x"}"#).expect("a frame");
        assert!(matches!(bare, ClientFrame::Subscribe { after: None, epoch: None, types: None, .. }));
        let full = r#"{"type":"subscribe","id":1,"stream":"job:x","epoch":"e","after":3,"types":["text"]}"#;
        let full: ClientFrame = serde_json::from_str(full).expect("a frame");
        assert!(
            matches!(full, ClientFrame::Subscribe { after: Some(3), types: Some(t), .. } if t == [EventType::Text])
        );
    }

    #[test]
    fn a_snapshot_keeps_its_fields_beside_its_type() {
        let snapshot = json!({"stream": "job:x", "first_seq": 1});
        let text = ServerFrame::Snapshot(&snapshot).text();
        let read: Value = serde_json::from_str(&text).expect("json");
        assert_eq!(read, json!({"type": "snapshot", "stream": "job:x", "first_seq": 1}));
    }

    #[test]
    fn codes_that_invite_to_reconnect_lie_below_4500() {
        for close in [
            Close::ShuttingDown { retry_after_ms: 7 },
            Close::CredentialExpired,
            Close::TooSlow,
            Close::RateLimited,
            Close::Unavailable,
        ] {
            assert!((4000..4500).contains(&close.code()), "{close:?}");
        }
        assert_eq!(Close::ShuttingDown { retry_after_ms: 7 }.reason(), "shutting down; retry_after_ms=7");
        for close in [Close::BadCredential, Close::NoCredential, Close::Forbidden, Close::Protocol("x")] {
            assert!((4500..5000).contains(&close.code()), "{close:?}");
        }
    }
}
