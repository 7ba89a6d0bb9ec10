//! What every handler may use.

use std::sync::Arc;

use errand_common::{backend::Backend, config::Config, domain::Timestamp, port::StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::Authenticator, cached::Cached, callback::Callbacks, engines::Engines, extract::Room, idempotency::Joined,
    limit, problem::Problem, relay::hub::Hub, route::scaling::FleetNumbers, submit::Submitter,
    transcription::Transcriber,
};

/// Renders the metrics of this process.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What every handler may use.
pub(crate) struct App {
    pub(crate) backend: Backend,
    pub(crate) config: Arc<Config>,
    pub(crate) auth: Authenticator,
    pub(crate) engines: Engines,
    pub(crate) submitter: Submitter,
    pub(crate) callbacks: Callbacks,
    pub(crate) hub: Hub,
    /// One permit a watcher, over SSE or WebSocket.
    pub(crate) watchers: Arc<Semaphore>,
    pub(crate) metrics: Option<RenderMetrics>,
    pub(crate) depths: Cached<()>,
    pub(crate) scaling: Cached<Arc<FleetNumbers>>,
    pub(crate) epoch: Cached<Arc<str>>,
    /// Open WebSockets, which outlive their request.
    pub(crate) sockets: TaskTracker,
    /// Equal keys that arrive together.
    pub(crate) joined: Joined,
    /// What turns speech into text.
    pub(crate) transcriber: Transcriber,
    /// Memory for bodies with attachments.
    pub(crate) room: Room,
    /// Cancelled when the process is about to stop: it is not ready any more.
    pub(crate) draining: CancellationToken,
    /// Cancelled when the server is to stop.
    pub(crate) shutdown: CancellationToken,
}

/// As handlers take it.
pub(crate) type AppState = axum::extract::State<Arc<App>>;

impl App {
    pub(crate) fn now(&self) -> Timestamp {
        self.backend.clock.now()
    }

    pub(crate) async fn epoch(&self) -> Result<Arc<str>, StoreError> {
        self.epoch.get(async { self.backend.store.epoch().await.map(Arc::from) }).await
    }

    /// Largest JSON body, and largest single string, in bytes.
    pub(crate) fn body_limit(&self) -> usize {
        self.config.server.body_limit_kib as usize * 1024
    }

    /// What `/agent/tasks` may take beyond that, for encoded attachments.
    pub(crate) fn attachment_allowance(&self) -> usize {
        (self.config.server.attachment_limit_mib as usize * 1024 * 1024).div_ceil(3) * 4
    }

    /// A place for one more watcher.
    pub(crate) fn admit_watcher(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.watchers.clone().try_acquire_owned().map_err(|_| {
            Problem::unavailable(
                "too_many_watchers",
                "This process serves as many watchers as relay.max_connections allows",
            )
        })
    }

    /// After how long one watcher is told to come again when the server stops. Not all of them at once.
    pub(crate) fn retry_after_ms(&self) -> u32 {
        rand::random_range(0..=self.config.relay.reconnect_spread_ms)
    }

    pub(crate) fn watcher_permits(config: &Config) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(config.relay.max_connections as usize))
    }

    pub(crate) const fn fleet_memory() -> std::time::Duration {
        limit::FLEET_MEMORY
    }
}
