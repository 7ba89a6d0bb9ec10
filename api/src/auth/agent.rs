//! Agents, by their tokens.

use std::{net::IpAddr, ops::Deref, sync::Arc, time::Duration};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use errand_common::{
    domain::{AgentId, Timestamp, coordination::Agent},
    port::{Store, StoreError},
    wire::credential,
};

use super::{Authenticator, Caller, Look, Permit, bearer, permit::peer};
use crate::{problem::Problem, state::App};

/// The header of an agent's token; it wins over `Authorization`.
const HEADER: &str = "x-agent-token";

/// An agent that was heard of so lately is not written again.
const SEEN_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Agents, as the store has them. Not remembered: what an agent may do follows from its row as it is now.
pub(super) struct Agents(Arc<dyn Store>);

impl Agents {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// Whether a token is still this agent's.
    pub(super) async fn is_valid(&self, id: AgentId, token_hash: &str) -> Result<bool, StoreError> {
        Ok(self.0.agent_by_token(token_hash).await?.is_some_and(|agent| agent.id == id))
    }

    /// It calls, so it is there. A call does not fail over that.
    async fn seen(&self, agent: &Agent, now: Timestamp) {
        if agent.last_seen_at.is_some_and(|last| now.since(last) <= SEEN_AGAIN_AFTER) {
            return;
        }
        if let Err(error) = self.0.agent_seen(agent.id, false, now).await {
            tracing::warn!(agent_id = %agent.id, %error, "that an agent was seen was not written");
        }
    }
}

impl Authenticator {
    /// Which agent calls with these headers. Only failures are limited.
    async fn agent(&self, headers: &HeaderMap, peer: IpAddr, now: Timestamp) -> Result<AgentCaller, Problem> {
        let token = match (headers.get(HEADER), headers.get(header::AUTHORIZATION)) {
            (Some(value), _) => value.to_str().ok().map(str::trim),
            (None, Some(value)) => value.to_str().ok().and_then(bearer),
            (None, None) => {
                return Err(Problem::unauthenticated("Send the agent's token as `X-Agent-Token: errand_agent_…`"));
            }
        };
        let refuse = |detail: &'static str| Err(self.failures.refuse(peer, detail.into()));
        let Some(token) = token.filter(|token| credential::is_agent_token(token)) else {
            return refuse("This is no agent's token of Errand");
        };
        let hash = credential::hash_key(token);
        let Some(agent) = self.agents.0.agent_by_token(&hash).await? else {
            return refuse("The agent's token is unknown, or was replaced");
        };
        self.agents.seen(&agent, now).await;
        let caller = Arc::new(Caller::agent(agent.tenant.clone(), agent.id, hash));
        Ok(AgentCaller { caller, agent })
    }
}

/// An agent who calls, with its row.
#[derive(Debug)]
pub(crate) struct AgentCaller {
    pub(crate) caller: Arc<Caller>,
    pub(crate) agent: Agent,
}

impl Deref for AgentCaller {
    type Target = Caller;
    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl FromRequestParts<Arc<App>> for AgentCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        app.auth.agent(&parts.headers, peer(parts), app.now()).await
    }
}

/// An agent, or a key or user that may read.
#[derive(Debug)]
pub(crate) enum Anyone {
    Agent(Box<AgentCaller>),
    Other(Arc<Caller>),
}

impl Anyone {
    pub(crate) fn caller(&self) -> &Arc<Caller> {
        match self {
            Self::Agent(agent) => &agent.caller,
            Self::Other(caller) => caller,
        }
    }

    /// The agent who calls; `None`: somebody else.
    pub(crate) fn agent(&self) -> Option<&Agent> {
        match self {
            Self::Agent(agent) => Some(&agent.agent),
            Self::Other(_) => None,
        }
    }
}

impl FromRequestParts<Arc<App>> for Anyone {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        if is_agents(&parts.headers) {
            return AgentCaller::from_request_parts(parts, app).await.map(|agent| Self::Agent(Box::new(agent)));
        }
        Permit::<Look>::from_request_parts(parts, app).await.map(|permit| Self::Other(permit.0))
    }
}

/// Whether a credential is meant as an agent's.
fn is_agents(headers: &HeaderMap) -> bool {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
    headers.contains_key(HEADER) || token.is_some_and(credential::is_agent_token)
}
