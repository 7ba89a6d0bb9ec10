//! Errors as clients see them: RFC 9457 documents. Nothing of the inside gets into one.

use std::{borrow::Cow, error::Error, fmt::Write as _};

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use errand_common::port::StoreError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::limit;

/// What is wrong with one part of a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub(crate) struct FieldError {
    /// A JSON pointer into the body (`/maxTurns`), or `query:<name>`, `path:<name>`, `header:<name>`.
    #[schema(example = "/maxTurns")]
    pub(crate) pointer: String,
    /// What is wrong, and what is allowed.
    pub(crate) detail: String,
}

impl FieldError {
    pub(crate) fn new(pointer: &str, detail: impl Into<String>) -> Self {
        Self { pointer: excerpt(pointer.to_owned()), detail: excerpt(detail.into()) }
    }
}

/// A text that may hold what the client sent, cut to a length that an answer can bear.
fn excerpt(mut text: String) -> String {
    if text.len() > limit::FAULT_BYTES {
        text.truncate(text.floor_char_boundary(limit::FAULT_BYTES));
        text.push('…');
    }
    text
}

/// An error, as `application/problem+json`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// `urn:errand:problem:` and the code.
    #[serde(rename = "type")]
    problem_type: String,
    /// The HTTP status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// One sentence for people.
    detail: String,
    /// Stable, for programs.
    #[schema(example = "invalid_request")]
    code: String,
    /// Whether the same request may succeed later.
    retryable: bool,
    /// Names the request in the server's log.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// The fields that are wrong; the first 20 of them.
    errors: Vec<FieldError>,
}

/// An error on its way out. [`crate::observe`] renders it, because that knows the request's id.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) detail: Cow<'static, str>,
    pub(crate) retryable: bool,
    pub(crate) errors: Vec<FieldError>,
    retry_after: Option<u64>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), retryable: false, errors: Vec::new(), retry_after: None }
    }

    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retryable = true;
        self.retry_after = Some(seconds);
        self
    }

    pub(crate) fn with(mut self, pointer: impl AsRef<str>, detail: impl Into<String>) -> Self {
        self.errors.push(FieldError::new(pointer.as_ref(), detail));
        self
    }

    /// The same under another code.
    pub(crate) fn coded(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// 400 with every fault found.
    pub(crate) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [only] => format!("{}: {}", only.pointer, only.detail),
            several => format!("{} parts of the request are wrong; see errors", several.len()),
        };
        Self { errors, ..Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail) }
    }

    /// The same about something that lies deeper in the body, at `pointer`.
    pub(crate) fn below(mut self, pointer: &str) -> Self {
        for error in &mut self.errors {
            error.pointer.insert_str(0, pointer);
        }
        if self.status == StatusCode::BAD_REQUEST { Self::invalid(self.errors).coded(self.code) } else { self }
    }

    /// 400 with one fault.
    pub(crate) fn field(pointer: impl AsRef<str>, detail: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError::new(pointer.as_ref(), detail)])
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("{what} not found"))
    }

    /// 404 of a thing that has an id.
    pub(crate) fn no_such(what: &str, id: impl std::fmt::Display) -> Self {
        Self::not_found(&format!("{what} {id}"))
    }

    pub(crate) fn unauthenticated(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    pub(crate) fn unavailable(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(limit::RETRY_AFTER_SECONDS)
    }

    /// 500. Say in the log what happened before making one: nothing of it may reach the client.
    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Errand failed at this; its log says more")
    }

    pub(crate) fn body(&self, request_id: Option<&str>) -> ProblemBody {
        ProblemBody {
            problem_type: format!("urn:errand:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone().into_owned(),
            code: self.code.to_owned(),
            retryable: self.retryable,
            request_id: request_id.map(str::to_owned),
            errors: self.errors.clone(),
        }
    }

    pub(crate) fn render(&self, request_id: &str) -> Response {
        let body = serde_json::to_vec(&self.body(Some(request_id))).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if let StoreError::Unavailable(_) = error {
            tracing::warn!(error = chain(&error), "the store is unavailable");
            return Self::unavailable("store_unavailable", "The database can't be reached now; nothing was done");
        }
        tracing::error!(error = chain(&error), "the store failed");
        Self::internal()
    }
}

/// What is wrong in a body, a path or a query is 422 where the clients of an interface expect that. A wrong header stays 400.
pub(crate) async fn unprocessable(mut response: Response) -> Response {
    let Some(problem) = response.extensions_mut().get_mut::<Problem>() else { return response };
    let is_header = |error: &FieldError| error.pointer.starts_with("header:");
    if problem.status != StatusCode::BAD_REQUEST || problem.errors.iter().all(is_header) {
        return response;
    }
    problem.status = StatusCode::UNPROCESSABLE_ENTITY;
    *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
    response
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// Collects the faults of a request, so that the client sees them at once: the first [`limit::FAULTS`] of them, or an
/// answer could be many times as large as the request.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<FieldError>);

impl Faults {
    pub(crate) fn add(&mut self, pointer: impl AsRef<str>, detail: impl Into<String>) {
        if !self.full() {
            self.0.push(FieldError::new(pointer.as_ref(), detail));
        }
    }

    /// Further faults are not told.
    pub(crate) const fn full(&self) -> bool {
        self.0.len() >= limit::FAULTS
    }

    pub(crate) fn check(&mut self, holds: bool, pointer: &str, detail: impl FnOnce() -> String) {
        if !holds {
            self.add(pointer, detail());
        }
    }

    pub(crate) fn finish(self) -> Result<(), Problem> {
        if self.0.is_empty() { Ok(()) } else { Err(Problem::invalid(self.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_away_answers_503_and_says_when_to_come_again() {
        let problem = Problem::from(StoreError::Unavailable("connection refused to 10.0.0.7".into()));
        let response = problem.render("r1");
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert!(problem.retryable && !problem.detail.contains("10.0.0.7"));
    }

    #[test]
    fn an_answer_is_bounded_however_much_is_wrong() {
        let mut faults = Faults::default();
        for _ in 0..10_000 {
            faults.add("/ä".repeat(100_000), "ß".repeat(100_000));
        }
        let problem = faults.finish().expect_err("faults");
        assert_eq!(problem.errors.len(), limit::FAULTS);
        let size = serde_json::to_string(&problem.body(None)).expect("json").len();
        assert!(size < 3 * limit::FAULTS * limit::FAULT_BYTES, "{size}");
    }

    #[test]
    fn a_defect_shows_nothing_of_the_inside() {
        let problem = Problem::from(StoreError::Refused("no such column: payload".into()));
        let text = serde_json::to_string(&problem.body(Some("r1"))).expect("json");
        assert_eq!(problem.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!text.contains("column") && text.contains("r1"), "{text}");
    }
}
