//! Workers: claim jobs, run them, write what came of it.
//!
//! ```text
//! queue ─► fetch ─► runner (apalis) ─► execute ─► handler ─► engine
//!            │                            │           │
//!          store ◄── lease, control    writer ◄── events, end
//! ```
//!
//! * [`run()`]: puts it together and drains it.
//! * [`engine`]: what runs prompts; [`guard`]: owns the processes they start.
//! * [`gateway`]: the client of OpenClaw gateways; [`probe`]: a look at all that are known.

mod control;
mod directory;
mod duty;
mod effect;
pub mod engine;
mod execute;
mod fetch;
mod gate;
pub mod gateway;
pub mod guard;
mod handler;
mod health;
mod lease;
mod metered;
mod outbound;
mod outcome;
mod pace;
pub mod probe;
mod refill;
mod registry;
mod retain;
mod retry_after;
mod run;
mod runner;
mod slots;
mod sweep;
mod traced;
mod warm;
mod writer;

pub use health::{Condition, Health};
pub use run::{RunError, RunOptions, run};
