//! Agents: who they are, how they are known, and how they come to be in their gateway.

use async_trait::async_trait;

use super::Removed;
use crate::{
    domain::{
        AgentId, BoardId, Fence, GatewayId, JobId, Timestamp,
        coordination::{Agent, AgentRole},
    },
    port::store::{IdempotencyRecord, Stale, StoreError, StoredAnswer},
};

/// An agent to be kept.
#[derive(Clone, Debug)]
pub struct NewAgent {
    /// Its id.
    pub id: AgentId,
    /// Whose it is.
    pub tenant: String,
    /// Where it runs.
    pub gateway_id: GatewayId,
    /// Where it works.
    pub board_id: Option<BoardId>,
    /// For people.
    pub name: String,
    /// What it is for.
    pub role: AgentRole,
    /// Its session in the gateway.
    pub session_key: String,
    /// That session is there already, and is never provisioned.
    pub bound: bool,
    /// SHA-256 of its token, in hex.
    pub token_hash: Option<String>,
    /// The token, sealed, until it is in the gateway.
    pub token_sealed: Option<String>,
}

/// What is to be changed; `None` stays.
#[derive(Clone, Default, Debug)]
pub struct AgentChange {
    /// For people.
    pub name: Option<String>,
    /// A new token: its hash, and itself sealed. The former is invalid at once; the agent learns the new one by its next
    /// provisioning, which a message to it brings about.
    pub token: Option<(String, String)>,
    /// Bind it to a session that is there already: it is never provisioned again.
    pub session_key: Option<String>,
}

/// Which agents.
#[derive(Clone, Debug)]
pub struct AgentFilter {
    /// Whose.
    pub tenant: String,
    /// Those of one board.
    pub board_id: Option<BoardId>,
    /// Those of one gateway.
    pub gateway_id: Option<GatewayId>,
    /// Older than this one.
    pub before: Option<AgentId>,
    /// How many.
    pub limit: u32,
}

/// Why an agent can't be as asked.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum AgentRefused {
    /// The board has a lead, or the gateway its own agent.
    #[error("there is one already")]
    RoleTaken,
    /// Another agent of the gateway has this session.
    #[error("another agent has this session")]
    SessionTaken,
    /// The tenant has no such gateway.
    #[error("Gateway not found")]
    GatewayUnknown,
    /// The tenant has no such board, or it is another gateway's.
    #[error("Board not found")]
    BoardUnknown,
    /// There is no such agent.
    #[error("Agent not found")]
    Unknown,
    /// The key was used before; this was the answer.
    #[error("the key was used before")]
    Replayed(Box<StoredAnswer>),
}

/// A board's lead, as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnsuredLead {
    /// The lead.
    pub agent: Agent,
    /// It was made for this job, by this call or an earlier one.
    pub created: bool,
}

/// How a provisioning ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Provisioned {
    /// The gateway has the agent, with its files. The sealed token is forgotten.
    Whole {
        /// SHA-256 of the `SOUL.md` it has, in hex.
        soul_hash: Option<String>,
    },
    /// It failed, and the next message tries again.
    Failed {
        /// For people.
        error: String,
    },
}

/// Agents.
#[async_trait]
pub trait Agents: Send + Sync {
    /// Keeps one, and the answer to its key.
    async fn create_agent(
        &self,
        new: NewAgent,
        idempotency: Option<IdempotencyRecord>,
        now: Timestamp,
    ) -> Result<Result<(), AgentRefused>, StoreError>;

    /// One.
    async fn agent(&self, tenant: &str, id: AgentId) -> Result<Option<Agent>, StoreError>;

    /// Several, newest first.
    async fn agents(&self, filter: &AgentFilter) -> Result<Vec<Agent>, StoreError>;

    /// The agent whose token has this hash, in any tenant.
    async fn agent_by_token(&self, hash: &str) -> Result<Option<Agent>, StoreError>;

    /// The gateway's own agent.
    async fn main_agent(&self, tenant: &str, gateway: GatewayId) -> Result<Option<Agent>, StoreError>;

    /// Which agent is each of these gateways' own.
    async fn main_agents(&self, tenant: &str, gateways: &[GatewayId]) -> Result<Vec<(GatewayId, AgentId)>, StoreError>;

    /// Changes one.
    async fn change_agent(
        &self,
        tenant: &str,
        id: AgentId,
        change: AgentChange,
        now: Timestamp,
    ) -> Result<Result<Agent, AgentRefused>, StoreError>;

    /// Removes one. The gateway's own goes with its gateway only: `InUse`.
    async fn remove_agent(&self, tenant: &str, id: AgentId) -> Result<Removed, StoreError>;

    /// It was heard of; `heartbeat` writes the line `agent.heartbeat`, too. Cheap: written if the last time is more than 30 s
    /// ago, or for a heartbeat.
    async fn agent_seen(&self, id: AgentId, heartbeat: bool, now: Timestamp) -> Result<(), StoreError>;

    /// The lead of a board of this gateway, made if there is none; `new` is what it is made of, for `job`. However many ask at
    /// once, one is made. A lead that is there stays as it is, with its name. `None`: no such board, or it is another gateway's,
    /// or the session of its lead is another agent's.
    async fn ensure_lead(&self, new: NewAgent, job: JobId, now: Timestamp) -> Result<Option<EnsuredLead>, StoreError>;

    /// The run is the only one that writes the agent's files, for as long as it has its lease. `Ok(false)`: another is, or the
    /// agent is being provisioned by another job, which then goes first. Of an agent that is gone nobody writes files.
    async fn take_files(&self, fence: Fence, id: AgentId, now: Timestamp) -> Result<Result<bool, Stale>, StoreError>;

    /// The run begins to provision an agent: `provisioning`, or `updating` if it was whole before, with a new generation unless this
    /// job had begun before. The sealed token is returned if it is still on its way. `Ok(None)`: no such agent, or it is bound.
    /// What a provisioning says of its end counts as long as no other began since, and the agent has not got another token.
    async fn begin_provisioning(
        &self,
        fence: Fence,
        id: AgentId,
        now: Timestamp,
    ) -> Result<Result<Option<(Agent, Option<String>)>, Stale>, StoreError>;
}
