//! What a server's refusals and faults mean: whether to try again, when, and what to tell people.

use std::time::Duration;

use errand_common::{
    config::Secret,
    domain::{FailureClass, gate::Verdict},
};
use reqwest::StatusCode;
use serde_json::Value;

use crate::engine::{
    TurnFailure, code,
    text::{excerpt, without_nul},
};

/// Refusals that no wait ends: someone must raise a limit first.
const SPEND_LIMITS: [&str; 4] = [
    "insufficient_quota",
    "enforced_spend_limit_reached",
    "contract_spend_limit_reached",
    "linked_organization_spend_limit_reached",
];
/// Most of a server's own words in a message, in bytes.
const WORDS_LIMIT: usize = 300;

/// An answer other than 2xx.
#[derive(Debug)]
pub(in crate::engine) struct Refusal {
    pub(in crate::engine) status: StatusCode,
    pub(in crate::engine) error: ErrorBody,
    pub(in crate::engine) retry_after: Option<Duration>,
    /// What the server itself says about sending the request again.
    pub(in crate::engine) should_retry: Option<bool>,
    pub(in crate::engine) key: Option<Secret>,
    /// No answer at all.
    pub(in crate::engine) failure: Option<TurnFailure>,
    /// The request may have reached the server: what it spent is not known.
    pub(in crate::engine) in_doubt: bool,
}

impl Refusal {
    /// No answer came.
    pub(in crate::engine) fn without_answer(failure: TurnFailure, in_doubt: bool) -> Self {
        let (status, error) = (StatusCode::default(), ErrorBody::default());
        Self { status, error, retry_after: None, should_retry: None, key: None, failure: Some(failure), in_doubt }
    }

    /// Whether the same request may do better a little later.
    pub(in crate::engine) fn may_pass(&self) -> bool {
        if let Some(failure) = &self.failure {
            return may_pass(failure);
        }
        let by_status = matches!(self.status.as_u16(), 408 | 409 | 425 | 429 | 500..);
        self.should_retry.unwrap_or(by_status) && classify(self.status.as_u16(), &self.error).0 != FailureClass::Fatal
    }

    /// What the destination's gate is to learn of it, and how long it is to be left alone.
    pub(in crate::engine) fn verdict(&self) -> (Verdict, Option<Duration>) {
        if let Some(failure) = &self.failure {
            return (if may_pass(failure) { Verdict::Failure } else { Verdict::Neutral }, None);
        }
        match self.status.as_u16() {
            408 | 409 | 425 | 429 => (Verdict::Neutral, self.retry_after),
            500.. => (Verdict::Failure, self.retry_after),
            _ => (Verdict::Success, None),
        }
    }

    /// Whether the request was refused for its parameter `name`.
    pub(in crate::engine) fn names(&self, name: &str) -> bool {
        let invalid = matches!(self.status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY);
        invalid && (self.error.param.contains(name) || self.error.message.contains(name))
    }

    pub(in crate::engine) fn into_failure(self) -> TurnFailure {
        if let Some(failure) = self.failure {
            return failure;
        }
        let status = self.status.as_u16();
        let (class, code) = classify(status, &self.error);
        let what = if self.status.is_redirection() {
            "redirects, which is not followed; set `base_url` to the address it redirects to".to_owned()
        } else {
            format!("answered {status}{}", words(&self.error, self.key.as_ref()))
        };
        TurnFailure { retry_after: self.retry_after, ..TurnFailure::new(class, code, format!("the server {what}")) }
    }
}

/// By status, unless the error itself says that money is missing.
fn classify(status: u16, error: &ErrorBody) -> (FailureClass, &'static str) {
    if SPEND_LIMITS.contains(&error.code.as_str()) || SPEND_LIMITS.contains(&error.kind.as_str()) {
        return (FailureClass::Fatal, code::QUOTA_EXHAUSTED);
    }
    match status {
        401 | 403 => (FailureClass::Auth, code::ENGINE_AUTH),
        402 => (FailureClass::Fatal, code::QUOTA_EXHAUSTED),
        429 => (FailureClass::RateLimited, code::RATE_LIMITED),
        408 | 409 | 425 | 500.. => (FailureClass::Transient, code::EXECUTION_ERROR),
        _ => (FailureClass::Invalid, code::INVALID_REQUEST),
    }
}

