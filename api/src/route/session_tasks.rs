//! `GET /agent/sessions/{id}/tasks`

use axum::{Json, extract::State};
use errand_common::{
    domain::{JobId, SessionId},
    port::store::JobFilter,
    wire::{instance, task},
};

use super::session_show::session_of;
use crate::{
    auth::{Permit, Read},
    extract::{Page, Params, PathId},
    problem::Problem,
    state::AppState,
    view::{List, TaskView},
};

/// Lists the tasks of a conversation, newest first.
#[utoipa::path(
    get, path = "/api/v1/agent/sessions/{id}/tasks", tag = "sessions",
    params(
        ("id" = uuid::Uuid, Path),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<TaskView>))
)]
pub(crate) async fn list_session_tasks(
    State(app): AppState,
    caller: Permit<Read>,
    PathId(id): PathId<SessionId>,
    mut query: Params,
) -> Result<Json<List<TaskView>>, Problem> {
    let page: Page<JobId> = query.page();
    query.finish_ignoring_unknown()?;
    let session = session_of(&app, &caller, id).await?;
    let kind = if session.instance_id.is_some() { instance::KIND } else { task::KIND };
    let filter = JobFilter {
        kind: Some(kind.to_owned()),
        session_id: Some(id),
        before: page.after,
        limit: page.probe(),
        ..JobFilter::default()
    };
    let mut jobs = app.backend.store.jobs(&caller.tenant, &filter).await?;
    let next_cursor = page.cut(&mut jobs, |job| job.id);
    Ok(Json(List { items: jobs.into_iter().map(TaskView::new).collect(), next_cursor }))
}
