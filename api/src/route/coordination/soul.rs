//! `GET|PUT /agent/boards/{board_id}/agents/{agent_id}/soul`

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::nudge::OnAgentAccepted;
use crate::{
    auth::AgentCaller,
    coordination::{
        answer,
        operation::{self, Order},
        places::Places,
        policy,
        request::SoulRequest,
    },
    extract::{AgentInPath, BoardInPath, JsonBody, Prefer},
    idempotency::IdempotencyKey,
    limit,
    problem::Problem,
    state::AppState,
    submission, wait,
};

/// Reads the `SOUL.md` of an agent: by its board's lead, or by the agent itself. Waits for the gateway.
#[utoipa::path(
    get, path = "/api/v1/agent/boards/{board_id}/agents/{agent_id}/soul", tags = ["coordination", "agent-lead", "agent-worker"],
    operation_id = "agent_get_soul",
    params(
        ("board_id" = uuid::Uuid, Path), ("agent_id" = uuid::Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`wait=N`, N from 1 to 60 seconds: wait so long instead of 60"),
    ),
    responses(
        (status = 200, description = "The text", body = String),
        (status = 502, description = "`gateway_failed`: Gateway SOUL read failed", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
        (status = 504, description = "`gateway_timeout`: the gateway did not answer in time", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn read_soul(
    State(app): AppState,
    caller: AgentCaller,
    BoardInPath(board_id): BoardInPath,
    AgentInPath(agent_id): AgentInPath,
    prefer: Prefer,
) -> Result<Json<Value>, Problem> {
    let patience = prefer.0.unwrap_or(limit::SOUL_WAIT);
    let new_job = async || {
        let mut places = Places::new(&app, &caller.tenant);
        let board = policy::board(&mut places, &caller.agent, board_id).await?;
        let target = policy::soul_to_read(&mut places, &caller.agent, &board, agent_id).await?;
        let mut order = Order::of(&caller.agent, true).correlated(format!("soul.read:{}:{}", board.id, target.id));
        // Nobody will look at what comes later.
        order.settings.deadline = Some(app.now().plus(patience));
        operation::soul_read(&mut places, order, (&board, &target)).await
    };
    let accepted = submission::submit(&app, &caller, None, new_job).await?;
    let job = wait::for_end(&app, &caller.tenant, accepted.id, patience).await?;
    match job.filter(|job| job.state.is_terminal()) {
        Some(job) => answer::soul(&job).map(Json),
        None => {
            let detail = format!("The gateway did not answer within {} s", patience.as_secs());
            let problem = Problem::new(StatusCode::GATEWAY_TIMEOUT, "gateway_timeout", detail);
            Err(problem.retry_after(limit::RETRY_AFTER_SECONDS))
        }
    }
}

/// Writes the `SOUL.md` of an agent of the board that the caller leads.
///
/// Answers 202 once the job is durable; with `Prefer: wait=N`, `{"ok": true}` once the gateway has it, or 502.
#[utoipa::path(
    put, path = "/api/v1/agent/boards/{board_id}/agents/{agent_id}/soul", tags = ["coordination", "agent-lead"],
    operation_id = "agent_lead_update_agent_soul", request_body = SoulRequest,
    params(
        ("board_id" = uuid::Uuid, Path), ("agent_id" = uuid::Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`wait=N`, N from 1 to 60 seconds: hold the answer until it was written"),
    ),
    responses(
        (status = 202, description = "Taken in; the work goes on", body = OnAgentAccepted),
        (status = 200, description = "`{\"ok\": true}`: written in time", body = Value),
        (status = 502, description = "`gateway_failed`, or `outcome_unknown`", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn write_soul(
    State(app): AppState,
    caller: AgentCaller,
    BoardInPath(board_id): BoardInPath,
    AgentInPath(agent_id): AgentInPath,
    key: IdempotencyKey,
    prefer: Prefer,
    body: JsonBody<SoulRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let new_job = async || {
        let mut places = Places::new(&app, &caller.tenant);
        let board = policy::board(&mut places, &caller.agent, board_id).await?;
        policy::lead(&caller.agent)?;
        let target = policy::soul_to_write(&mut places, &board, agent_id).await?;
        let order =
            Order::of(&caller.agent, prefer.0.is_some()).correlated(format!("soul.write:{}:{}", board.id, target.id));
        operation::soul_write(&mut places, order, (&board, &target), &body.value).await
    };
    let accepted = submission::submit(&app, &caller, key.as_ref(), new_job).await?;
    let taken = OnAgentAccepted { job_id: accepted.id, state: accepted.state, board_id, agent_id };
    let answered = submission::answer(&app, &caller, &accepted, prefer, taken, async |job| answer::done(&job));
    answered.await.map(IntoResponse::into_response)
}
