//! The library every part of Errand stands on: no HTTP, no handlers, no `main`.
//!
//! Direction of imports: `domain ← wire ← port ← adapter ← backend`. `config` and `telemetry` are leaves
//! (`config` knows the forms of keys, to check them; `telemetry` what a job's trace is).
//!
//! * [`domain`]: what a job is and how it may change; pure, no I/O.
//! * [`wire`]: what crosses a process boundary (payloads of the kinds, bus messages, answers).
//! * [`port`]: the four promises (`Store`, `Queue`, `Bus`, `Clock`) everything else is written against.
//! * [`adapter`]: PostgreSQL and SQLite, and the in-process queue and bus.
//! * [`vault`]: secrets that must come back, sealed.
//! * [`backend`]: the only place that knows which adapters run.

pub mod adapter;
pub mod backend;
pub mod config;
pub mod domain;
pub mod port;
pub mod telemetry;
pub mod vault;
pub mod wire;
