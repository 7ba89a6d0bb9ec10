//! The way to the collector: OTLP over HTTP, in batches. A collector that is away or hangs costs spans, and nothing else: the
//! queue is bounded, whoever ends a span never waits, and the log says so once a minute.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::InstrumentationScope,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans},
};
use prost::Message;
use reqwest::{
    Client, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect::Policy,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::span::{Ended, attribute};
use crate::config;

/// Between two lines of the log that say the same.
const QUIET: Duration = Duration::from_secs(60);
/// Between two tries of a process that is about to end.
const LAST_PAUSE: Duration = Duration::from_millis(200);
/// Most of an answer that is read, in bytes.
const ANSWER_BYTES: usize = 64 * 1024;

/// Spans can't be exported.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    /// The endpoint is no URL.
    #[error("telemetry.otlp_endpoint is no URL: {0}")]
    Endpoint(String),
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

/// How many spans nobody will hear of.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost(Arc<AtomicU64>);

impl Lost {
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// Sends spans until it is stopped.
#[derive(Debug)]
pub struct Exporter {
    stop: CancellationToken,
    flush: Duration,
    task: JoinHandle<()>,
}

impl Exporter {
    pub(super) fn start(
        config: &config::Telemetry,
        endpoint: &str,
        role: &'static str,
    ) -> Result<(Self, mpsc::Sender<Ended>, Lost), NotStarted> {
        let collector = Collector::new(config, endpoint, role)?;
        let (queue, queued) = mpsc::channel(config.queue_spans as usize);
        let (stop, lost) = (CancellationToken::new(), Lost::default());
        let sending = Sending {
            collector,
            queued,
            batch: Vec::new(),
            batch_spans: config.batch_spans as usize,
            interval: Duration::from_millis(config.export_interval_ms.into()),
            lost: lost.clone(),
            said: None,
            stop: stop.clone(),
        };
        let task = tokio::spawn(sending.run());
        Ok((Self { stop, flush: Duration::from_secs(config.flush_seconds.into()), task }, queue, lost))
    }

    /// Sends what waits, for `telemetry.flush_seconds` at most.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if timeout(self.flush, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!("the collector did not take the last spans in time (telemetry.flush_seconds)");
        }
    }
}

/// Why a batch was not taken.
#[derive(Debug)]
enum Failed {
    /// It may be taken later.
    Away(String),
    /// It will never be.
    Refused(String),
}

/// Who is told.
struct Collector {
    client: Client,
    url: Url,
    headers: HeaderMap,
    resource: Resource,
}

impl Collector {
    fn new(config: &config::Telemetry, endpoint: &str, role: &'static str) -> Result<Self, NotStarted> {
        const PATH: &str = "/v1/traces";
        let base = endpoint.trim_end_matches('/');
        let url = Url::parse(&format!("{}{PATH}", base.strip_suffix(PATH).unwrap_or(base)))
            .map_err(|error| NotStarted::Endpoint(error.to_string()))?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        for (name, value) in config.header_pairs().ok_or(NotStarted::Headers)? {
            let mut value = HeaderValue::from_str(value).map_err(|_| NotStarted::Headers)?;
            value.set_sensitive(true);
            headers.insert(name.parse::<reqwest::header::HeaderName>().map_err(|_| NotStarted::Headers)?, value);
        }
        let client = Client::builder()
            .timeout(Duration::from_secs(config.export_timeout_seconds.into()))
            .redirect(Policy::none())
            .user_agent(concat!("errand/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let attributes = vec![
            attribute("service.name", config.service_name.as_str()),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
            attribute("service.instance.id", uuid::Uuid::now_v7().to_string()),
            attribute("errand.role", role),
        ];
        Ok(Self { client, url, headers, resource: Resource { attributes, ..Resource::default() } })
    }

    /// A batch as it is sent.
    fn encode(&self, batch: &mut Vec<Ended>) -> Vec<u8> {
        let scope = InstrumentationScope {
            name: "errand".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans: std::mem::take(batch),
                    schema_url: String::new(),
                }],
                schema_url: String::new(),
            }],
        };
        let body = request.encode_to_vec();
        // It may have to be sent again.
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        batch.extend(scopes.flat_map(|scope| scope.spans));
        body
    }

    /// Sends a batch. Returns how many spans of it the collector did not want.
    async fn send(&self, batch: &mut Vec<Ended>) -> Result<usize, Failed> {
        let body = self.encode(batch);
        let call = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        // Without the URL: it may hold a secret.
        let mut answer = call.send().await.map_err(|error| Failed::Away(error.without_url().to_string()))?;
        let status = answer.status();
        if !status.is_success() {
            let said = format!("it answered {status}");
            return Err(if may_pass(status) { Failed::Away(said) } else { Failed::Refused(said) });
        }
        let mut body = Vec::new();
        while let Ok(Some(piece)) = answer.chunk().await {
            body.extend_from_slice(&piece);
            if body.len() > ANSWER_BYTES {
                return Ok(0);
            }
        }
        let partial = ExportTraceServiceResponse::decode(body.as_slice()).ok().and_then(|said| said.partial_success);
        Ok(partial.and_then(|partial| usize::try_from(partial.rejected_spans).ok()).unwrap_or_default())
    }
}

/// As OTLP has it.
fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504)
}

/// The task that sends.
struct Sending {
    collector: Collector,
    queued: mpsc::Receiver<Ended>,
    batch: Vec<Ended>,
    batch_spans: usize,
    interval: Duration,
    lost: Lost,
    /// When the log last said that the collector takes nothing; `None`: it takes what it is sent.
    said: Option<Instant>,
    stop: CancellationToken,
}

impl Sending {
    async fn run(mut self) {
        loop {
            self.fill().await;
            if !self.batch.is_empty() {
                self.send().await;
            }
            if self.stop.is_cancelled() && self.batch.is_empty() && self.queued.is_empty() {
                return;
            }
        }
    }

    /// Waits until there is a batch, or enough time has passed.
    async fn fill(&mut self) {
        let interval = sleep(self.interval);
        tokio::pin!(interval);
        while self.batch.len() < self.batch_spans {
            let room = self.batch_spans - self.batch.len();
            tokio::select! {
                biased;
                _ = self.queued.recv_many(&mut self.batch, room) => {}
                () = self.stop.cancelled() => return,
                () = &mut interval => return,
            }
        }
    }

    async fn send(&mut self) {
        match self.collector.send(&mut self.batch).await {
            Ok(unwanted) => {
                self.batch.clear();
                self.lost.add(unwanted);
                if self.said.take().is_some() {
                    tracing::info!(lost = self.lost.take(), "spans reach the collector again");
                }
            }
            Err(Failed::Refused(reason)) => {
                self.lost.add(self.batch.len());
                self.batch.clear();
                self.complain(&reason);
            }
            Err(Failed::Away(reason)) => {
                self.complain(&reason);
                if self.stop.is_cancelled() {
                    sleep(LAST_PAUSE).await;
                } else {
                    self.stop.run_until_cancelled(sleep(self.interval)).await;
                }
            }
        }
    }

    fn complain(&mut self, reason: &str) {
        if self.said.is_none_or(|said| said.elapsed() >= QUIET) {
            self.said = Some(Instant::now());
            tracing::warn!(reason, lost = self.lost.take(), "spans can't be sent to the collector; it is tried again");
        }
    }
}
