//! Calls to the outside in their trace: the span of one, and the headers that hand it on.

use errand_common::telemetry::trace::{self, Kind, Span, TRACEPARENT};
use reqwest::{
    Method, StatusCode, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};

/// The span of an HTTP call. Its path and its query are not told: they may hold a secret.
pub(crate) fn call(method: &Method, url: &Url) -> Span {
    let mut span = Span::child(Kind::Client, || method.to_string());
    span.set("http.request.method", method.as_str());
    at(&mut span, url);
    span
}

/// Where a call goes.
pub(crate) fn at(span: &mut Span, url: &Url) {
    span.set("server.address", url.host_str().unwrap_or_default());
    span.set("server.port", url.port_or_known_default().unwrap_or_default());
}

/// The head of its answer came.
pub(crate) fn answered(span: &mut Span, status: StatusCode) {
    span.set("http.response.status_code", status.as_u16());
    if status.is_client_error() || status.is_server_error() {
        span.fail(status.as_str());
    }
}

/// Hands the trace of the work at hand on, unless the headers name one.
pub(crate) fn carry(headers: &mut HeaderMap) {
    if headers.contains_key(TRACEPARENT) {
        return;
    }
    for (name, value) in trace::carried() {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.entry(HeaderName::from_static(name)).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use errand_common::domain::{JobId, TraceContext};

    use super::*;

    #[tokio::test]
    async fn a_header_of_the_clients_own_wins() {
        let job = JobId::new();
        let context = TraceContext::of_job(job).run(job, 1);
        let expected = context.traceparent();
        trace::within_run(Some(context), job, async {
            let mut headers = HeaderMap::new();
            carry(&mut headers);
            assert_eq!(headers[TRACEPARENT], expected);
            headers.insert(TRACEPARENT, HeaderValue::from_static("mine"));
            carry(&mut headers);
            assert_eq!(headers[TRACEPARENT], "mine");
        })
        .await;
        let mut headers = HeaderMap::new();
        carry(&mut headers);
        assert!(headers.is_empty(), "outside of any work");
    }
}
