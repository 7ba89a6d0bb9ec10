//! The way to the collector: OpenTelemetry's own batches and its exporter (OTLP over HTTP), on our HTTP client. A collector that is
//! away or hangs costs spans, and nothing else: the queue is bounded, whoever ends a span never waits, and the log says so once a
//! minute.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanProcessor},
};
use reqwest::{
    Client,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use tokio::runtime::Handle;

use crate::config;

/// Between two lines of the log that say the same.
const QUIET: Duration = Duration::from_secs(60);
/// What the address of a collector ends in.
const PATH: &str = "/v1/traces";
/// So often a batch is sent again, within `telemetry.export_timeout_seconds`, if the collector may take it later.
const RETRIES: usize = 16;

/// Spans can't be exported.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    /// The endpoint is no URL.
    #[error("telemetry.otlp_endpoint can't be used: {0}")]
    Endpoint(#[from] ExporterBuildError),
    /// The headers are not `name=value` with commas between them.
    #[error("telemetry.otlp_headers can't be sent; they are written name=value, with commas between them")]
    Headers,
    /// No HTTP client could be made.
    #[error("no HTTP client could be made for telemetry: {0}")]
    Client(#[from] reqwest::Error),
    /// There is an exporter already.
    #[error("spans are recorded in this process already")]
    Twice,
}

/// Where spans go that have ended.
#[derive(Debug)]
pub(super) struct Queue {
    batches: BatchSpanProcessor,
    room: usize,
    counts: Arc<Counts>,
}

/// What became of spans, as far as the log tells.
#[derive(Debug, Default)]
struct Counts {
    /// Handed over, and not sent yet.
    waiting: AtomicUsize,
    /// Nobody will hear of them.
    lost: AtomicUsize,
}

impl Queue {
    /// Never waits: what there is no room for is lost.
    pub(super) fn take(&self, span: SpanData) {
        if self.counts.waiting.fetch_add(1, Ordering::Relaxed) < self.room {
            self.batches.on_end(span);
        } else {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sends spans until it is stopped.
#[derive(Debug)]
pub struct Exporter {
    queue: Arc<Queue>,
    flush: Duration,
}

impl Exporter {
    /// The exporter, and where spans go.
    pub(super) fn start(
        config: &config::Telemetry,
        endpoint: &str,
        role: &'static str,
    ) -> Result<(Self, Arc<Queue>), NotStarted> {
        let limit = Duration::from_secs(config.export_timeout_seconds.into());
        let client = Client::builder()
            .timeout(limit)
            .redirect(Policy::none())
            .user_agent(concat!("errand/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let mut headers = HeaderMap::new();
        for (name, value) in config.header_pairs().ok_or(NotStarted::Headers)? {
            let mut value = HeaderValue::from_str(value).map_err(|_| NotStarted::Headers)?;
            value.set_sensitive(true);
            headers.insert(name.parse::<HeaderName>().map_err(|_| NotStarted::Headers)?, value);
        }
        let base = endpoint.trim_end_matches('/');
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}{PATH}", base.strip_suffix(PATH).unwrap_or(base)))
            .with_timeout(limit)
            .with_http_client(OwnClient { client, headers, runtime: Handle::current() })
            .with_retry_policy(RetryPolicy::recommended().with_max_retries(RETRIES))
            .build()?;
        let bounds = BatchConfigBuilder::default()
            .with_max_queue_size(config.queue_spans as usize)
            .with_max_export_batch_size(config.batch_spans as usize)
            .with_scheduled_delay(Duration::from_millis(config.export_interval_ms.into()))
            .build();
        let counts = Arc::<Counts>::default();
        let told = Told { exporter, counts: counts.clone(), said: Mutex::default() };
        let mut batches = BatchSpanProcessor::builder(told).with_batch_config(bounds).build();
        let attributes = [
            KeyValue::new("service.name", config.service_name.clone()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", uuid::Uuid::now_v7().to_string()),
            KeyValue::new("errand.role", role),
        ];
        // What the standard variable OTEL_RESOURCE_ATTRIBUTES says is said too.
        batches.set_resource(&Resource::builder().with_attributes(attributes).build());
        let queue = Arc::new(Queue { batches, room: config.queue_spans as usize, counts });
        Ok((Self { queue: queue.clone(), flush: Duration::from_secs(config.flush_seconds.into()) }, queue))
    }

    /// Sends what waits, for `telemetry.flush_seconds` at most.
    pub async fn stop(self) {
        let Self { queue, flush } = self;
        let stopped = tokio::task::spawn_blocking(move || queue.batches.shutdown_with_timeout(flush)).await;
        if !matches!(stopped, Ok(Ok(()))) {
            tracing::warn!("the collector did not take the last spans in time (telemetry.flush_seconds)");
        }
    }
}

/// The batches have a thread of their own; the client works in the process's runtime. It sends the configured headers and no
/// others: what `OTEL_…_HEADERS` says is meant for another collector.
#[derive(Debug)]
struct OwnClient {
    client: Client,
    headers: HeaderMap,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for OwnClient {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let form = request.headers_mut().remove(CONTENT_TYPE);
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().extend(form.map(|form| (CONTENT_TYPE, form)));
        self.runtime.spawn(async move { client.send_bytes(request).await }).await?
    }
}

/// The exporter; what is lost is told in our own words, once in a while.
#[derive(Debug)]
struct Told {
    exporter: SpanExporter,
    counts: Arc<Counts>,
    /// When the log last said so.
    said: Mutex<Option<Instant>>,
}

impl opentelemetry_sdk::trace::SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let sent = self.exporter.export(batch).await;
        self.counts.waiting.fetch_sub(count, Ordering::Relaxed);
        let reason = match sent {
            Ok(()) => "more came than it takes in time".to_owned(),
            Err(error) => {
                self.counts.lost.fetch_add(count, Ordering::Relaxed);
                error.to_string()
            }
        };
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if self.counts.lost.load(Ordering::Relaxed) > 0 && said.is_none_or(|said| said.elapsed() >= QUIET) {
            *said = Some(Instant::now());
            let lost = self.counts.lost.swap(0, Ordering::Relaxed);
            tracing::warn!(reason, lost, "spans can't be sent to the collector");
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
