//! Workers: claim jobs, run them, write what came of it.

pub mod engine;
pub mod guard;
mod run;

pub use run::{RunError, RunOptions, run};
