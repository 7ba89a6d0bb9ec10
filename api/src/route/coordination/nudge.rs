//! `POST /agent/boards/{board_id}/agents/{agent_id}/nudge`

use axum::{extract::State, response::Response};
use errand_common::domain::{AgentId, BoardId, JobId, JobState};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::AgentCaller,
    coordination::{
        answer,
        operation::{self, Order},
        places::Places,
        policy,
        request::NudgeRequest,
    },
    extract::{AgentInPath, BoardInPath, JsonBody, Prefer},
    idempotency::IdempotencyKey,
    problem::Problem,
    state::AppState,
    submission,
    view::schema,
};

/// A job for one agent of a board, as taken in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OnAgentAccepted {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    pub(crate) job_id: JobId,
    /// Where it starts.
    #[schema(schema_with = schema::job_state)]
    pub(crate) state: JobState,
    /// The board.
    #[schema(schema_with = schema::uuid)]
    pub(crate) board_id: BoardId,
    /// The agent.
    #[schema(schema_with = schema::uuid_or_null)]
    pub(crate) agent_id: Option<AgentId>,
}

/// Sends a message to an agent of the board that the caller leads.
///
/// Answers 202 once the job is durable; with `Prefer: wait=N`, `{"ok": true}` once the gateway has taken the message, or 502.
#[utoipa::path(
    post, path = "/api/v1/agent/boards/{board_id}/agents/{agent_id}/nudge", tags = ["coordination", "agent-lead"],
    operation_id = "agent_lead_nudge_agent", request_body = NudgeRequest,
    params(
        ("board_id" = uuid::Uuid, Path), ("agent_id" = uuid::Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`wait=N`, N from 1 to 60 seconds: hold the answer until the message was delivered"),
    ),
    responses(
        (status = 202, description = "Taken in; the work goes on", body = OnAgentAccepted),
        (status = 200, description = "`{\"ok\": true}`: delivered in time", body = Value),
        (status = 502, description = "`gateway_failed`, or `outcome_unknown`: the message may have arrived", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn nudge_agent(
    State(app): AppState,
    caller: AgentCaller,
    BoardInPath(board_id): BoardInPath,
    AgentInPath(agent_id): AgentInPath,
    key: IdempotencyKey,
    prefer: Prefer,
    body: JsonBody<NudgeRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let new_job = async || {
        let mut places = Places::new(&app, &caller.tenant);
        let board = policy::board(&mut places, &caller.agent, board_id).await?;
        policy::lead(&caller.agent)?;
        let target = policy::target(&mut places, &caller.agent, &board, agent_id).await?;
        let order =
            Order::of(&caller.agent, prefer.0.is_some()).correlated(format!("nudge:{}:{}", board.id, target.id));
        operation::nudge(&mut places, order, (&board, &target), &body.value).await
    };
    let accepted = submission::submit(&app, &caller, key.as_ref(), new_job).await?;
    let taken = OnAgentAccepted { job_id: accepted.id, state: accepted.state, board_id, agent_id };
    submission::answer(&app, &caller, &accepted, prefer, taken, async |job| answer::done(&job)).await
}
