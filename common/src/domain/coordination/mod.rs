//! Agents behind gateways, their boards, and what passes between them. Pure.
//!
//! * `gateway`, `board`, `agent`: who is where; names and keys follow from ids.
//! * `memory`, `question`, `activity`: what is left on boards, asked of people, and told of who did what.
//! * `schema`: what an answer has to look like.
//! * `text`: the messages that agents read.

pub mod activity;
pub mod agent;
pub mod board;
pub mod gateway;
pub mod memory;
pub mod question;
pub mod schema;
pub mod text;

pub use activity::{Activity, NewActivity, Told};
pub use agent::{Agent, AgentRole, AgentStatus, Presence};
pub use board::Board;
pub use gateway::Gateway;
pub use memory::Memory;
pub use question::{Question, QuestionState};
