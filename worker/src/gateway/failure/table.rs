//! What gateways' refusals, silences and closed connections mean: one table, from codes to classes.
//!
//! Codes and details decide; words are looked at only where a gateway gives nothing else.

use std::time::Duration;

use errand_common::domain::FailureClass::{self, Ambiguous, Auth, Invalid, RateLimited, Transient};
use serde_json::Value;

use super::{GatewayFailure, code};
use crate::gateway::frame::ErrorFrame;

/// By the finer word in an error's details; `*` at the end stands for any rest.
const BY_DETAIL: &[(&str, FailureClass, &str)] = &[
    ("AUTH_RATE_LIMITED", RateLimited, code::RATE_LIMITED),
    ("AUTH_SCOPE_MISMATCH", Auth, code::SCOPE),
    ("AUTH_*", Auth, code::AUTH),
    ("DEVICE_AUTH_*", Auth, code::AUTH),
    ("DEVICE_IDENTITY_REQUIRED", Auth, code::NOT_PAIRED),
    ("CONTROL_UI_DEVICE_IDENTITY_REQUIRED", Auth, code::NOT_PAIRED),
    ("CONTROL_UI_ORIGIN_NOT_ALLOWED", Auth, code::AUTH),
    ("PAIRING_REQUIRED", Auth, code::NOT_PAIRED),
    ("MISSING_SCOPE", Auth, code::SCOPE),
    ("PROTOCOL_MISMATCH", Invalid, code::PROTOCOL),
    ("CLIENT_VERSION_MISMATCH", Invalid, code::PROTOCOL),
    ("CONTROL_UI_BUILD_MISMATCH", Invalid, code::PROTOCOL),
    ("UNKNOWN_AGENT_ID", Invalid, code::UNKNOWN_AGENT),
    ("agent_file_conflict", Invalid, code::FILE_CHANGED),
    ("chat-request-conflict", Invalid, code::KEY_REUSED),
    ("gateway-restarting", Transient, code::RESTARTING),
    ("startup-sidecars", Transient, code::RESTARTING),
    ("OUTBOUND_DELIVERY_QUEUED", Ambiguous, code::QUEUED_THERE),
];

/// By what an error says, in lower case, where its code and details say too little.
const BY_WORDS: &[(&str, FailureClass, &str)] = &[
    ("unknown method", Invalid, code::UNKNOWN_METHOD),
    ("no longer exists in configuration", Invalid, code::UNKNOWN_AGENT),
    ("unknown agent id", Invalid, code::UNKNOWN_AGENT),
    ("\" not found", Invalid, code::UNKNOWN_AGENT),
    ("session not found", Invalid, code::UNKNOWN_SESSION),
    ("already exists", Invalid, code::ALREADY_EXISTS),
    ("unsupported file", Invalid, code::UNSUPPORTED_FILE),
    ("label already in use", Invalid, code::LABEL_TAKEN),
    ("config changed since", Invalid, code::CONFIG_CHANGED),
    ("generation was superseded", Transient, code::SUPERSEDED),
    ("rate limit exceeded", RateLimited, code::RATE_LIMITED),
    ("gateway starting", Transient, code::RESTARTING),
    ("pairing required", Auth, code::NOT_PAIRED),
    ("protocol mismatch", Invalid, code::PROTOCOL),
    ("unauthorized", Auth, code::AUTH),
];

/// By an error's code alone.
const BY_CODE: &[(&str, FailureClass, &str)] = &[
    ("INVALID_REQUEST", Invalid, code::REFUSED),
    ("FORBIDDEN", Auth, code::SCOPE),
    ("NOT_PAIRED", Auth, code::NOT_PAIRED),
    ("UNAVAILABLE", Transient, code::UNAVAILABLE),
    ("AGENT_TIMEOUT", Transient, code::TIMEOUT),
    ("NOT_LINKED", Invalid, code::REFUSED),
];

/// By the code of a close frame.
const BY_CLOSE: &[(u16, FailureClass, &str)] = &[
    (1002, Invalid, code::PROTOCOL),
    (1009, Invalid, code::TOO_LARGE),
    (1012, Transient, code::RESTARTING),
    (1013, Transient, code::RESTARTING),
];

/// Most of a gateway's own words in a message, in bytes.
const WORDS_LIMIT: usize = 500;
/// Longest pause that a gateway may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// What a gateway's error means.
pub(in crate::gateway) fn refused(error: &ErrorFrame) -> GatewayFailure {
    let (class, code) = classify(error);
    let mut message = match error.message.trim() {
        "" if error.code.is_empty() => "Gateway error".to_owned(),
        "" => format!("Gateway error {}", cut(&error.code)),
        words => cut(words),
    };
    if let Some(request) = error.details.get("requestId").and_then(Value::as_str)
        && code == code::NOT_PAIRED
    {
        message += &format!("; approve it there with `openclaw devices approve {}`", cut(request));
    }
    let retry_after = error.retry_after_ms.map(|millis| Duration::from_millis(millis).min(LONGEST_PAUSE));
    GatewayFailure { class, code, message, retry_after, details: error.details.clone() }
}

