//! Agents behind gateways, their boards, and what is left on those.
//!
//! Everything of a client is scoped by tenant: another tenant's id is as good as unknown.

mod activity;
mod agent;
mod board;
mod gateway;
mod memory;
mod question;

pub use activity::{Activities, ActivityFilter};
pub use agent::{AgentChange, AgentFilter, AgentRefused, Agents, EnsuredLead, NewAgent, Provisioned};
pub use board::{BoardChange, BoardFilter, BoardRefused, Boards, NewBoard};
pub use gateway::{GatewayChange, Gateways, NewGateway, Removed};
pub use memory::{Memories, MemoryFilter, NewMemory, Posted};
pub use question::{Answer, Answered, NewQuestion, QuestionFilter, Questions};

/// All of coordination.
pub trait Coordination: Gateways + Boards + Agents + Memories + Questions + Activities {}

impl<T: Gateways + Boards + Agents + Memories + Questions + Activities> Coordination for T {}