/// An error in the midst of a stream that began well.
pub(in crate::engine) fn in_stream(error: &ErrorBody, key: Option<&Secret>) -> TurnFailure {
    let names = [error.code.as_str(), error.kind.as_str()];
    let named = |part: &str| names.iter().any(|name| name.contains(part));
    let status = match error.code.parse::<u16>().ok().filter(|status| (400..600).contains(status)) {
        Some(status) => status,
        None if named("rate_limit") => 429,
        None if ["authentication", "permission", "invalid_api_key"].into_iter().any(named) => 401,
        None if named("billing") => 402,
        None if ["invalid_request", "context_length", "not_found", "too_large"].into_iter().any(named) => 400,
        None => 500,
    };
    let (class, code) = classify(status, error);
    TurnFailure::new(class, code, format!("the server broke off its answer{}", words(error, key)))
}

/// Whether another attempt may do better.
pub(in crate::engine) const fn may_pass(failure: &TurnFailure) -> bool {
    matches!(failure.class, FailureClass::Transient | FailureClass::RateLimited)
}

/// Nothing came for so long.
pub(in crate::engine) fn silent(limit: Duration) -> TurnFailure {
    let message = format!("the server said nothing for {} s", limit.as_secs());
    TurnFailure::new(FailureClass::Transient, code::ENGINE_TIMEOUT, message)
}

/// The stream ended before the answer did.
pub(in crate::engine) fn cut_off() -> TurnFailure {
    TurnFailure::new(FailureClass::Transient, code::EXECUTION_ERROR, "the server cut its answer off")
}

/// The answer is over its limit.
pub(in crate::engine) fn too_long(limit: usize) -> TurnFailure {
    let message = format!("the answer is longer than its limit of {} KiB (`answer_limit_kib`)", limit / 1024);
    TurnFailure::new(FailureClass::Fatal, code::OUTPUT_LIMIT, message)
}

/// The connection could not be made, or broke.
pub(in crate::engine) fn transport(what: &str, error: &reqwest::Error) -> TurnFailure {
    // Only the innermost cause is told: the outer ones repeat the address, which may hold a password.
    let mut reason = "no reason was given".to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = cause.to_string();
        source = cause.source();
    }
    let message = format!("{what}: {}", excerpt(&reason, WORDS_LIMIT));
    TurnFailure::new(FailureClass::Transient, code::EXECUTION_ERROR, message)
}

/// The server's own words, bounded, without the key that some servers repeat.
fn words(error: &ErrorBody, key: Option<&Secret>) -> String {
    let message = match key {
        Some(key) => error.message.replace(key.expose(), "***"),
        None => error.message.clone(),
    };
    let words = [message.trim(), error.code.trim()].into_iter().find(|words| !words.is_empty());
    words.map_or_else(String::new, |words| format!(": {}", without_nul(excerpt(words, WORDS_LIMIT))))
}

/// An error as servers put it: an object, or just a string.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct ErrorBody {
    pub(in crate::engine) message: String,
    pub(in crate::engine) kind: String,
    pub(in crate::engine) code: String,
    pub(in crate::engine) param: String,
}

impl From<&Value> for ErrorBody {
    fn from(error: &Value) -> Self {
        if let Some(message) = error.as_str() {
            return Self { message: message.to_owned(), ..Self::default() };
        }
        let text = |value: Option<&Value>| match value {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let code = error.get("code").filter(|code| !code.is_null());
        Self {
            message: text(error.get("message")),
            kind: text(error.get("type")),
            code: text(code.or_else(|| error.pointer("/details/error_code"))),
            param: text(error.get("param")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_their_classes() {
        let class = |status| classify(status, &ErrorBody::default()).0;
        for (status, expected) in [
            (302, FailureClass::Invalid),
            (400, FailureClass::Invalid),
            (401, FailureClass::Auth),
            (402, FailureClass::Fatal),
            (403, FailureClass::Auth),
            (404, FailureClass::Invalid),
            (408, FailureClass::Transient),
            (409, FailureClass::Transient),
            (413, FailureClass::Invalid),
            (422, FailureClass::Invalid),
            (425, FailureClass::Transient),
            (429, FailureClass::RateLimited),
            (500, FailureClass::Transient),
            (529, FailureClass::Transient),
        ] {
            assert_eq!(class(status), expected, "{status}");
        }
        let broke = ErrorBody { code: "insufficient_quota".into(), ..ErrorBody::default() };
        assert_eq!(classify(429, &broke).0, FailureClass::Fatal);
    }

    #[test]
    fn a_key_that_a_server_repeats_is_not_told() {
        let key = Secret::new("sk-secret".to_owned());
        let error = ErrorBody { message: format!("bad key sk-secret {}", "x".repeat(1_000)), ..ErrorBody::default() };
        let told = in_stream(&error, Some(&key)).message;
        assert!(!told.contains("sk-secret") && told.contains("bad key ***") && told.len() < 400, "{told}");
    }
}
