//! `POST /agents/{id}/token`

use axum::{extract::State, response::Response};
use errand_common::{domain::AgentId, port::store::coordination::AgentChange, vault::Purpose, wire::credential};

use super::agent::{AgentWithToken, refusal};
use crate::{
    auth::{Admin, Permit},
    extract::{NoBody, PathId},
    idempotency::{self, IdempotencyKey},
    problem::Problem,
    state::AppState,
    view::AgentView,
};

/// Gives an agent another token: the former is invalid at once. The agent learns it by its next provisioning, which the next message to
/// it brings about; one that is bound to a session has to be told by you.
#[utoipa::path(
    post, path = "/api/v1/agents/{id}/token", tag = "agents", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = AgentWithToken))
)]
pub(crate) async fn replace_token(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<AgentId>,
    key: IdempotencyKey,
    body: NoBody,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let replace = async || {
        let token = credential::generate_agent_token();
        let sealed = app.backend.vault.seal(Purpose::AgentToken(id), &token);
        let change = AgentChange { token: Some((credential::hash_key(&token), sealed)), ..AgentChange::default() };
        let changed = app.backend.store.change_agent(&caller.tenant, id, change, app.now()).await?;
        let agent = changed.map_err(|refused| refusal(&refused))?;
        let view = AgentView::new(agent, app.now());
        let kept = serde_json::to_value(&view).map_err(|_| Problem::internal())?;
        let shown = serde_json::to_value(AgentWithToken { view, token }).map_err(|_| Problem::internal())?;
        Ok((shown, kept))
    };
    idempotency::once_with_secret(&app, key.as_ref(), replace).await
}