fn classify(error: &ErrorFrame) -> (FailureClass, &'static str) {
    let detail = error.detail();
    let is = |name: &str| name.strip_suffix('*').map_or(detail == name, |start| detail.starts_with(start));
    let words = error.message.to_lowercase();
    let found = BY_DETAIL
        .iter()
        .find(|(name, ..)| !detail.is_empty() && is(name))
        .or_else(|| BY_WORDS.iter().find(|(part, ..)| words.contains(part)))
        .or_else(|| BY_CODE.iter().find(|(code, ..)| *code == error.code));
    match (found, error.retryable) {
        (Some((_, Transient, code::UNAVAILABLE)), Some(true)) => (Transient, code::BUSY),
        (Some((_, class, code)), _) => (*class, code),
        (None, Some(true)) => (Transient, code::UNAVAILABLE),
        (None, _) => (Invalid, code::REFUSED),
    }
}

/// What the words of a turn's failure mean: turns have no codes.
pub(in crate::gateway) fn run_failed(words: &str) -> GatewayFailure {
    let lower = words.to_lowercase();
    let known = BY_WORDS.iter().find(|(part, class, _)| *class == Transient && lower.contains(part));
    let code = known.map_or(code::UNAVAILABLE, |(_, _, code)| code);
    GatewayFailure::new(Transient, code, cut(words))
}

/// The gateway closed a connection that worked: another may work too, whatever it was.
pub(in crate::gateway) fn closed(status: u16, reason: &str) -> GatewayFailure {
    let code = by_close(status).map_or(code::CLOSED, |(_, code)| code);
    GatewayFailure::new(Transient, code, close_words(status, reason))
}

/// The gateway closed the connection instead of greeting.
pub(in crate::gateway) fn turned_away(status: u16, reason: &str) -> GatewayFailure {
    let words = reason.to_lowercase();
    let by_words = BY_WORDS.iter().find(|(part, ..)| words.contains(part)).map(|(_, class, code)| (*class, *code));
    let policy = (status == 1008).then_some((Auth, code::AUTH));
    let (class, code) = by_words.or_else(|| by_close(status)).or(policy).unwrap_or((Transient, code::CLOSED));
    GatewayFailure::new(class, code, close_words(status, reason))
}

fn by_close(status: u16) -> Option<(FailureClass, &'static str)> {
    BY_CLOSE.iter().find(|(known, ..)| *known == status).map(|(_, class, code)| (*class, *code))
}

fn close_words(status: u16, reason: &str) -> String {
    let reason = cut(reason.trim());
    if reason.is_empty() {
        format!("the gateway closed the connection with {status}")
    } else {
        format!("the gateway closed the connection with {status} ({reason})")
    }
}

/// The answer to the upgrade was another than "switching protocols".
pub(in crate::gateway) fn not_upgraded(status: u16, retry_after: Option<Duration>) -> GatewayFailure {
    let (class, code) = match status {
        429 => (RateLimited, code::RATE_LIMITED),
        401 | 403 | 407 => (Auth, code::AUTH),
        408 | 425 | 500.. => (Transient, code::UNREACHABLE),
        _ => (Invalid, code::PROTOCOL),
    };
    let message = format!("the server there answered HTTP {status} instead of opening a WebSocket");
    GatewayFailure { retry_after, ..GatewayFailure::new(class, code, message) }
}

/// Nothing came for so long.
pub(in crate::gateway) fn silent(what: &str, limit: Duration) -> GatewayFailure {
    let message = format!("the gateway did not {what} within {} s: timed out", limit.as_secs_f64());
    GatewayFailure::new(Transient, code::TIMEOUT, message)
}

