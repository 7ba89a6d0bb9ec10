//! `POST /workers/{id}/drain`

use axum::{extract::State, http::StatusCode, response::Response};
use errand_common::{domain::WorkerId, port::store::DrainAsked, wire::control::Signal};

use super::worker_list::WorkerView;
use crate::{
    auth::{Fleet, Permit},
    extract::{NoBody, PathId},
    idempotency::{self, IdempotencyKey},
    problem::Problem,
    state::AppState,
};

/// Asks a worker to claim nothing more, to finish its runs within its `drain_seconds` or hand them back without spending
/// an attempt, and to end.
#[utoipa::path(
    post, path = "/api/v1/workers/{id}/drain", tag = "fleet", params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, description = "It drains, now or already", body = WorkerView),
        (status = 409, description = "`not_drainable`: its process does more than a worker's work, as that of `errand dev`", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn drain_worker(
    State(app): AppState,
    caller: Permit<Fleet>,
    PathId(id): PathId<WorkerId>,
    key: IdempotencyKey,
    body: NoBody,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    idempotency::once(&app, key.as_ref(), async || {
        match app.backend.store.ask_drain(id).await? {
            DrainAsked::Asked => {}
            DrainAsked::Unknown => return Err(Problem::not_found("worker")),
            DrainAsked::NotDrainable => {
                let detail = "This worker is part of a process that does more, as `errand dev` does; stop the process";
                return Err(Problem::new(StatusCode::CONFLICT, "not_drainable", detail));
            }
        }
        // Read before it is told: it may be gone in a moment.
        let worker = app.backend.store.live_workers().await?.into_iter().find(|worker| worker.id == id);
        app.backend.signal(id, Signal::Drain).await;
        tracing::info!(worker_id = %id, "a worker was asked to drain");
        let view = WorkerView::from(worker.ok_or_else(|| Problem::not_found("worker"))?);
        serde_json::to_value(view).map_err(|_| Problem::internal())
    })
    .await
}
