//! A collector on loopback: takes spans as OTLP over HTTP has them, and shows what it was told.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{self as proto, span::SpanKind, status::StatusCode as SpanStatus},
};
use prost::Message;
use tokio::{net::TcpListener, sync::oneshot};

use crate::wait;

/// A span as the collector was told of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Span {
    /// Its trace, in hex.
    pub trace_id: String,
    /// Itself, in hex.
    pub span_id: String,
    /// The span above it, in hex; empty if there is none.
    pub parent: String,
    /// What other tracers carry along.
    pub state: String,
    /// What it is called.
    pub name: String,
    /// Which end of a call it is.
    pub kind: SpanKind,
    /// What is said of it; numbers as text.
    pub attributes: BTreeMap<String, String>,
    /// Traces and spans that it is linked to.
    pub links: Vec<(String, String)>,
    /// It failed.
    pub failed: bool,
    /// What the process said of itself.
    pub resource: BTreeMap<String, String>,
}

impl Span {
    /// An attribute; empty if it is missing.
    #[must_use]
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// How it behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mood {
    Takes,
    Refuses(u16),
    Hangs,
}

#[derive(Debug)]
struct World {
    spans: Vec<Span>,
    /// Every body as it came.
    bytes: Vec<Bytes>,
    headers: Vec<HeaderMap>,
    mood: Mood,
}

type Shared = Arc<Mutex<World>>;

fn lock(shared: &Shared) -> MutexGuard<'_, World> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running collector. Dropping it stops it.
#[derive(Debug)]
pub struct Collector {
    url: String,
    shared: Shared,
    _stop: oneshot::Sender<Infallible>,
}

impl Collector {
    /// Starts one that takes all.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start() -> Self {
        let world = World { spans: Vec::new(), bytes: Vec::new(), headers: Vec::new(), mood: Mood::Takes };
        let shared = Arc::new(Mutex::new(world));
        let router = Router::new().route("/v1/traces", post(take)).with_state(shared.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let (stop, stopped) = oneshot::channel::<Infallible>();
        tokio::spawn(async move {
            let served = axum::serve(listener, router);
            tokio::select! {
                _ = served => {}
                _ = stopped => {}
            }
        });
        Self { url, shared, _stop: stop }
    }

    /// Where it is, as `telemetry.otlp_endpoint` has it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on it answers so, and takes nothing.
    pub fn refuse(&self, status: u16) {
        lock(&self.shared).mood = Mood::Refuses(status);
    }

    /// From now on it never answers.
    pub fn hang(&self) {
        lock(&self.shared).mood = Mood::Hangs;
    }

    /// From now on it takes all.
    pub fn take(&self) {
        lock(&self.shared).mood = Mood::Takes;
    }

    /// What it was told so far, in the order it came.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        lock(&self.shared).spans.clone()
    }

    /// The spans of one trace.
    #[must_use]
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.trace_id == trace_id).collect()
    }

    /// The bodies that came, whatever became of them.
    #[must_use]
    pub fn bytes(&self) -> Vec<Bytes> {
        lock(&self.shared).bytes.clone()
    }

    /// The headers that came with them.
    #[must_use]
    pub fn headers(&self) -> Vec<HeaderMap> {
        lock(&self.shared).headers.clone()
    }

    /// Waits for the first span like this.
    pub async fn span(&self, what: &str, is_it: impl Fn(&Span) -> bool) -> Span {
        wait::until(format!("the collector was told of {what}"), || async {
            self.spans().into_iter().find(|span| is_it(span))
        })
        .await
    }
}

async fn take(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let mood = {
        let mut world = lock(&shared);
        world.bytes.push(body.clone());
        world.headers.push(headers);
        world.mood
    };
    match mood {
        Mood::Takes => {}
        Mood::Refuses(status) => return StatusCode::from_u16(status).expect("a status").into_response(),
        Mood::Hangs => {
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST.into_response() };
    let mut world = lock(&shared);
    for resource in request.resource_spans {
        let about = resource.resource.map(|resource| read_all(&resource.attributes)).unwrap_or_default();
        let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        world.spans.extend(spans.map(|span| read(&span, &about)));
    }
    StatusCode::OK.into_response()
}

fn read(span: &proto::Span, resource: &BTreeMap<String, String>) -> Span {
    Span {
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        state: span.trace_state.clone(),
        name: span.name.clone(),
        kind: span.kind(),
        attributes: read_all(&span.attributes),
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        failed: span.status.as_ref().is_some_and(|status| status.code() == SpanStatus::Error),
        resource: resource.clone(),
    }
}

fn read_all(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute.value.as_ref()))).collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
