//! `POST /agent/instances/{id}/tasks`, `GET /agent/instances/{id}/sessions`

use axum::{Json, extract::State, response::Response};
use errand_common::{
    domain::{InstanceId, OnBusy, SessionId},
    port::store::{Interruption, SessionFilter},
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::task_submit::TaskAccepted;
use crate::{
    auth::{Permit, Read, Write},
    extract::{Int, JsonBody, Params, PathId, Prefer, Wanted},
    idempotency::IdempotencyKey,
    instance::{self, Prompt},
    limit,
    problem::Problem,
    state::AppState,
    submission,
    task::{none_if_empty, on_busy},
    view::{InstanceSessionView, TaskView, schema},
};

/// One prompt for an instance. Unknown fields are ignored.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InstanceTaskRequest {
    /// What to do; not blank.
    #[schema(example = "What is new?", min_length = 1)]
    prompt: String,
    /// The conversation with this instance to go on with. One that is unknown, closed, or with another, opens a new one.
    #[serde(default, deserialize_with = "none_if_empty")]
    #[schema(schema_with = schema::uuid)]
    session_id: Option<SessionId>,
    /// What to do if the conversation is busy; `enqueue` if absent.
    #[serde(default, deserialize_with = "on_busy")]
    #[schema(schema_with = schema::on_busy)]
    on_busy: Option<OnBusy>,
    /// How long its bridge may take to call back, in seconds; `bridges.callback_seconds` if absent.
    #[schema(inline)]
    callback_seconds: Option<Int<1, 86_400>>,
}

impl Wanted for InstanceTaskRequest {}

/// Hands a prompt to the bridge of an instance, in a new or a known conversation with it.
///
/// The bridge takes it, answers elsewhere, and calls back; the task is `awaiting_callback` meanwhile, and fails with the code
/// `TIMEOUT` if nothing comes in time. Answers 202 once the task is durable; with `Prefer: wait=N`, 200 with the finished task if it
/// ends in time.
#[utoipa::path(
    post, path = "/api/v1/agent/instances/{id}/tasks", tag = "instances", request_body = InstanceTaskRequest,
    params(
        ("id" = uuid::Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`wait=N`, N from 1 to 60 seconds: hold the answer until the task has ended"),
    ),
    responses(
        (status = 202, description = "Taken in; the work goes on", body = TaskAccepted),
        (status = 200, description = "Ended in time, well or badly", body = TaskView),
        (status = 400, description = "Something in the request is wrong; or `instance_not_ready`: the instance is not `running`, or has no `serverHost`", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`session_busy`: with `onBusy: reject`, the conversation has an unfinished task", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn submit_instance_task(
    State(app): AppState,
    caller: Permit<Write>,
    PathId(id): PathId<InstanceId>,
    key: IdempotencyKey,
    prefer: Prefer,
    body: JsonBody<InstanceTaskRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let request = body.value;
    if request.prompt.trim().is_empty() {
        return Err(Problem::field("/prompt", "must not be blank"));
    }
    let new_job = async || {
        let instance = instance::fit(&app, &caller, id).await?;
        let prompt = Prompt {
            text: request.prompt,
            session_id: request.session_id,
            // A bridge can't be interrupted: what it has taken it works on.
            on_busy: request.on_busy.unwrap_or(OnBusy::Enqueue),
            interruption: Interruption::Task,
            callback_seconds: request.callback_seconds.map(Int::as_u32),
        };
        instance::new_job(&app, &caller, &instance, prompt)
    };
    let accepted = submission::submit(&app, &caller, key.as_ref(), new_job).await?;
    let taken = TaskAccepted { session_id: accepted.session_id, task_id: accepted.id };
    submission::answer(&app, &caller, &accepted, prefer, taken, async |job| Ok(TaskView::new(job))).await
}

/// Lists the conversations with an instance, newest first: a user sees their own.
#[utoipa::path(
    get, path = "/api/v1/agent/instances/{id}/sessions", tag = "instances",
    params(
        ("id" = uuid::Uuid, Path),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "the newest so many; 200 if absent"),
        ("before" = Option<uuid::Uuid>, Query, description = "only those older than this one"),
    ),
    responses((status = 200, body = Vec<InstanceSessionView>))
)]
pub(crate) async fn list_instance_sessions(
    State(app): AppState,
    caller: Permit<Read>,
    PathId(id): PathId<InstanceId>,
    mut query: Params,
) -> Result<Json<Vec<InstanceSessionView>>, Problem> {
    let most = query.number("limit", 1..=i64::from(limit::PAGE_MAX));
    let before = query.parse("before", "the id of a session");
    query.finish_ignoring_unknown()?;
    instance::own(&app, &caller, id).await?;
    let filter = SessionFilter {
        user_id: caller.confined_to().map(str::to_owned),
        instance_id: Some(id),
        before,
        limit: most.and_then(|most| u32::try_from(most).ok()).unwrap_or(limit::PAGE_MAX),
    };
    let sessions = app.backend.store.sessions(&caller.tenant, &filter).await?;
    Ok(Json(sessions.into_iter().map(InstanceSessionView::from).collect()))
}
