//! The api from start to graceful end.

use std::{sync::Arc, time::Duration};

use errand_common::{
    backend::Backend,
    config::Config,
    domain::ApiKeyId,
    port::{
        StoreError,
        store::{NewApiKey, Scope},
    },
    wire::credential,
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::{Authenticator, NoClient},
    cached::Cached,
    callback::Callbacks,
    engines::Engines,
    extract::Room,
    idempotency::Joined,
    limit, listen,
    relay::{self, hub::Hub},
    router,
    state::{App, RenderMetrics},
    submit::Submitter,
    transcription::Transcriber,
};

/// The bootstrap key's tenant.
const BOOTSTRAP_TENANT: &str = "default";

/// What [`serve`] needs.
pub struct ServeOptions {
    /// The ports.
    pub backend: Backend,
    /// The configuration.
    pub config: Arc<Config>,
    /// Bound already, so that the caller knows the port.
    pub listener: TcpListener,
    /// At `metrics.listen`, if that is set: `/metrics`, `/livez` and `/readyz` are there.
    pub operations: Option<TcpListener>,
    /// Renders the metrics of this process; `None`: `/metrics` answers 404.
    pub metrics: Option<RenderMetrics>,
    /// Cancelled when the process is about to stop: from then on it is not ready, and otherwise serves as before.
    /// `shutdown` implies it.
    pub draining: CancellationToken,
    /// Cancelled when the server is to stop.
    pub shutdown: CancellationToken,
}

/// The server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The bootstrap key is no key.
    #[error("auth.bootstrap_key must be `errand_` followed by 32 or more of A-Z a-z 0-9 _ -")]
    BootstrapKey,
    /// The key set of users' tokens can't be fetched from here.
    #[error(transparent)]
    KeySet(#[from] NoClient),
    /// The store could not keep the bootstrap key.
    #[error("the bootstrap key could not be stored")]
    Store(#[from] StoreError),
}

/// Serves until `shutdown` is cancelled: then watchers are told to come again, requests in flight
/// finish (within `server.drain_seconds`), and everything it started has ended when this returns.
pub async fn serve(options: ServeOptions) -> Result<(), ServeError> {
    let ServeOptions { backend, config, listener, operations, metrics, draining, shutdown } = options;
    store_bootstrap_key(&backend, &config).await?;
    // Outlives `shutdown`: requests in flight still need the batcher and the feeds.
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let app = build(backend, config.clone(), metrics, &tasks, &stop, Stopping { draining, shutdown })?;
    let routers = [(Some(listener), router::main(app.clone())), (operations, router::operations(app.clone()))];
    let mut servers = JoinSet::new();
    for (listener, router) in routers {
        if let Some(listener) = listener {
            let app = app.clone();
            servers.spawn(async move { listen::run(listener, router, &app.config.server, app.shutdown.clone()).await });
        }
    }
    while servers.join_next().await.is_some() {}
    app.sockets.close();
    let drain = Duration::from_secs(u64::from(config.server.drain_seconds));
    if tokio::time::timeout(drain, app.sockets.wait()).await.is_err() {
        tracing::warn!(open = app.sockets.len(), "some WebSockets did not close in time");
    }
    stop.cancel();
    drop(app);
    tasks.close();
    if tokio::time::timeout(drain, tasks.wait()).await.is_err() {
        tracing::warn!(running = tasks.len(), "some background tasks did not end in time");
    }
    Ok(())
}

/// The two steps of stopping.
struct Stopping {
    draining: CancellationToken,
    shutdown: CancellationToken,
}

fn build(
    backend: Backend,
    config: Arc<Config>,
    render: Option<RenderMetrics>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    stopping: Stopping,
) -> Result<Arc<App>, ServeError> {
    relay::announce_metrics();
    let log = Arc::new(backend.store.clone());
    let buffer = config.relay.buffer_frames as usize;
    Ok(Arc::new(App {
        auth: Authenticator::start(backend.store.clone(), &config, tasks, stop.clone())?,
        engines: Engines::new(backend.clone(), config.clone()),
        submitter: Submitter::start(&backend, tasks, stop.clone()),
        callbacks: Callbacks::start(&backend, tasks, stop.clone()),
        hub: Hub::start(log, backend.bus.clone(), buffer, tasks, stop.clone()),
        watchers: App::watcher_permits(&config),
        metrics: render,
        depths: Cached::new(limit::FLEET_MEMORY),
        scaling: Cached::new(limit::FLEET_MEMORY),
        epoch: Cached::new(limit::EPOCH_MEMORY),
        sockets: TaskTracker::new(),
        joined: Joined::default(),
        transcriber: Transcriber::new(&config.transcription),
        room: Room::new(config.server.attachment_memory_mib),
        draining: stopping.draining,
        shutdown: stopping.shutdown,
        config,
        backend,
    }))
}

async fn store_bootstrap_key(backend: &Backend, config: &Config) -> Result<(), ServeError> {
    let Some(secret) = &config.auth.bootstrap_key else { return Ok(()) };
    if !credential::is_key(secret.expose()) {
        return Err(ServeError::BootstrapKey);
    }
    let key = NewApiKey {
        id: ApiKeyId::new(),
        tenant: BOOTSTRAP_TENANT.to_owned(),
        name: "bootstrap".to_owned(),
        prefix: credential::indexed_prefix(secret.expose()).to_owned(),
        hash: credential::hash_key(secret.expose()),
        scopes: Scope::ALL.to_vec(),
    };
    backend.store.create_key(key, None, backend.clock.now()).await?;
    Ok(())
}
