//! Logs, metrics and traces.

pub mod log;
pub mod metric;
pub mod trace;
