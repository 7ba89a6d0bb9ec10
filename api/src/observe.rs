//! Around every request: its id, its span, the size of its head, and the rendering of problems.

use std::{any::Any, sync::Arc, time::Instant};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri},
    middleware::Next,
    response::Response,
};
use errand_common::telemetry::trace::{self, Span};
use tracing::Instrument;

use crate::{problem::Problem, traced};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id a client may give its request.
const REQUEST_ID_CHARS: usize = 128;

/// `head_limit`: most bytes of the request line and headers.
pub(crate) async fn observe(State(head_limit): State<usize>, request: Request, next: Next) -> Response {
    let id: Arc<str> = sane(request.headers()).map_or_else(|| uuid::Uuid::now_v7().to_string().into(), Arc::from);
    // The path without its query: a query may hold what must not be logged.
    let span = tracing::info_span!(
        "http.request", method = %request.method(), path = request.uri().path(), request_id = %id
    );
    let started = Instant::now();
    let mut traced = traced::request(&request);
    let context = traced.as_ref().and_then(Span::context).cloned();
    let head = head_bytes(request.uri(), request.headers());
    let mut response = if head > head_limit {
        let response = too_large(head, head_limit);
        axum::response::IntoResponse::into_response(response)
    } else {
        trace::within(context.clone(), next.run(request).instrument(span.clone())).await
    };
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let headers = std::mem::take(response.headers_mut());
        response = problem.render(&id);
        for (name, value) in headers {
            if let Some(name) = name
                && name != axum::http::header::CONTENT_LENGTH
            {
                response.headers_mut().entry(name).or_insert(value);
            }
        }
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if let Some(traced) = &mut traced {
        traced::answered(traced, response.status());
    }
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let status = response.status().as_u16();
    trace::within(context, async { span.in_scope(|| tracing::debug!(status, duration_ms, "answered")) }).await;
    response
}

fn sane(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let fits = (1..=REQUEST_ID_CHARS).contains(&id.len());
    (fits && id.bytes().all(|b| b.is_ascii_graphic())).then_some(id)
}

/// What the head of a request takes on the wire, near enough.
fn head_bytes(uri: &Uri, headers: &HeaderMap) -> usize {
    let target = uri.path_and_query().map_or(1, |target| target.as_str().len());
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>() + target
}

fn too_large(found: usize, allowed: usize) -> Problem {
    let detail = format!("The request line and headers take {found} bytes; at most {allowed} are allowed");
    Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", detail)
        .with("header:*", format!("all headers together may take {allowed} bytes"))
}

/// What a panic in a handler answers.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands it over by value")]
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(panic = message, "a handler panicked");
    axum::response::IntoResponse::into_response(Problem::internal())
}
