//! `POST|GET|PATCH|DELETE /agents`

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use errand_common::{
    domain::{
        AgentId, BoardId, GatewayId,
        coordination::{
            Agent, AgentRole, AgentStatus,
            agent::{lead_session, worker_session},
        },
    },
    port::store::coordination::{AgentChange, AgentFilter, AgentRefused, NewAgent, Removed},
    vault::Purpose,
    wire::credential,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::gateway::check_name;
use crate::{
    auth::{Admin, Look, Permit},
    extract::{JsonBody, Page, Params, PathId, Wanted},
    idempotency::{self, IdempotencyKey},
    limit,
    problem::{Faults, Problem, ProblemBody},
    state::AppState,
    view::{AgentView, List, schema},
};

/// An agent to be kept.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentRequest {
    /// For people, and for mentions with `@`; 1 to 128 characters.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    /// Where it runs.
    #[schema(schema_with = schema::uuid)]
    gateway_id: GatewayId,
    /// Where it works: a board of that gateway.
    #[schema(schema_with = schema::uuid_or_null)]
    board_id: Option<BoardId>,
    /// It leads its board.
    #[serde(default)]
    is_board_lead: bool,
    /// A session that the gateway has already: it is used as it is, and never provisioned. Without, the agent gets one of its own, and
    /// is provisioned when it is first needed.
    #[schema(max_length = 255)]
    openclaw_session_id: Option<String>,
}

impl Wanted for AgentRequest {}

/// What is to be changed of an agent; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentPatch {
    /// For people; 1 to 128 characters.
    #[schema(min_length = 1, max_length = 128)]
    name: Option<String>,
    /// Bind it to a session that the gateway has already: it is never provisioned again.
    #[schema(max_length = 255)]
    openclaw_session_id: Option<String>,
}

impl Wanted for AgentPatch {}

/// An agent with its token: the only time that is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AgentWithToken {
    /// The agent.
    #[serde(flatten)]
    pub(super) view: AgentView,
    /// Its token. It is not kept in clear, and a repeated answer does not have it.
    pub(super) token: String,
}

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AgentRemoved {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    id: AgentId,
    /// `Agent removed`
    message: &'static str,
}

/// Makes an agent known, with a token of its own. Nothing is sent to its gateway yet.
#[utoipa::path(
    post, path = "/api/v1/agents", tag = "agents", request_body = AgentRequest,
    responses(
        (status = 200, body = AgentWithToken),
        (status = 409, description = "`role_taken`: the board has a lead; `session_taken`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn create_agent(
    State(app): AppState,
    caller: Permit<Admin>,
    key: IdempotencyKey,
    body: JsonBody<AgentRequest>,
) -> Result<Response, Problem> {
    let bound = key.bind(&caller, body.digest);
    let request = body.value;
    let mut faults = Faults::default();
    check_name(&request.name, &mut faults);
    check_session(request.openclaw_session_id.as_deref(), &mut faults);
    let has_board = !request.is_board_lead || request.board_id.is_some();
    faults.check(has_board, "/board_id", || "Board lead must be assigned to a board".to_owned());
    faults.finish()?;
    let (id, now) = (AgentId::new(), app.now());
    let token = credential::generate_agent_token();
    let is_bound = request.openclaw_session_id.is_some();
    let session_key = request.openclaw_session_id.map(|session| session.trim().to_owned());
    let new = NewAgent {
        id,
        tenant: caller.tenant.clone(),
        gateway_id: request.gateway_id,
        board_id: request.board_id,
        name: request.name.trim().to_owned(),
        role: if request.is_board_lead { AgentRole::Lead } else { AgentRole::Worker },
        session_key: session_key.unwrap_or_else(|| match request.board_id {
            Some(board) if request.is_board_lead => lead_session(board),
            _ => worker_session(id),
        }),
        bound: is_bound,
        token_hash: Some(credential::hash_key(&token)),
        // Nobody brings it to a session that is not provisioned.
        token_sealed: (!is_bound).then(|| app.backend.vault.seal(Purpose::AgentToken(id), &token)),
    };
    let view = AgentView::new(as_made(&new, now), now);
    let record = bound.as_ref().map(|bound| bound.record(&app, StatusCode::OK, json!(view)));
    match (app.backend.store.create_agent(new, record, now).await?, bound) {
        (Ok(()), _) => Ok(Json(AgentWithToken { view, token }).into_response()),
        (Err(AgentRefused::Replayed(stored)), Some(bound)) => {
            Ok(idempotency::replayed(Json(bound.same_request(*stored)?.answer).into_response()))
        }
        (Err(refused), _) => Err(refusal(&refused)),
    }
}

fn as_made(new: &NewAgent, now: errand_common::domain::Timestamp) -> Agent {
    Agent {
        id: new.id,
        tenant: new.tenant.clone(),
        gateway_id: new.gateway_id,
        board_id: new.board_id,
        name: new.name.clone(),
        role: new.role,
        session_key: new.session_key.clone(),
        bound: new.bound,
        status: if new.bound { AgentStatus::Online } else { AgentStatus::New },
        soul: None,
        soul_hash: None,
        has_token: new.token_hash.is_some(),
        generation: 0,
        provision_job: None,
        provision_error: None,
        provisioned_at: None,
        last_seen_at: None,
        created_at: now,
        updated_at: now,
    }
}

/// Lists agents, newest first.
#[utoipa::path(
    get, path = "/api/v1/agents", tag = "agents",
    params(
        ("board_id" = Option<uuid::Uuid>, Query, description = "of this board"),
        ("gateway_id" = Option<uuid::Uuid>, Query, description = "of this gateway"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<AgentView>))
)]
pub(crate) async fn list_agents(
    State(app): AppState,
    caller: Permit<Look>,
    mut query: Params,
) -> Result<Json<List<AgentView>>, Problem> {
    let page: Page<AgentId> = query.page();
    let filter = AgentFilter {
        tenant: caller.tenant.clone(),
        board_id: query.parse("board_id", "a UUID"),
        gateway_id: query.parse("gateway_id", "a UUID"),
        before: page.after,
        limit: page.probe(),
    };
    query.finish()?;
    let mut agents = app.backend.store.agents(&filter).await?;
    let next_cursor = page.cut(&mut agents, |agent| agent.id);
    let now = app.now();
    Ok(Json(List { items: agents.into_iter().map(|agent| AgentView::new(agent, now)).collect(), next_cursor }))
}

