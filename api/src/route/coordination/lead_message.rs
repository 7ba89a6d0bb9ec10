//! `POST /agent/gateway/boards/{board_id}/lead/message`

use axum::{extract::State, response::Response};
use errand_common::domain::{BoardId, JobId, JobState};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::AgentCaller,
    coordination::{
        answer,
        operation::{self, Order},
        places::Places,
        policy,
        request::LeadMessageRequest,
    },
    extract::{BoardInPath, JsonBody, Prefer},
    idempotency::IdempotencyKey,
    problem::Problem,
    state::AppState,
    submission,
    view::schema,
};

/// A message to a lead, as taken in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LeadMessageAccepted {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    job_id: JobId,
    /// Where it starts.
    #[schema(schema_with = schema::job_state)]
    state: JobState,
    /// The board.
    #[schema(schema_with = schema::uuid)]
    board_id: BoardId,
}

/// Sends a message from the gateway's own agent to a board's lead, who is made if there is none.
///
/// Answers 202 once the job is durable; with `Prefer: wait=N`, `{ok, board_id, lead_agent_id, lead_agent_name, lead_created}` once
/// the gateway has taken the message, or 502.
#[utoipa::path(
    post, path = "/api/v1/agent/gateway/boards/{board_id}/lead/message", tags = ["coordination", "agent-main"],
    operation_id = "agent_main_message_board_lead", request_body = LeadMessageRequest,
    params(
        ("board_id" = uuid::Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`wait=N`, N from 1 to 60 seconds: hold the answer until the message was delivered"),
    ),
    responses(
        (status = 202, description = "Taken in; the work goes on", body = LeadMessageAccepted),
        (status = 200, description = "Delivered in time", body = Value),
        (status = 502, description = "`gateway_failed`, or `outcome_unknown`", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn message_lead(
    State(app): AppState,
    caller: AgentCaller,
    BoardInPath(board_id): BoardInPath,
    key: IdempotencyKey,
    prefer: Prefer,
    body: JsonBody<LeadMessageRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let new_job = async || {
        let mut places = Places::new(&app, &caller.tenant);
        let board = policy::board_of_gateway(&mut places, &caller.agent, board_id).await?;
        let order = Order::of(&caller.agent, prefer.0.is_some());
        operation::lead_message(&mut places, order, &board, body.value).await
    };
    let accepted = submission::submit(&app, &caller, key.as_ref(), new_job).await?;
    let taken = LeadMessageAccepted { job_id: accepted.id, state: accepted.state, board_id };
    submission::answer(&app, &caller, &accepted, prefer, taken, async |job| answer::result(&job)).await
}
