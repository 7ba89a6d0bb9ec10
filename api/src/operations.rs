//! What a process answers about itself where it serves nothing else: a worker, and an api that waits for its database.

use std::sync::Arc;

use axum::{Json, Router, extract::State, routing::get};
use errand_common::config::Config;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    listen,
    problem::Problem,
    route::{
        health::{self, Health},
        metric,
    },
    router,
    state::RenderMetrics,
};

/// Why a process is not ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotReady {
    /// For programs.
    pub code: &'static str,
    /// For people.
    pub detail: &'static str,
}

/// Says whether the process is ready. Called for each probe: it must answer at once.
pub type Readiness = Arc<dyn Fn() -> Result<(), NotReady> + Send + Sync>;

/// What [`operations`] needs.
pub struct OperationsOptions {
    /// The configuration.
    pub config: Arc<Config>,
    /// Bound already.
    pub listener: TcpListener,
    /// What `/readyz` says.
    pub readiness: Readiness,
    /// What `/metrics` says.
    pub metrics: RenderMetrics,
    /// Cancelled when the server is to stop.
    pub shutdown: CancellationToken,
}

/// Serves `/livez`, `/readyz` and `/metrics` until `shutdown` is cancelled. `/livez` asks nobody: that it answers shows
/// that the process goes on, and a database that is away is no reason to restart a process.
pub async fn operations(options: OperationsOptions) {
    let OperationsOptions { config, listener, readiness, metrics, shutdown } = options;
    let router = Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(ready))
        .route("/metrics", get(move || async move { metric::rendered(metrics()) }))
        .fallback(router::unknown_route);
    listen::run(listener, router::finish(router, &config.server, readiness), &config.server, shutdown).await;
}

async fn ready(State(readiness): State<Readiness>) -> Result<Json<Health>, Problem> {
    readiness().map(|()| Health::ready()).map_err(|why| Problem::unavailable(why.code, why.detail))
}

/// Answers on `listeners` while the database can't be opened: live, not ready, and 503 to all else. Never ends; the
/// listeners are free again when it is dropped.
pub async fn starting(config: &Config, listeners: impl IntoIterator<Item = &TcpListener>) {
    let never = CancellationToken::new();
    let router = Router::new()
        .route("/livez", get(health::live))
        .fallback(async || Problem::unavailable("starting", "This process waits for its database; its log says why"));
    let router = router::finish(router, &config.server, ());
    let accepting = listeners.into_iter().map(|listener| {
        let (router, never) = (&router, &never);
        async move {
            let mut connections = JoinSet::new();
            listen::accept(listener, router, &config.server, never, &mut connections).await;
        }
    });
    futures::future::join_all(accepting).await;
}
