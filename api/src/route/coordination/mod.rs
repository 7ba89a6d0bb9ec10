//! Gateways and coordination: those of operators and users, and those that agents call with their token.

pub(crate) mod activity;
pub(crate) mod agent;
pub(crate) mod agent_provision;
pub(crate) mod agent_token;
pub(crate) mod ask_user;
pub(crate) mod board;
pub(crate) mod broadcast;
pub(crate) mod gateway;
pub(crate) mod heartbeat;
pub(crate) mod lead_message;
pub(crate) mod memory;
pub(crate) mod memory_stream;
pub(crate) mod nudge;
pub(crate) mod question;
pub(crate) mod soul;
