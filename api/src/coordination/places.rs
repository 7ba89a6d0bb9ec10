//! Boards, gateways and agents that a request names, each read once. Faults name the request's fields.

use std::collections::HashMap;

use axum::http::StatusCode;
use errand_common::domain::{
    AgentId, BoardId, GatewayId,
    coordination::{Agent, Board, Gateway},
};

use crate::{problem::Problem, state::App};

/// See the module.
pub(crate) struct Places<'a> {
    pub(crate) app: &'a App,
    pub(crate) tenant: &'a str,
    boards: HashMap<BoardId, Option<Board>>,
    gateways: HashMap<GatewayId, Option<Gateway>>,
    agents: HashMap<AgentId, Option<Agent>>,
}

impl<'a> Places<'a> {
    pub(crate) fn new(app: &'a App, tenant: &'a str) -> Self {
        Self { app, tenant, boards: HashMap::new(), gateways: HashMap::new(), agents: HashMap::new() }
    }

    /// A board of the tenant.
    pub(crate) async fn board(&mut self, id: BoardId) -> Result<Board, Problem> {
        let found = match self.boards.get(&id) {
            Some(known) => known.clone(),
            None => {
                let found = self.app.backend.store.board(self.tenant, id).await?;
                self.boards.insert(id, found.clone());
                found
            }
        };
        found.ok_or_else(|| missing("Board", "/board_id"))
    }

    /// The gateway that a board's messages go through.
    pub(crate) async fn gateway_of(&mut self, board: &Board) -> Result<Gateway, Problem> {
        let refuse = |detail: &'static str| {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no_gateway", detail).with("/board_id", detail)
        };
        let id = board.gateway_id.ok_or_else(|| refuse("Board gateway_id is required"))?;
        let gateway = self.find_gateway(id).await?.ok_or_else(|| refuse("Board gateway_id is invalid"))?;
        if gateway.url.trim().is_empty() {
            return Err(refuse("Gateway url is required"));
        }
        Ok(gateway)
    }

    /// A gateway of the tenant.
    pub(crate) async fn gateway(&mut self, id: GatewayId) -> Result<Gateway, Problem> {
        self.find_gateway(id).await?.ok_or_else(|| missing("Gateway", "/gateway_id"))
    }

    /// An agent that works on this board.
    pub(crate) async fn agent_on(&mut self, board: &Board, id: AgentId) -> Result<Agent, Problem> {
        let agent = self.find_agent(id).await?.filter(|agent| agent.board_id == Some(board.id));
        agent.ok_or_else(|| missing("Agent", "/agent_id"))
    }

    /// An agent of the tenant, in whose name something is said.
    pub(crate) async fn actor(&mut self, id: AgentId) -> Result<Agent, Problem> {
        self.find_agent(id).await?.ok_or_else(|| missing("Agent", "/actor_id"))
    }

    async fn find_gateway(&mut self, id: GatewayId) -> Result<Option<Gateway>, Problem> {
        if let Some(known) = self.gateways.get(&id) {
            return Ok(known.clone());
        }
        let found = self.app.backend.store.gateway(self.tenant, id).await?;
        self.gateways.insert(id, found.clone());
        Ok(found)
    }

    async fn find_agent(&mut self, id: AgentId) -> Result<Option<Agent>, Problem> {
        if let Some(known) = self.agents.get(&id) {
            return Ok(known.clone());
        }
        let found = self.app.backend.store.agent(self.tenant, id).await?;
        self.agents.insert(id, found.clone());
        Ok(found)
    }
}

fn missing(what: &str, pointer: &str) -> Problem {
    Problem::not_found(what).with(pointer, format!("{what} not found"))
}
