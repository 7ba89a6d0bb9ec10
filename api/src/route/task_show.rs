//! `GET /agent/tasks/{id}`

use axum::{Json, extract::State};
use errand_common::{
    domain::{ApprovalState, Job, JobId, JobState},
    wire::{instance, task},
};

use crate::{
    auth::{Caller, Permit, Read},
    extract::PathId,
    problem::Problem,
    scope,
    state::{App, AppState},
    view::TaskView,
};

/// Shows a task, and the tool calls it waits for.
#[utoipa::path(
    get, path = "/api/v1/agent/tasks/{id}", tag = "tasks", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = TaskView))
)]
pub(crate) async fn show_task(
    State(app): AppState,
    caller: Permit<Read>,
    PathId(id): PathId<JobId>,
) -> Result<Json<TaskView>, Problem> {
    let task = task_of(&app, &caller, id).await?;
    let usage = app.backend.store.usage_of(&caller.tenant, id).await?;
    let asks = task.state == JobState::AwaitingApproval;
    let mut approvals = if asks { app.backend.store.approvals(&caller.tenant, id).await? } else { Vec::new() };
    approvals.retain(|approval| approval.state == ApprovalState::Pending);
    Ok(Json(TaskView::new(task).asking(approvals).with_usage(&usage)))
}

/// The task's job; 404 for any other kind, and for what the caller may not see.
pub(crate) async fn task_of(app: &App, caller: &Caller, id: JobId) -> Result<Job, Problem> {
    let job = scope::job(app, caller, id).await?;
    job.filter(|job| [task::KIND, instance::KIND].contains(&job.kind.as_str()))
        .ok_or_else(|| Problem::no_such("Task", id))
}
