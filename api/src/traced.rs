//! Requests and submissions in their trace.

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, Method, StatusCode},
};
use errand_common::{
    domain::{Job, TraceContext},
    port::store::{NewJob, Received},
    telemetry::trace::{self, Kind, Span, TRACEPARENT, TRACESTATE},
};
use reqwest::Url;

/// Asked again and again by machines: nobody looks for them in a trace.
const UNTRACED: &[&str] = &["/livez", "/readyz", "/metrics", "/scaling"];

/// The span of a request; `None`: it has none. It tells the route, never the path or the query.
pub(crate) fn request(request: &Request) -> Option<Span> {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    if route.is_some_and(|route| UNTRACED.contains(&route)) {
        return None;
    }
    let method = known(request.method());
    let mut span = Span::server(client(request.headers()), || match route {
        Some(route) => format!("{method} {route}"),
        None => method.to_owned(),
    });
    span.set("http.request.method", method);
    if let Some(route) = route {
        span.set("http.route", route);
    }
    Some(span)
}

/// A client may invent methods without end.
fn known(method: &Method) -> &str {
    const KNOWN: &[Method] =
        &[Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    if KNOWN.contains(method) { method.as_str() } else { "_OTHER" }
}

/// A request was answered.
pub(crate) fn answered(span: &mut Span, status: StatusCode) {
    span.set("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.fail(status.as_str());
    }
}

/// The client's own span, if it told of one, once, and as the specification says.
fn client(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parents = headers.get_all(TRACEPARENT).into_iter();
    let (parent, None) = (parents.next()?.to_str().ok()?, parents.next()) else { return None };
    let states = headers.get_all(TRACESTATE).into_iter().map(|state| state.to_str());
    let states = states.collect::<Result<Vec<_>, _>>().unwrap_or_default().join(",");
    TraceContext::parse(parent, Some(&states))
}

/// The span of handing jobs over. They belong to it, but for those that repeat others. `None`: there are none.
pub(crate) fn submission(jobs: &mut [NewJob]) -> Option<Span> {
    let first = jobs.first()?;
    let of_one_kind = jobs.iter().all(|job| job.kind == first.kind);
    let mut span =
        Span::child(Kind::Producer, || format!("submit {}", if of_one_kind { &first.kind } else { "batch" }));
    span.set("messaging.system", "errand");
    span.set("messaging.operation.type", "send");
    span.set("messaging.operation.name", "submit");
    span.set("messaging.destination.name", first.queue.as_str());
    if let [job] = &*jobs {
        span.set_with("messaging.message.id", || job.id.to_string());
        span.set_with("errand.job.id", || job.id.to_string());
        span.set("errand.job.kind", job.kind.as_str());
    } else {
        span.set("messaging.batch.message_count", u32::try_from(jobs.len()).unwrap_or(u32::MAX));
    }
    for job in jobs {
        job.trace = job.trace.take().or_else(|| span.context().cloned());
    }
    Some(span)
}

/// The span of one question to the server that turns speech into text.
pub(crate) fn transcription(url: &Url, model: &str) -> Span {
    let mut span = Span::child(Kind::Client, || format!("transcribe {model}"));
    span.set("gen_ai.operation.name", "transcribe");
    span.set("gen_ai.provider.name", "openai");
    span.set("gen_ai.request.model", model);
    span.set("server.address", url.host_str().unwrap_or_default());
    span.set("server.port", url.port_or_known_default().unwrap_or_default());
    span
}

/// What a bridge says of a job, in the job's trace; the request that said it may belong to another.
pub(crate) fn callback(job: &Job, ordinal: u32) -> Span {
    let mut span = Span::of_job(job, Kind::Consumer, || "callback".to_owned());
    if let Some(request) = trace::current() {
        span.link(&request);
    }
    span.set_with("errand.job.id", || job.id.to_string());
    span.set("errand.job.kind", job.kind.as_str());
    span.set("errand.effect.ordinal", ordinal);
    span
}

/// What it counted for.
pub(crate) fn received(span: &mut Span, received: Received) {
    let (word, counts) = match received {
        Received::Accepted => ("accepted", true),
        Received::Repeated => ("repeated", true),
        Received::Unknown => ("unknown", false),
        Received::Superseded => ("superseded", false),
        Received::Late => ("late", false),
    };
    span.set("errand.callback.received", word);
    if !counts {
        span.fail(word);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_clients_trace_is_taken_as_the_specification_says() {
        let mut headers = HeaderMap::new();
        assert_eq!(client(&headers), None);
        headers.append(TRACEPARENT, HeaderValue::from_static(PARENT));
        headers.append(TRACESTATE, HeaderValue::from_static("a=1"));
        headers.append(TRACESTATE, HeaderValue::from_static("b=2"));
        let context = client(&headers).expect("valid");
        assert_eq!((context.traceparent().as_str(), context.tracestate()), (PARENT, Some("a=1,b=2")));
        headers.append(TRACEPARENT, HeaderValue::from_static(PARENT));
        assert_eq!(client(&headers), None, "two of them say nothing");
        headers.insert(TRACEPARENT, HeaderValue::from_static("hello"));
        assert_eq!(client(&headers), None);
    }

    #[tokio::test]
    async fn jobs_belong_to_the_request_but_for_those_that_repeat_others() {
        let context = TraceContext::parse(PARENT, None);
        let other = TraceContext::of_job(errand_common::domain::JobId::new());
        let mut jobs = vec![crate::task::tests::any_job(); 2];
        jobs[1].trace = Some(other.clone());
        trace::within(context.clone(), async { drop(submission(&mut jobs)) }).await;
        assert_eq!((&jobs[0].trace, &jobs[1].trace), (&context, &Some(other)));
        let mut alone = vec![crate::task::tests::any_job()];
        drop(submission(&mut alone));
        assert_eq!(alone[0].trace, None, "nothing is kept of no trace");
        assert!(submission(&mut []).is_none());
    }
}
