//! `POST /agent/tasks/{id}/inject`

use axum::{extract::State, http::StatusCode, response::Response};
use errand_common::{
    domain::{Job, JobId, OnBusy, SessionId},
    port::store::{Interruption, NewJob},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::task_show::task_of;
use crate::{
    auth::{Caller, Permit, Write},
    extract::{JsonBody, PathId, Prefer, Wanted},
    idempotency::IdempotencyKey,
    instance,
    intake::Intake,
    problem::Problem,
    state::{App, AppState},
    submission,
    task::{self, Beyond, TaskRequest},
    view::{TaskView, schema},
};

/// What to put into a task. Unknown fields are ignored.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct InjectRequest {
    /// What the user says now; not blank.
    #[serde(default)]
    #[schema(min_length = 1)]
    message: String,
}

impl Wanted for InjectRequest {}

/// The task that goes on with the conversation.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TaskInjected {
    /// The conversation.
    #[schema(schema_with = schema::uuid_or_null)]
    session_id: Option<SessionId>,
    /// The new task.
    #[schema(schema_with = schema::uuid)]
    task_id: JobId,
    /// Always true.
    injected: bool,
}

/// Says something into the conversation of a task: whatever runs there is cancelled (`USER_INJECT`), keeping what it said,
/// and a new task goes on with the message.
///
/// It runs on the conversation's engine with its system prompt, no extra tools, 10 turns and 20 messages of context. Answers
/// 202 once the new task is durable; with `Prefer: wait=N`, 200 with the finished task if it ends in time. If the
/// conversation was closed, the new task opens another.
#[utoipa::path(
    post, path = "/api/v1/agent/tasks/{id}/inject", tag = "tasks", request_body = InjectRequest,
    params(
        ("id" = uuid::Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`wait=N`, N from 1 to 60 seconds: hold the answer until the new task has ended"),
    ),
    responses(
        (status = 202, description = "Taken in; the work goes on", body = TaskInjected),
        (status = 200, description = "Ended in time, well or badly", body = TaskView),
    )
)]
pub(crate) async fn inject_task(
    State(app): AppState,
    caller: Permit<Write>,
    PathId(id): PathId<JobId>,
    key: IdempotencyKey,
    prefer: Prefer,
    body: JsonBody<InjectRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    if body.value.message.trim().is_empty() {
        let problem = Problem::new(StatusCode::BAD_REQUEST, "invalid_request", "Message is required");
        return Err(problem.with("/message", "must not be blank"));
    }
    let new_job = async || {
        let interrupted = task_of(&app, &caller, id).await?;
        next_task(&app, &caller, &interrupted, body.value.message).await
    };
    let accepted = submission::submit(&app, &caller, key.as_ref(), new_job).await?;
    let taken = TaskInjected { session_id: accepted.session_id, task_id: accepted.id, injected: true };
    submission::answer(&app, &caller, &accepted, prefer, taken, async |job| Ok(TaskView::new(job))).await
}

/// The task that goes on where `interrupted` is stopped.
async fn next_task(app: &App, caller: &Caller, interrupted: &Job, message: String) -> Result<NewJob, Problem> {
    let session = match interrupted.session_id {
        Some(id) => app.backend.store.session(&caller.tenant, id).await?,
        None => None,
    };
    let session = session.ok_or_else(|| Problem::not_found("session"))?;
    if let Some(instance) = session.instance_id {
        return instance::interrupting(app, caller, session, instance, (message, Interruption::Inject)).await;
    }
    let request = TaskRequest {
        prompt: message,
        session_id: Some(session.id),
        system_prompt: session.system_prompt,
        engine_type: Some(session.engine),
        on_busy: Some(OnBusy::Interrupt),
        ..TaskRequest::default()
    };
    let mut intake = Intake::open(app, caller).await?;
    let mut job = task::new_job(&mut intake, request, Beyond::default(), "")?;
    // Whoever may see the conversation may go on with it; it stays its user's.
    job.user_id = session.user_id;
    if let Some(task) = &mut job.task {
        task.interruption = Interruption::Inject;
    }
    Ok(job)
}
