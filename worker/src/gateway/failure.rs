//! What can fail between us and a gateway.

mod table;

use std::time::Duration;

use errand_common::domain::{
    FailureClass::{self, RateLimited, Transient},
    gate::Verdict,
};
use serde_json::Value;

pub(super) use table::{closed, cut, not_upgraded, refused, run_failed, silent, turned_away};

/// What failed, for programs.
pub mod code {
    /// No connection.
    pub const UNREACHABLE: &str = "GATEWAY_UNREACHABLE";
    /// The address may not be called from here.
    pub const ADDRESS_NOT_ALLOWED: &str = "ADDRESS_NOT_ALLOWED";
    /// Its certificate is not trusted.
    pub const TLS: &str = "GATEWAY_TLS";
    /// It speaks another version of the protocol, or none.
    pub const PROTOCOL: &str = "GATEWAY_PROTOCOL";
    /// Token or signature refused.
    pub const AUTH: &str = "GATEWAY_AUTH";
    /// Somebody must pair this device first.
    pub const NOT_PAIRED: &str = "GATEWAY_NOT_PAIRED";
    /// The credential may not do this.
    pub const SCOPE: &str = "GATEWAY_SCOPE";
    /// It is starting or stopping.
    pub const RESTARTING: &str = "GATEWAY_RESTARTING";
    /// It has too much to do.
    pub const BUSY: &str = "GATEWAY_BUSY";
    /// It wants fewer requests.
    pub const RATE_LIMITED: &str = "GATEWAY_RATE_LIMITED";
    /// It, or something that it needs, does not work now; for a message, also how it tells again of a failed turn.
    pub const UNAVAILABLE: &str = "GATEWAY_UNAVAILABLE";
    /// It took a message, and was cut off before the agent heard it.
    pub const INTERRUPTED: &str = "GATEWAY_INTERRUPTED";
    /// No answer in time.
    pub const TIMEOUT: &str = "GATEWAY_TIMEOUT";
    /// The connection ended.
    pub const CLOSED: &str = "GATEWAY_CLOSED";
    /// A frame over its limit.
    pub const TOO_LARGE: &str = "GATEWAY_FRAME_TOO_LARGE";
    /// An answer that can't be read.
    pub const BAD_ANSWER: &str = "GATEWAY_BAD_ANSWER";
    /// It refused the request.
    pub const REFUSED: &str = "GATEWAY_REFUSED";
    /// It has no such method.
    pub const UNKNOWN_METHOD: &str = "GATEWAY_UNKNOWN_METHOD";
    /// It has no such agent, or not yet.
    pub const UNKNOWN_AGENT: &str = "GATEWAY_UNKNOWN_AGENT";
    /// It has no such session.
    pub const UNKNOWN_SESSION: &str = "GATEWAY_UNKNOWN_SESSION";
    /// There is one of that name.
    pub const ALREADY_EXISTS: &str = "GATEWAY_ALREADY_EXISTS";
    /// Agents have no file of that name.
    pub const UNSUPPORTED_FILE: &str = "GATEWAY_UNSUPPORTED_FILE";
    /// The file is another than the one that was to be changed; `details.currentHash` says which.
    pub const FILE_CHANGED: &str = "GATEWAY_FILE_CHANGED";
    /// The configuration is another than the one that was to be changed.
    pub const CONFIG_CHANGED: &str = "GATEWAY_CONFIG_CHANGED";
    /// Another session has that label.
    pub const LABEL_TAKEN: &str = "GATEWAY_LABEL_TAKEN";
    /// The key was used for another message.
    pub const KEY_REUSED: &str = "GATEWAY_KEY_REUSED";
    /// The turn began while agents were being changed, and was given up.
    pub const SUPERSEDED: &str = "GATEWAY_SUPERSEDED";
    /// It could not deliver, and will try again by itself.
    pub const QUEUED_THERE: &str = "GATEWAY_QUEUED_THERE";
    /// This worker has as many connections, or requests in flight, as it may have.
    pub const WORKER_BUSY: &str = "GATEWAY_CONNECTIONS_EXHAUSTED";
    /// This installation's identity at the gateway can't be read now.
    pub const NO_IDENTITY: &str = "GATEWAY_IDENTITY_AWAY";
}

/// Why a request has no good answer.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Unanswered {
    /// Nothing happened: it was refused, or never sent.
    #[error("{0}")]
    Refused(GatewayFailure),
    /// It was sent, and no whole answer came: nobody knows what happened.
    #[error("{0}")]
    Doubt(GatewayFailure),
}

impl Unanswered {
    /// What failed.
    #[must_use]
    pub const fn failure(&self) -> &GatewayFailure {
        match self {
            Self::Refused(failure) | Self::Doubt(failure) => failure,
        }
    }
}

/// What failed.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct GatewayFailure {
    /// Whether another attempt may help.
    pub class: FailureClass,
    /// For programs: one of [`code`].
    pub code: &'static str,
    /// For people; the gateway's own words where it has some.
    pub message: String,
    /// When to come again, if that is known.
    pub retry_after: Option<Duration>,
    /// The details of the gateway's error, or null.
    pub details: Value,
}

impl GatewayFailure {
    pub(super) fn new(class: FailureClass, code: &'static str, message: impl Into<String>) -> Self {
        Self { class, code, message: message.into(), retry_after: None, details: Value::Null }
    }

    pub(super) fn after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// Whether another attempt may do better by itself.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self.class, Transient | RateLimited)
    }

    /// How long it wants to be left alone by all workers, if it asks for that.
    #[must_use]
    pub fn pause(&self) -> Option<Duration> {
        self.retry_after.filter(|_| self.class == RateLimited)
    }

    /// What the gateway's gate is to learn of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.code {
            code::UNREACHABLE | code::TIMEOUT | code::CLOSED | code::TLS | code::PROTOCOL => Verdict::Failure,
            code::RESTARTING | code::BUSY | code::RATE_LIMITED | code::WORKER_BUSY | code::NO_IDENTITY => {
                Verdict::Neutral
            }
            _ => Verdict::Success,
        }
    }

    /// The finer word of the gateway's details.
    pub(super) fn detail(&self) -> &str {
        self.details.get("code").and_then(Value::as_str).unwrap_or_default()
    }
}
