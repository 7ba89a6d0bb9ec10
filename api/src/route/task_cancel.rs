//! `DELETE /agent/tasks/{id}`

use axum::{Json, extract::State};
use errand_common::{domain::JobId, port::store::CancelResult};
use serde::Serialize;
use utoipa::ToSchema;

use super::task_show::task_of;
use crate::{
    auth::{Cancel, Permit},
    cancel::cancel,
    extract::PathId,
    problem::Problem,
    state::AppState,
    view::schema,
};

/// What became of a cancellation.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TaskCancelled {
    /// `Task cancelled`, or `Task already finished`.
    message: &'static str,
    /// The task.
    #[schema(schema_with = schema::uuid)]
    task_id: JobId,
}

/// Cancels a task. A task that has ended stays as it is.
#[utoipa::path(
    delete, path = "/api/v1/agent/tasks/{id}", tag = "tasks", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = TaskCancelled))
)]
pub(crate) async fn cancel_task(
    State(app): AppState,
    caller: Permit<Cancel>,
    PathId(id): PathId<JobId>,
) -> Result<Json<TaskCancelled>, Problem> {
    let task = task_of(&app, &caller, id).await?;
    let message = match cancel(&app, &caller.tenant, task.id).await? {
        Some(CancelResult::Cancelled(_)) => "Task cancelled",
        Some(CancelResult::AlreadyTerminal(_)) => "Task already finished",
        None => return Err(Problem::no_such("Task", id)),
    };
    Ok(Json(TaskCancelled { message, task_id: id }))
}
