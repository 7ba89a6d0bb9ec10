//! Which agent may do what, and to whom. What an agent may do follows from its role and its board; its tenant bounds all of it.

use axum::http::StatusCode;
use errand_common::domain::{
    AgentId, BoardId,
    coordination::{Agent, AgentRole, Board},
};

use super::places::Places;
use crate::problem::Problem;

/// Only the gateway's own agent.
const MAIN_ONLY: &str = "Only the dedicated gateway agent may call this endpoint.";

/// The board, if the agent may enter it: its own; for an agent without one, a board of its own gateway.
pub(crate) async fn board(places: &mut Places<'_>, agent: &Agent, id: BoardId) -> Result<Board, Problem> {
    let board = places.board(id).await.map_err(in_path)?;
    enter(agent, &board)?;
    Ok(board)
}

fn enter(agent: &Agent, board: &Board) -> Result<(), Problem> {
    let is_own = match agent.board_id {
        Some(own) => own == board.id,
        None => board.gateway_id == Some(agent.gateway_id),
    };
    if is_own { Ok(()) } else { Err(forbidden("This agent does not work on this board")) }
}

/// Only the lead of the board it has entered.
pub(crate) fn lead(agent: &Agent) -> Result<(), Problem> {
    if agent.role == AgentRole::Lead && agent.board_id.is_some() {
        return Ok(());
    }
    Err(forbidden("Only board leads can perform this action"))
}

/// The agent that a lead speaks to, on the board it leads: never itself.
pub(crate) async fn target(
    places: &mut Places<'_>,
    lead: &Agent,
    board: &Board,
    id: Option<AgentId>,
) -> Result<Agent, Problem> {
    let id = id.ok_or_else(|| Problem::not_found("Agent"))?;
    let target = places.agent_on(board, id).await.map_err(in_path)?;
    if target.id == lead.id {
        let detail = "An agent can't nudge itself";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "self_nudge", detail).with("path:agent_id", detail));
    }
    Ok(target)
}

/// The agent whose soul is read: one of the board's by its lead, or the reader itself.
pub(crate) async fn soul_to_read(
    places: &mut Places<'_>,
    reader: &Agent,
    board: &Board,
    id: Option<AgentId>,
) -> Result<Agent, Problem> {
    if id == Some(reader.id) {
        return Ok(reader.clone());
    }
    lead(reader)?;
    soul_to_write(places, board, id).await
}

/// The agent whose soul a lead writes: one of its board, the lead too.
pub(crate) async fn soul_to_write(
    places: &mut Places<'_>,
    board: &Board,
    id: Option<AgentId>,
) -> Result<Agent, Problem> {
    let id = id.ok_or_else(|| Problem::not_found("Agent"))?;
    places.agent_on(board, id).await.map_err(in_path)
}

/// Only a gateway's own agent.
pub(crate) fn main(agent: &Agent) -> Result<(), Problem> {
    if agent.role == AgentRole::Main && agent.board_id.is_none() { Ok(()) } else { Err(forbidden(MAIN_ONLY)) }
}

/// A board of the gateway that this agent, its own one, speaks for.
pub(crate) async fn board_of_gateway(places: &mut Places<'_>, agent: &Agent, id: BoardId) -> Result<Board, Problem> {
    main(agent)?;
    let board = places.board(id).await.map_err(in_path)?;
    if board.gateway_id == Some(agent.gateway_id) {
        return Ok(board);
    }
    Err(forbidden("This board belongs to another gateway"))
}

fn forbidden(detail: &'static str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
}

/// On the routes of agents, what is named is in the path.
fn in_path(mut problem: Problem) -> Problem {
    for error in &mut problem.errors {
        if let Some(name) = error.pointer.strip_prefix('/') {
            error.pointer = format!("path:{name}");
        }
    }
    problem
}

#[cfg(test)]
pub(crate) mod tests {
    use errand_common::domain::{GatewayId, Timestamp, coordination::AgentStatus};

    use super::*;

    pub(crate) fn agent(role: AgentRole, gateway_id: GatewayId, board_id: Option<BoardId>) -> Agent {
        Agent {
            id: AgentId::new(),
            tenant: "t".to_owned(),
            gateway_id,
            board_id,
            name: "Ada".to_owned(),
            role,
            session_key: "agent:x:main".to_owned(),
            bound: false,
            status: AgentStatus::Online,
            soul: None,
            soul_hash: None,
            has_token: true,
            generation: 1,
            provision_job: None,
            provision_error: None,
            provisioned_at: None,
            last_seen_at: None,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        }
    }

    pub(crate) fn board(gateway_id: Option<GatewayId>) -> Board {
        Board {
            id: BoardId::new(),
            tenant: "t".to_owned(),
            name: "Ops".to_owned(),
            slug: "ops".to_owned(),
            gateway_id,
            paused: false,
            tail_seq: 0,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        }
    }

    #[test]
    fn an_agent_enters_its_own_board_and_one_without_a_board_those_of_its_gateway() {
        let gateway = GatewayId::new();
        let (own, other, elsewhere) = (board(Some(gateway)), board(Some(gateway)), board(Some(GatewayId::new())));
        let worker = agent(AgentRole::Worker, gateway, Some(own.id));
        assert!(enter(&worker, &own).is_ok() && enter(&worker, &other).is_err());
        let without = agent(AgentRole::Main, gateway, None);
        assert!(enter(&without, &own).is_ok() && enter(&without, &elsewhere).is_err());
        assert!(enter(&without, &board(None)).is_err());
    }

    #[test]
    fn leads_lead_and_the_gateways_own_agent_speaks_to_leads() {
        let gateway = GatewayId::new();
        let of = |role, board| agent(role, gateway, board);
        let board = Some(BoardId::new());
        assert!(lead(&of(AgentRole::Lead, board)).is_ok() && main(&of(AgentRole::Main, None)).is_ok());
        for refused in [of(AgentRole::Worker, board), of(AgentRole::Worker, None), of(AgentRole::Main, None)] {
            assert_eq!(lead(&refused).expect_err("refused").status, StatusCode::FORBIDDEN);
        }
        for refused in [of(AgentRole::Worker, board), of(AgentRole::Worker, None), of(AgentRole::Lead, board)] {
            assert_eq!(main(&refused).expect_err("refused").detail, MAIN_ONLY);
        }
    }
}
