//! `GET /workers`

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use errand_common::{
    domain::{Timestamp, WorkerId},
    port::store::WorkerInfo,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::{Fleet, Permit},
    extract::{Page, Params},
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
    /// Kinds it has handlers for, each with the highest payload version it reads.
    kinds: BTreeMap<String, u32>,
    /// Names of its engines.
    engines: Vec<String>,
    /// Jobs it may run at once.
    concurrency: u32,
    /// Jobs it runs now.
    running: u32,
    /// It claims nothing more and ends when its runs have.
    draining: bool,
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
            draining: info.draining,
            started_at: info.started_at,
            alive_until: info.alive_until,
        }
    }
}

/// Lists the live workers of the whole installation.
#[utoipa::path(
    get, path = "/api/v1/workers", tag = "fleet",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<WorkerView>))
)]
pub(crate) async fn list_workers(
    State(app): AppState,
    _caller: Permit<Fleet>,
    mut query: Params,
) -> Result<Json<List<WorkerView>>, Problem> {
    let page: Page<WorkerId> = query.page();
    query.finish()?;
    let mut workers = app.backend.store.live_workers().await?;
    workers.sort_by_key(|worker| worker.id);
    let mut workers = page.of(workers, |worker, after| worker.id > *after);
    let next_cursor = page.cut(&mut workers, |worker| worker.id);
    Ok(Json(List { items: workers.into_iter().map(WorkerView::from).collect(), next_cursor }))
}
