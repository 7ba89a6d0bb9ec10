//! What a server's refusals and faults mean: whether to try again, when, and what to tell people.

use std::time::Duration;

use errand_common::{config::Secret, domain::FailureClass};
use reqwest::StatusCode;

use super::wire::ErrorBody;
use crate::engine::{
    TurnFailure, code,
    text::{excerpt, without_nul},
};

/// Most of a server's own words in a message, in bytes.
const WORDS_LIMIT: usize = 300;

/// An answer other than 2xx.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: ErrorBody,
    pub(super) retry_after: Option<Duration>,
    pub(super) key: Option<Secret>,
    /// No answer at all.
    pub(super) failure: Option<TurnFailure>,
}

impl Refusal {
    /// No answer came.
    pub(super) fn without_answer(failure: TurnFailure) -> Self {
        let (status, error) = (StatusCode::default(), ErrorBody::default());
        Self { status, error, retry_after: None, key: None, failure: Some(failure) }
    }

    /// Whether the request was refused for its parameter `name`.
    pub(super) fn names(&self, name: &str) -> bool {
        let invalid = matches!(self.status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY);
        invalid && (self.error.param.contains(name) || self.error.message.contains(name))
    }

    pub(super) fn into_failure(self) -> TurnFailure {
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
        TurnFailure { class, code, message: format!("the server {what}"), retry_after: self.retry_after }
    }
}

/// By status, unless the error itself says that money is missing.
fn classify(status: u16, error: &ErrorBody) -> (FailureClass, &'static str) {
    if [&error.code, &error.kind].iter().any(|name| name.as_str() == "insufficient_quota") {
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
pub(super) fn in_stream(error: &ErrorBody, key: Option<&Secret>) -> TurnFailure {
    let names = [error.code.as_str(), error.kind.as_str()];
    let named = |part: &str| names.iter().any(|name| name.contains(part));
    let status = match error.code.parse::<u16>().ok().filter(|status| (400..600).contains(status)) {
        Some(status) => status,
        None if named("rate_limit") => 429,
        None if named("authentication") || named("invalid_api_key") => 401,
        None if named("invalid_request") || named("context_length") || named("model_not_found") => 400,
        None => 500,
    };
    let (class, code) = classify(status, error);
    TurnFailure::new(class, code, format!("the server broke off its answer{}", words(error, key)))
}

/// Nothing came for so long.
pub(super) fn silent(limit: Duration) -> TurnFailure {
    let message = format!("the server said nothing for {} s", limit.as_secs());
    TurnFailure::new(FailureClass::Transient, code::ENGINE_TIMEOUT, message)
}

/// The answer is over its limit.
pub(super) fn too_long(limit: usize) -> TurnFailure {
    let message = format!("the answer is longer than its limit of {} KiB (`answer_limit_kib`)", limit / 1024);
    TurnFailure::new(FailureClass::Fatal, code::OUTPUT_LIMIT, message)
}

/// The connection could not be made, or broke.
pub(super) fn transport(what: &str, error: &reqwest::Error) -> TurnFailure {
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
