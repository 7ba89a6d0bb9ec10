//! Gateways, boards and agents as clients see them.

use errand_common::domain::{
    AgentId, BoardId, GatewayId, Timestamp,
    coordination::{Agent, AgentRole, AgentStatus, Board, Gateway, Presence},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::schema;

/// A gateway, without its secrets.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Gateway)]
pub(crate) struct GatewayView {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    pub(crate) id: GatewayId,
    /// For people.
    pub(crate) name: String,
    /// Where it listens.
    #[schema(example = "wss://gateway.example.com:18789")]
    pub(crate) url: String,
    /// It is shown a token.
    pub(crate) has_token: bool,
    /// Where its agents' workspaces are, on its machine.
    pub(crate) workspace_root: String,
    /// It is called as its control page does, without a device identity.
    pub(crate) disable_device_pairing: bool,
    /// Any certificate of it is believed.
    pub(crate) allow_insecure_tls: bool,
    /// Its own agent.
    #[schema(schema_with = schema::uuid_or_null)]
    pub(crate) main_agent_id: Option<AgentId>,
    /// Made.
    #[schema(schema_with = schema::time)]
    pub(crate) created_at: Timestamp,
    /// Last changed.
    #[schema(schema_with = schema::time)]
    pub(crate) updated_at: Timestamp,
}

impl GatewayView {
    pub(crate) fn new(gateway: Gateway, main: Option<AgentId>) -> Self {
        Self {
            id: gateway.id,
            name: gateway.name,
            url: gateway.url,
            has_token: gateway.token.is_some(),
            workspace_root: gateway.workspace_root,
            disable_device_pairing: gateway.disable_device_pairing,
            allow_insecure_tls: gateway.allow_insecure_tls,
            main_agent_id: main,
            created_at: gateway.created_at,
            updated_at: gateway.updated_at,
        }
    }
}

/// A board.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Board)]
pub(crate) struct BoardView {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    pub(crate) id: BoardId,
    /// For people.
    pub(crate) name: String,
    /// For addresses; unique within the tenant.
    pub(crate) slug: String,
    /// Where its agents run.
    #[schema(schema_with = schema::uuid_or_null)]
    pub(crate) gateway_id: Option<GatewayId>,
    /// The last command in its chat was `/pause`.
    pub(crate) paused: bool,
    /// Made.
    #[schema(schema_with = schema::time)]
    pub(crate) created_at: Timestamp,
    /// Last changed.
    #[schema(schema_with = schema::time)]
    pub(crate) updated_at: Timestamp,
}

impl From<Board> for BoardView {
    fn from(board: Board) -> Self {
        Self {
            id: board.id,
            name: board.name,
            slug: board.slug,
            gateway_id: board.gateway_id,
            paused: board.paused,
            created_at: board.created_at,
            updated_at: board.updated_at,
        }
    }
}

/// An agent, without its token.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Agent)]
pub(crate) struct AgentView {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    pub(crate) id: AgentId,
    /// Where it runs.
    #[schema(schema_with = schema::uuid)]
    pub(crate) gateway_id: GatewayId,
    /// Where it works; the gateway's own agent has none.
    #[schema(schema_with = schema::uuid_or_null)]
    pub(crate) board_id: Option<BoardId>,
    /// For people.
    pub(crate) name: String,
    /// What it is for.
    #[schema(schema_with = schema::agent_role)]
    pub(crate) role: AgentRole,
    /// It leads its board.
    pub(crate) is_board_lead: bool,
    /// Its session in the gateway.
    pub(crate) openclaw_session_id: String,
    /// That session was there before: it is used as it is, and never provisioned.
    pub(crate) is_bound: bool,
    /// Whether it is there: as its gateway and its calls say.
    #[schema(schema_with = schema::presence)]
    pub(crate) status: Presence,
    /// Where it is in its provisioning.
    #[schema(schema_with = schema::agent_status)]
    pub(crate) provisioning: AgentStatus,
    /// Why its last provisioning failed.
    pub(crate) last_provision_error: Option<String>,
    /// It has a token.
    pub(crate) has_token: bool,
    /// When it was last heard of.
    #[schema(schema_with = schema::time_or_null)]
    pub(crate) last_seen_at: Option<Timestamp>,
    /// When it was last provisioned whole.
    #[schema(schema_with = schema::time_or_null)]
    pub(crate) provisioned_at: Option<Timestamp>,
    /// Made.
    #[schema(schema_with = schema::time)]
    pub(crate) created_at: Timestamp,
    /// Last changed.
    #[schema(schema_with = schema::time)]
    pub(crate) updated_at: Timestamp,
}

impl AgentView {
    pub(crate) fn new(agent: Agent, now: Timestamp) -> Self {
        Self {
            status: agent.presence(now),
            id: agent.id,
            gateway_id: agent.gateway_id,
            board_id: agent.board_id,
            name: agent.name,
            role: agent.role,
            is_board_lead: agent.role == AgentRole::Lead,
            openclaw_session_id: agent.session_key,
            is_bound: agent.bound,
            provisioning: agent.status,
            last_provision_error: agent.provision_error,
            has_token: agent.has_token,
            last_seen_at: agent.last_seen_at,
            provisioned_at: agent.provisioned_at,
            created_at: agent.created_at,
            updated_at: agent.updated_at,
        }
    }
}
