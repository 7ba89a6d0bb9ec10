//! `POST /agent/tasks`

use axum::{extract::State, response::Response};
use errand_common::domain::{JobId, SessionId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::{Permit, Write},
    extract::{JsonBody, Prefer},
    idempotency::IdempotencyKey,
    intake::Intake,
    problem::Problem,
    state::AppState,
    submission,
    task::{self, Beyond, TaskRequest},
    view::{TaskView, schema},
};

/// A task as taken in.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TaskAccepted {
    /// Its conversation.
    #[schema(schema_with = schema::uuid_or_null)]
    pub(crate) session_id: Option<SessionId>,
    /// Its id; the job's id too.
    #[schema(schema_with = schema::uuid)]
    pub(crate) task_id: JobId,
}

/// Runs a prompt on an engine, in a new or a known conversation.
///
/// Answers 202 once the task is durable; with `Prefer: wait=N`, 200 with the finished task if it ends in time.
#[utoipa::path(
    post, path = "/api/v1/agent/tasks", tag = "tasks", request_body = TaskRequest,
    params(("Prefer" = Option<String>, Header, description = "`wait=N`, N from 1 to 60 seconds: hold the answer until the task has ended")),
    responses(
        (status = 202, description = "Taken in; the work goes on", body = TaskAccepted),
        (status = 200, description = "Ended in time, well or badly", body = TaskView),
        (status = 413, description = "`attachments_too_large`: they are larger together than `server.attachment_limit_mib`", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`session_busy`: with `onBusy: reject`, the conversation has an unfinished task", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn submit_task(
    State(app): AppState,
    caller: Permit<Write>,
    key: IdempotencyKey,
    prefer: Prefer,
    body: JsonBody<TaskRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let new_job = async || {
        let mut intake = Intake::open(&app, &caller).await?;
        let job = task::new_job(&mut intake, body.value, Beyond::default(), "")?;
        intake.keep_attachments().await?;
        Ok(job)
    };
    let accepted = submission::submit(&app, &caller, key.as_ref(), new_job).await?;
    // Its attachments are gone from memory.
    drop(body.room);
    let taken = TaskAccepted { session_id: accepted.session_id, task_id: accepted.id };
    submission::answer(&app, &caller, &accepted, prefer, taken, async |job| Ok(TaskView::new(job))).await
}
