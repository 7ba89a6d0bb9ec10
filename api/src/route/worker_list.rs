//! `GET /workers`

use axum::{Json, extract::State};
use errand_common::{
    domain::{Timestamp, WorkerId},
    port::store::WorkerInfo,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::{Fleet, Permit},
    problem::Problem,
    state::AppState,
    view::{List, schema},
};

/// A live worker.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Worker)]
pub(crate) struct WorkerView {
    /// Random per process start.
    #[schema(schema_with = schema::uuid)]
    id: WorkerId,
    /// Host name.
    host: String,
    /// Version of Errand.
    version: String,
    /// Queues it takes from.
    queues: Vec<String>,
    /// Kinds it has handlers for.
    kinds: Vec<String>,
    /// Names of its engines.
    engines: Vec<String>,
    /// Jobs it may run at once.
    concurrency: u32,
    /// Jobs it runs now.
    running: u32,
    /// Registered.
    #[schema(schema_with = schema::time)]
    started_at: Timestamp,
    /// Its registration lapses then, unless renewed.
    #[schema(schema_with = schema::time)]
    alive_until: Timestamp,
}

impl From<WorkerInfo> for WorkerView {
    fn from(info: WorkerInfo) -> Self {
        Self {
            id: info.id,
            host: info.host,
            version: info.version,
            queues: info.queues,
            kinds: info.kinds,
            engines: info.engines.into_iter().map(|engine| engine.name).collect(),
            concurrency: info.concurrency,
            running: info.running,
            started_at: info.started_at,
            alive_until: info.alive_until,
        }
    }
}

/// Lists the live workers of the whole installation.
#[utoipa::path(get, path = "/api/v1/workers", tag = "fleet", responses((status = 200, body = List<WorkerView>)))]
pub(crate) async fn list_workers(
    State(app): AppState,
    _caller: Permit<Fleet>,
) -> Result<Json<List<WorkerView>>, Problem> {
    let workers = app.backend.store.live_workers().await?;
    Ok(Json(List { items: workers.into_iter().map(WorkerView::from).collect(), next_cursor: None }))
}
