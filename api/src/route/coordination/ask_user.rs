//! `POST /agent/boards/{board_id}/gateway/main/ask-user`

use axum::{extract::State, response::Response};
use errand_common::domain::{BoardId, JobId, JobState};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    auth::AgentCaller,
    coordination::{
        answer,
        operation::{self, Order},
        places::Places,
        policy,
        request::AskUserRequest,
    },
    extract::{BoardInPath, JsonBody, Prefer},
    idempotency::IdempotencyKey,
    problem::Problem,
    state::AppState,
    submission,
    view::schema,
};

/// A question as taken in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AskUserAccepted {
    /// The job that waits for the answer.
    #[schema(schema_with = schema::uuid)]
    job_id: JobId,
    /// Where it starts.
    #[schema(schema_with = schema::job_state)]
    state: JobState,
    /// The board.
    #[schema(schema_with = schema::uuid)]
    board_id: BoardId,
    /// The question: `GET /questions/{id}`.
    #[schema(schema_with = schema::uuid)]
    question_id: Value,
}

/// Asks a person, whom the gateway's own agent reaches. The question waits for its answer, which the asking lead is nudged with.
///
/// Answers 202 once the question is durable; with `Prefer: wait=N`, `{ok, board_id, main_agent_id, main_agent_name, question_id}`
/// once it was delivered (not: answered), or 502. An answer comes by board memory that names the question, its correlation id, or all
/// of its tags and its source; or by `POST /questions/{id}/answer`.
#[utoipa::path(
    post, path = "/api/v1/agent/boards/{board_id}/gateway/main/ask-user", tags = ["coordination", "agent-lead"],
    operation_id = "agent_lead_ask_user_via_gateway_main", request_body = AskUserRequest,
    params(
        ("board_id" = uuid::Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`wait=N`, N from 1 to 60 seconds: hold the answer until the question was delivered"),
    ),
    responses(
        (status = 202, description = "Taken in; the work goes on", body = AskUserAccepted),
        (status = 200, description = "Delivered in time", body = Value),
        (status = 502, description = "`gateway_failed`, or `outcome_unknown`", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn ask_user(
    State(app): AppState,
    caller: AgentCaller,
    BoardInPath(board_id): BoardInPath,
    key: IdempotencyKey,
    prefer: Prefer,
    body: JsonBody<AskUserRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let new_job = async || {
        let mut places = Places::new(&app, &caller.tenant);
        let board = policy::board(&mut places, &caller.agent, board_id).await?;
        policy::lead(&caller.agent)?;
        let order = Order::of(&caller.agent, prefer.0.is_some());
        operation::ask_user(&mut places, order, &board, body.value).await
    };
    let accepted = submission::submit(&app, &caller, key.as_ref(), new_job).await?;
    // What the job asks, whether this request made it or an earlier one.
    let job = app.backend.store.job(&caller.tenant, accepted.id).await?.ok_or_else(|| Problem::not_found("job"))?;
    let question_id = job.payload["question_id"].clone();
    let taken = AskUserAccepted { job_id: accepted.id, state: accepted.state, board_id, question_id };
    let shown = async |job| answer::asked(&app, board_id, &job).await;
    submission::answer(&app, &caller, &accepted, prefer, taken, shown).await
}
