//! What an answer means: for the job, for its destination, and for the receipt.

use chrono::Utc;
use errand_common::{
    domain::{FailureClass, gate::Verdict},
    wire::http::HttpPayload,
};
use reqwest::{Response, header::HeaderMap};
use serde_json::{Map, Value, json};

use super::doubt;
use crate::{
    effect::{End, Sent},
    retry_after::retry_after,
};

/// Most bytes of an answer's headers that are kept.
const HEADERS_LIMIT: usize = 16 * 1024;
/// Most bytes of a refusal's body that are kept with its receipt.
const WORDS_LIMIT: usize = 1_024;

/// Reads an answer and judges it.
pub(super) async fn judge(payload: &HttpPayload, place: &str, response: Response, limit: usize) -> Sent {
    let status = response.status().as_u16();
    let (headers, pause) = (kept(response.headers()), retry_after(response.headers(), Utc::now()));
    if payload.expects(status) {
        return match read(response, limit).await {
            Ok(body) => {
                let mut result = json!({"status": status, "headers": headers, "body": body.value});
                if body.cut_off {
                    result["body_cut_off"] = true.into();
                }
                Sent { end: End::Done(result), verdict: Verdict::Success, pause: None }
            }
            // What is missing of it can be had by asking again.
            Err(reason) => doubt(format!("{place} answered {status} and broke off: {reason}")),
        };
    }
    let (class, code) = classify(status);
    let pause = pause.filter(|_| matches!(class, FailureClass::Transient | FailureClass::RateLimited));
    // A refusal whose body does not come is judged by its status alone.
    let words = read(response, WORDS_LIMIT).await.map(|body| body.value).unwrap_or_default();
    let hint = if (300..400).contains(&status) { ": redirects are not followed" } else { "" };
    let message = format!("{place} answered {status}{hint}");
    let answer = json!({"status": status, "headers": headers, "body": words});
    Sent { end: End::Failed { class, code, message, answer }, verdict: verdict(status), pause }
}

/// Whether another attempt may help.
const fn classify(status: u16) -> (FailureClass, &'static str) {
    match status {
        401 | 403 => (FailureClass::Auth, "REFUSED"),
        429 => (FailureClass::RateLimited, "RATE_LIMITED"),
        408 | 409 | 425 | 500.. => (FailureClass::Transient, "FAILED"),
        400..=499 => (FailureClass::Invalid, "REFUSED"),
        _ => (FailureClass::Invalid, "UNEXPECTED_STATUS"),
    }
}

/// A destination that refuses does its work; one that asks for patience says nothing of its health.
const fn verdict(status: u16) -> Verdict {
    match status {
        408 | 409 | 425 | 429 => Verdict::Neutral,
        500.. => Verdict::Failure,
        _ => Verdict::Success,
    }
}

fn kept(headers: &HeaderMap) -> Value {
    let (mut kept, mut bytes) = (Map::new(), 0);
    for name in headers.keys() {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        let text = values.join(", ");
        bytes += name.as_str().len() + text.len();
        if bytes <= HEADERS_LIMIT {
            kept.insert(name.as_str().to_owned(), text.into());
        }
    }
    Value::Object(kept)
}

struct Body {
    value: Value,
    cut_off: bool,
}

/// The body as JSON, or as text if it is none; its first `limit` bytes.
async fn read(mut response: Response, limit: usize) -> Result<Body, String> {
    let mut bytes = Vec::new();
    let mut cut_off = false;
    while let Some(piece) = response.chunk().await.map_err(|error| innermost(&error))? {
        let room = limit - bytes.len();
        bytes.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            cut_off = true;
            break;
        }
    }
    let text = || String::from_utf8_lossy(&bytes).replace('\0', "\u{FFFD}");
    let value = match serde_json::from_slice(&bytes) {
        _ if bytes.is_empty() => Value::Null,
        Ok(value) if !cut_off => value,
        _ => text().into(),
    };
    Ok(Body { value, cut_off })
}

/// The outer causes repeat the URL, which may hold a secret.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_their_classes_and_verdicts() {
        for (status, class, verdict_of_it) in [
            (204, FailureClass::Invalid, Verdict::Success),
            (302, FailureClass::Invalid, Verdict::Success),
            (400, FailureClass::Invalid, Verdict::Success),
            (401, FailureClass::Auth, Verdict::Success),
            (403, FailureClass::Auth, Verdict::Success),
            (404, FailureClass::Invalid, Verdict::Success),
            (408, FailureClass::Transient, Verdict::Neutral),
            (409, FailureClass::Transient, Verdict::Neutral),
            (422, FailureClass::Invalid, Verdict::Success),
            (425, FailureClass::Transient, Verdict::Neutral),
            (429, FailureClass::RateLimited, Verdict::Neutral),
            (500, FailureClass::Transient, Verdict::Failure),
            (503, FailureClass::Transient, Verdict::Failure),
            (599, FailureClass::Transient, Verdict::Failure),
        ] {
            assert_eq!((classify(status).0, verdict(status)), (class, verdict_of_it), "{status}");
        }
    }
}
