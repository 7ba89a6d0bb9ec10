//! `POST /agent/heartbeat`

use axum::{Json, extract::State};

use crate::{auth::AgentCaller, problem::Problem, state::AppState, view::AgentView};

/// Says that the agent is there. It takes no body, and ignores one; sent again, it says so again.
#[utoipa::path(
    post, path = "/api/v1/agent/heartbeat", tags = ["coordination", "agent-lead", "agent-worker", "agent-main"],
    operation_id = "agent_heartbeat",
    responses((status = 200, description = "The agent as it is known", body = AgentView))
)]
pub(crate) async fn beat(State(app): AppState, caller: AgentCaller) -> Result<Json<AgentView>, Problem> {
    let (now, store) = (app.now(), &app.backend.store);
    store.agent_seen(caller.agent.id, true, now).await?;
    let agent = store.agent(&caller.tenant, caller.agent.id).await?.ok_or_else(|| Problem::not_found("Agent"))?;
    Ok(Json(AgentView::new(agent, now)))
}
