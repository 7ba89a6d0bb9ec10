//! `GET /livez`, `GET /readyz`

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{limit, problem::Problem, state::AppState};

/// How the process is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `live` or `ready`.
    status: &'static str,
}

impl Health {
    pub(crate) const fn ready() -> Json<Self> {
        Json(Self { status: "ready" })
    }
}

/// Whether the process answers at all.
#[utoipa::path(get, path = "/livez", tag = "operations", responses((status = 200, body = Health)))]
pub(crate) async fn live() -> Json<Health> {
    Json(Health { status: "live" })
}

/// Whether requests should be sent here: the database answers, and the process is not stopping.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses((status = 200, body = Health)))]
pub(crate) async fn ready(State(app): AppState) -> Result<Json<Health>, Problem> {
    if app.draining.is_cancelled() || app.shutdown.is_cancelled() {
        return Err(Problem::unavailable("shutting_down", "This process is stopping"));
    }
    match tokio::time::timeout(limit::READY_TIMEOUT, app.backend.store.ping()).await {
        Ok(answered) => answered?,
        Err(_) => return Err(Problem::unavailable("store_unavailable", "The database does not answer")),
    }
    Ok(Health::ready())
}
