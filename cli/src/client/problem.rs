//! What a server says when it refuses: RFC 9457 documents, in words for people.

use std::{fmt, time::Duration};

use reqwest::{StatusCode, header::HeaderMap};
use serde::Deserialize;

/// A refusal.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) retry_after: Option<Duration>,
    document: Document,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    title: Option<String>,
    detail: Option<String>,
    code: Option<String>,
    retryable: Option<bool>,
    errors: Vec<Item>,
    request_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Item {
    #[serde(default)]
    pointer: String,
    #[serde(default)]
    detail: String,
}

impl Problem {
    /// Reads a refusal; a body that is no problem document is quoted.
    pub(super) fn read(status: StatusCode, retry_after: Option<Duration>, body: &str) -> Self {
        let document = serde_json::from_str(body).unwrap_or_else(|_| Document {
            detail: Some(body.trim().chars().filter(|c| !c.is_control()).take(200).collect()),
            ..Document::default()
        });
        Self { status, retry_after, document }
    }

    /// The stable name of the fault.
    pub(crate) fn code(&self) -> &str {
        self.document.code.as_deref().unwrap_or_default()
    }

    /// Whether asking again, later, may help.
    pub(super) fn may_pass(&self) -> bool {
        let by_status = matches!(self.status.as_u16(), 429 | 502 | 503 | 504);
        self.document.retryable.unwrap_or(by_status) || self.code() == "idempotency_in_flight"
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let document = &self.document;
        let said = document.detail.as_deref().or(document.title.as_deref()).filter(|text| !text.is_empty());
        match said {
            Some(text) => f.write_str(text)?,
            None => write!(f, "the server answered {}", self.status)?,
        }
        // A single fault is often the detail itself.
        for item in document.errors.iter().filter(|item| !said.is_some_and(|said| said.contains(&item.detail))) {
            write!(f, "\n  {}: {}", if item.pointer.is_empty() { "/" } else { &item.pointer }, item.detail)?;
        }
        match self.status {
            StatusCode::UNAUTHORIZED => {
                write!(f, "\n  pass a key with --key or ERRAND_API_KEY; `errand dev` prints the one it accepts")
            }
            status if status.is_server_error() => match &document.request_id {
                Some(id) => write!(f, " (request {id})"),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

/// The seconds of `Retry-After`.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get("retry-after")?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_by_its_detail_and_each_of_its_errors() {
        let body = r#"{"title":"Bad Request","status":400,"detail":"The body is not valid.","code":"invalid",
            "errors":[{"pointer":"/prompt","detail":"must not be blank"},{"pointer":"/priority","detail":"0 to 3"}]}"#;
        let problem = Problem::read(StatusCode::BAD_REQUEST, None, body);
        assert_eq!(problem.to_string(), "The body is not valid.\n  /prompt: must not be blank\n  /priority: 0 to 3");
        assert_eq!(problem.code(), "invalid");
    }

    #[test]
    fn a_fault_that_the_detail_tells_is_not_told_again() {
        let body = r#"{"status":400,"detail":"/prompt: must not be blank",
            "errors":[{"pointer":"/prompt","detail":"must not be blank"}]}"#;
        assert_eq!(Problem::read(StatusCode::BAD_REQUEST, None, body).to_string(), "/prompt: must not be blank");
    }

    #[test]
    fn what_is_no_problem_document_is_quoted_in_short() {
        let problem = Problem::read(StatusCode::BAD_GATEWAY, None, "<html>\x1b[1mBad gateway</html>");
        assert_eq!(problem.to_string(), "<html>[1mBad gateway</html>");
        assert!(problem.may_pass());
        assert_eq!(Problem::read(StatusCode::NOT_FOUND, None, "").to_string(), "the server answered 404 Not Found");
    }
}