/// Shows an agent.
#[utoipa::path(
    get, path = "/api/v1/agents/{id}", tag = "agents", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = AgentView))
)]
pub(crate) async fn show_agent(
    State(app): AppState,
    caller: Permit<Look>,
    PathId(id): PathId<AgentId>,
) -> Result<Json<AgentView>, Problem> {
    let agent = app.backend.store.agent(&caller.tenant, id).await?.ok_or_else(missing)?;
    Ok(Json(AgentView::new(agent, app.now())))
}

/// Changes an agent.
#[utoipa::path(
    patch, path = "/api/v1/agents/{id}", tag = "agents", request_body = AgentPatch, params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, body = AgentView),
        (status = 409, description = "`session_taken`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn change_agent(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<AgentId>,
    body: JsonBody<AgentPatch>,
) -> Result<Json<AgentView>, Problem> {
    let patch = body.value;
    let mut faults = Faults::default();
    if let Some(name) = &patch.name {
        check_name(name, &mut faults);
    }
    check_session(patch.openclaw_session_id.as_deref(), &mut faults);
    faults.finish()?;
    let change = AgentChange {
        name: patch.name.map(|name| name.trim().to_owned()),
        token: None,
        session_key: patch.openclaw_session_id.map(|session| session.trim().to_owned()),
    };
    let changed = app.backend.store.change_agent(&caller.tenant, id, change, app.now()).await?;
    changed.map(|agent| Json(AgentView::new(agent, app.now()))).map_err(|refused| refusal(&refused))
}

/// Removes an agent. The gateway keeps what it has of it.
#[utoipa::path(
    delete, path = "/api/v1/agents/{id}", tag = "agents", params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, body = AgentRemoved),
        (status = 409, description = "`in_use`: a gateway's own agent goes with its gateway", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn remove_agent(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<AgentId>,
) -> Result<Json<AgentRemoved>, Problem> {
    match app.backend.store.remove_agent(&caller.tenant, id).await? {
        Removed::Done => Ok(Json(AgentRemoved { id, message: "Agent removed" })),
        Removed::Unknown => Err(missing()),
        Removed::InUse(_) => {
            let detail = "A gateway's own agent goes with its gateway only";
            Err(Problem::new(StatusCode::CONFLICT, "in_use", detail))
        }
    }
}

fn check_session(session: Option<&str>, faults: &mut Faults) {
    let fits = |session: &str| {
        (1..=limit::SESSION_KEY_CHARS).contains(&session.trim().chars().count())
            && !session.chars().any(char::is_control)
    };
    faults.check(session.is_none_or(fits), "/openclaw_session_id", || {
        format!("must be 1 to {} characters, without control characters", limit::SESSION_KEY_CHARS)
    });
}

pub(super) fn missing() -> Problem {
    Problem::not_found("Agent")
}

pub(super) fn refusal(refused: &AgentRefused) -> Problem {
    let conflict =
        |code, detail: &'static str, pointer| Problem::new(StatusCode::CONFLICT, code, detail).with(pointer, detail);
    let unknown = |detail: &'static str, pointer| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", detail).with(pointer, detail)
    };
    match refused {
        AgentRefused::RoleTaken => conflict("role_taken", "The board has a lead already", "/is_board_lead"),
        AgentRefused::SessionTaken => {
            conflict("session_taken", "Another agent of the gateway has this session", "/openclaw_session_id")
        }
        AgentRefused::GatewayUnknown => unknown("Gateway not found", "/gateway_id"),
        AgentRefused::BoardUnknown => unknown("Board not found, or of another gateway", "/board_id"),
        AgentRefused::Unknown => missing(),
        AgentRefused::Replayed(_) => Problem::internal(),
    }
}
