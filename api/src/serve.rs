//! The listener: accept, serve, and stop in good order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
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
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::{
    auth::Keys,
    cached::Cached,
    engines::Engines,
    idempotency::Joined,
    limit,
    relay::{self, hub::Hub},
    router,
    state::{App, RenderMetrics},
    submit::Submitter,
};

/// The smallest read buffer that the HTTP library takes, in bytes.
const SMALLEST_HEAD_BUFFER: usize = 8 * 1024;
/// Pause after a connection could not be accepted (out of file descriptors, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
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
    /// The store could not keep the bootstrap key.
    #[error("the bootstrap key could not be stored")]
    Store(#[from] StoreError),
    /// The operations listener could not be opened.
    #[error("could not listen on {address} (metrics.listen)")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Serves until `shutdown` is cancelled: then watchers are told to come again, requests in flight
/// finish (within `server.drain_seconds`), and everything it started has ended when this returns.
pub async fn serve(options: ServeOptions) -> Result<(), ServeError> {
    let ServeOptions { backend, config, listener, metrics, draining, shutdown } = options;
    store_bootstrap_key(&backend, &config).await?;
    let operations = match config.metrics.listen {
        Some(address) => {
            Some(TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })?)
        }
        None => None,
    };
    // Outlives `shutdown`: requests in flight still need the batcher and the feeds.
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let app = build(backend, config.clone(), metrics, &tasks, &stop, Stopping { draining, shutdown });
    let main = router::main(app.clone());
    let mut servers = JoinSet::new();
    servers.spawn(run(listener, main, app.clone()));
    if let Some(listener) = operations {
        servers.spawn(run(listener, router::operations(app.clone()), app.clone()));
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
) -> Arc<App> {
    relay::announce_metrics();
    let log = Arc::new(backend.store.clone());
    let buffer = config.relay.buffer_frames as usize;
    Arc::new(App {
        keys: Keys::new(backend.store.clone(), config.auth.failures_per_minute),
        engines: Engines::new(backend.clone(), config.clone()),
        submitter: Submitter::start(&backend, tasks, stop.clone()),
        hub: Hub::start(log, backend.bus.clone(), buffer, tasks, stop.clone()),
        watchers: App::watcher_permits(&config),
        metrics: render,
        depths: Cached::new(limit::FLEET_MEMORY),
        epoch: Cached::new(limit::EPOCH_MEMORY),
        sockets: TaskTracker::new(),
        joined: Joined::default(),
        draining: stopping.draining,
        shutdown: stopping.shutdown,
        config,
        backend,
    })
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

/// Accepts until the process is to stop, then lets the connections finish.
async fn run(listener: TcpListener, router: Router, app: Arc<App>) {
    let mut builder = http1::Builder::new();
    // Twice the limit, so that a head somewhat beyond it gets a problem document; one far beyond it gets a bare 431.
    let head = app.config.server.header_limit_kib as usize * 2 * 1024;
    builder.timer(TokioTimer::new()).header_read_timeout(limit::HEAD_READ_TIMEOUT);
    builder.max_buf_size(head.max(SMALLEST_HEAD_BUFFER));
    let room = Arc::new(Semaphore::new(limit::CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            () = app.shutdown.cancelled() => break,
            Ok(permit) = room.clone().acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = app.shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let served = connection(builder.clone(), stream, peer, router.clone(), app.shutdown.clone());
                connections.spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let drain = Duration::from_secs(u64::from(app.config.server.drain_seconds));
    let drained = tokio::time::timeout(drain, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(open = connections.len(), "some requests did not finish in time and are cut off");
        connections.shutdown().await;
    }
}

/// A client that stops reading must not hold its connection, and what waits to be sent over it, for ever.
#[cfg(target_os = "linux")]
fn cut_when_unread(stream: &TcpStream) {
    let milliseconds = u32::try_from(limit::UNREAD.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT could not be set");
    }
}

/// Elsewhere the system has no such bound.
#[cfg(not(target_os = "linux"))]
const fn cut_when_unread(_: &TcpStream) {}

async fn connection(
    builder: http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) {
    // Events are small and want to leave at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    cut_when_unread(&stream);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}
