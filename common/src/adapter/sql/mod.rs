//! PostgreSQL and SQLite behind one implementation of the store.
//!
//! * `dialect`: the whole difference between the two, and the narrow waist all statements pass through.
//! * `statement`: every statement there is, written once for both.
//! * `row`: rows to domain values and back.
//! * `unit`: one transaction's bookkeeping: who is locked, which events, messages and numbers it makes.
//! * `coordination`: gateways, boards, agents, and what is left on boards.
//! * `webhook`: who outside is told of what other transactions do.
//! * the other files: one per sub-trait of [`crate::port::Store`].

mod access;
mod approval;
mod ask;
mod attachment;
mod cancel;
mod control;
mod coordination;
mod crash;
mod dedup;
mod dialect;
mod due;
mod effect;
mod engine_state;
mod family;
mod fleet;
mod inspect;
mod instance;
mod line;
mod open;
mod patience;
mod postgres;
mod preference;
mod read;
mod restore;
mod retain;
mod retry;
mod row;
mod run;
mod sealing;
mod sqlite;
mod statement;
mod submit;
mod sweep;
mod unit;
mod usage;
mod webhook;

pub use inspect::{Schema, inspect};
pub use open::{Migration, OpenError, OpenOptions, SchemaCheck, open};

use std::sync::Arc;

use dialect::Dialect;

/// The store on one of the two databases.
pub(crate) struct SqlStore<D: Dialect> {
    dialect: D,
    /// Read once at start: it changes only by a restore, with nothing running.
    epoch: Arc<str>,
    /// Ends the text of an interrupted answer in the history.
    interrupted_marker: Arc<str>,
}
