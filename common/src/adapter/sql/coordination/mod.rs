//! Gateways, boards and agents; what is left on boards, asked of people and told of who did what.
//!
//! What other transactions leave behind here (a job that ended was told of, a question was withdrawn) is collected in
//! [`LeftOver`] and written by [`settle`] as part of the commit, so that no way to end a job can forget it. Boards are locked last
//! of all, in order of id: their streams are numbered under that lock.

mod activity;
mod agent;
mod answer;
mod board;
pub(super) mod broadcast;
mod gateway;
mod memory;
mod provision;
pub(super) mod question;
pub(super) mod repeat;
mod retain;
mod told;

use std::collections::BTreeMap;

use super::{dialect::Dialect, row::JobRow, unit::Unit};
use crate::{
    domain::{BoardId, Failure, JobId, JobState, NewEvent, Timestamp, coordination::NewActivity},
    port::{StoreError, store::AgentWritten},
    wire::coordination::{ASK_USER, PROVISION},
};

/// What a transaction has to write about coordination before it commits.
#[derive(Default)]
pub(super) struct LeftOver {
    lines: Vec<told::Line>,
    /// Jobs that ended and may have asked.
    askers: Vec<JobId>,
    /// Jobs that ended and did not provision what they should have, with why.
    failed_provisions: Vec<(JobId, Option<Failure>)>,
    /// What runs did to agents.
    written: Vec<(JobId, String, AgentWritten)>,
    questions: Vec<question::QuestionRow>,
    boards: BTreeMap<BoardId, board::Said>,
}

impl LeftOver {
    /// A job has ended; its `failure` is set. The caller saves the row.
    pub(super) fn job_ended(&mut self, row: &mut JobRow, now: Timestamp) {
        match row.job.kind.as_str() {
            ASK_USER => self.askers.push(row.job.id),
            PROVISION if row.job.state != JobState::Completed => {
                self.failed_provisions.push((row.job.id, row.job.failure.clone()));
            }
            _ => {}
        }
        self.tell(row, now);
    }

    /// What the run of a job did to an agent of its tenant.
    pub(super) fn wrote_agent(&mut self, row: &JobRow, written: AgentWritten) {
        self.written.push((row.job.id, row.job.tenant.clone(), written));
    }

    /// Something to be said in the stream of a board.
    fn say(&mut self, board: BoardId, job: Option<JobId>, event: NewEvent) {
        self.boards.entry(board).or_default().events.push((job, event));
    }
}

/// Writes a line of the audit that is no job's.
pub(super) async fn note<D: Dialect>(unit: &mut Unit<D>, tenant: &str, line: NewActivity) -> Result<(), StoreError> {
    let row = activity::ActivityRow::new(tenant.to_owned(), line, None, unit.now);
    activity::insert(&mut unit.tx, &[row]).await
}

/// Writes what is left over. Jobs are saved; sessions, events and messages are not written yet.
pub(super) async fn settle<D: Dialect>(unit: &mut Unit<D>) -> Result<(), StoreError> {
    question::keep(unit).await?;
    question::withdraw(unit).await?;
    provision::written(unit).await?;
    provision::give_up_provisions(unit).await?;
    told::write(unit).await?;
    board::publish(unit).await
}

/// Somebody else took the place at the same time: a unique index refused it, where a look before had found it free.
fn is_taken(error: &StoreError) -> bool {
    let StoreError::Refused(source) = error else { return false };
    let database = source.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
    database.is_some_and(|error| error.is_unique_violation())
}