/// The beginning of a gateway's words, without NUL, which no database keeps.
pub(in crate::gateway) fn cut(words: &str) -> String {
    let mut end = words.len().min(WORDS_LIMIT);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    words[..end].replace('\0', "")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judge(error: Value) -> GatewayFailure {
        refused(&serde_json::from_value(error).expect("an error"))
    }

    #[test]
    fn errors_have_their_classes() {
        for (error, class, code) in [
            (json!({"code": "INVALID_REQUEST", "message": "unknown method: nope"}), Invalid, code::UNKNOWN_METHOD),
            (
                json!({"code": "INVALID_REQUEST", "message": "x", "details": {"code": "AUTH_TOKEN_MISMATCH"}}),
                Auth,
                code::AUTH,
            ),
            (
                json!({"code": "INVALID_REQUEST", "message": "x", "details": {"code": "DEVICE_AUTH_NONCE_MISMATCH"}}),
                Auth,
                code::AUTH,
            ),
            (
                json!({"code": "INVALID_REQUEST", "message": "x", "details": {"code": "AUTH_RATE_LIMITED"}}),
                RateLimited,
                code::RATE_LIMITED,
            ),
            (
                json!({"code": "INVALID_REQUEST", "message": "x", "details": {"code": "PROTOCOL_MISMATCH"}}),
                Invalid,
                code::PROTOCOL,
            ),
            (
                json!({"code": "NOT_PAIRED", "message": "x", "details": {"code": "PAIRING_REQUIRED"}}),
                Auth,
                code::NOT_PAIRED,
            ),
            (json!({"code": "FORBIDDEN", "message": "missing scope: operator.write"}), Auth, code::SCOPE),
            (
                json!({"code": "INVALID_REQUEST", "message": "Agent \"g\" no longer exists in configuration"}),
                Invalid,
                code::UNKNOWN_AGENT,
            ),
            (json!({"code": "INVALID_REQUEST", "message": "agent \"g\" not found"}), Invalid, code::UNKNOWN_AGENT),
            (
                json!({"code": "INVALID_REQUEST", "message": "x", "details": {"reason": "chat-request-conflict"}}),
                Invalid,
                code::KEY_REUSED,
            ),
            (
                json!({"code": "INVALID_REQUEST", "message": "x", "details": {"type": "agent_file_conflict"}}),
                Invalid,
                code::FILE_CHANGED,
            ),
            (json!({"code": "INVALID_REQUEST", "message": "anything new"}), Invalid, code::REFUSED),
            (
                json!({"code": "UNAVAILABLE", "message": "The server is busy.", "retryable": true}),
                Transient,
                code::BUSY,
            ),
            (json!({"code": "UNAVAILABLE", "message": "model said no"}), Transient, code::UNAVAILABLE),
            (
                json!({"code": "UNAVAILABLE", "message": "x", "details": {"reason": "gateway-restarting"}}),
                Transient,
                code::RESTARTING,
            ),
            (
                json!({"code": "UNAVAILABLE", "message": "rate limit exceeded for config.patch; retry after 48s"}),
                RateLimited,
                code::RATE_LIMITED,
            ),
            (
                json!({"code": "UNAVAILABLE", "message": "x", "details": {"code": "OUTBOUND_DELIVERY_QUEUED"}}),
                Ambiguous,
                code::QUEUED_THERE,
            ),
            (json!({"code": "BRAND_NEW", "message": "x", "retryable": true}), Transient, code::UNAVAILABLE),
            (json!({"code": "BRAND_NEW", "message": "x"}), Invalid, code::REFUSED),
            (json!({}), Invalid, code::REFUSED),
        ] {
            let failure = judge(error.clone());
            assert_eq!((failure.class, failure.code), (class, code), "{error}");
            assert!(!failure.message.is_empty());
        }
    }

    #[test]
    fn a_gateways_delay_is_kept_and_bounded() {
        let after =
            |millis: u64| judge(json!({"code": "UNAVAILABLE", "message": "x", "retryAfterMs": millis})).retry_after;
        assert_eq!(after(1_500), Some(Duration::from_millis(1_500)));
        assert_eq!(after(u64::MAX), Some(LONGEST_PAUSE));
    }

    #[test]
    fn its_words_are_kept_short() {
        let failure = judge(json!({"code": "UNAVAILABLE", "message": format!("a\0b{}", "ü".repeat(1_000))}));
        assert!(failure.message.starts_with("abü") && failure.message.len() <= WORDS_LIMIT, "{}", failure.message);
    }

    #[test]
    fn close_codes_have_their_classes() {
        for (status, reason, code) in [
            (1012, "service restart", code::RESTARTING),
            (1013, "", code::RESTARTING),
            (1000, "", code::CLOSED),
            (1008, "slow consumer", code::CLOSED),
            (1009, "", code::TOO_LARGE),
        ] {
            let failure = closed(status, reason);
            assert_eq!((failure.class, failure.code), (Transient, code), "{status}");
        }
        for (status, reason, class, code) in [
            (1008, "pairing required", Auth, code::NOT_PAIRED),
            (1008, "invalid request frame", Auth, code::AUTH),
            (1002, "protocol mismatch", Invalid, code::PROTOCOL),
            (1013, "gateway starting", Transient, code::RESTARTING),
            (1000, "", Transient, code::CLOSED),
        ] {
            let failure = turned_away(status, reason);
            assert_eq!((failure.class, failure.code), (class, code), "{status} {reason}");
        }
    }

    #[test]
    fn statuses_of_the_upgrade_have_their_classes() {
        for (status, class) in [
            (502, Transient),
            (503, Transient),
            (500, Transient),
            (429, RateLimited),
            (403, Auth),
            (404, Invalid),
            (200, Invalid),
        ] {
            assert_eq!(not_upgraded(status, None).class, class, "{status}");
        }
    }
}
