//! What crosses a process boundary and must stay readable by the version before: payloads and signals.

pub mod callback;
pub mod control;
pub mod coordination;
pub mod credential;
pub mod engine;
pub mod gateway;
pub mod group;
pub mod http;
pub mod instance;
pub mod place;
pub mod task;
pub mod webhook;
