//! A session's line: one active task, and those that wait.

use std::collections::BTreeSet;

use super::{
    cancel::{self, Reason},
    dialect::{Dialect, SqlRow, SqlTx, params},
    statement,
    unit::{Unit, id_rows},
};
use crate::{
    domain::{Change, JobId, JobState, OnBusy, SessionId},
    port::{StoreError, store::Interruption},
};

/// What stands in a session's line, and what is in its way.
struct Line {
    active: Option<JobId>,
    /// A finished run whose holder has not said that its processes are gone.
    unreleased: bool,
    /// The first of those that wait.
    next: Option<JobId>,
    /// Positions of the first and the last that wait; 0 if none does.
    ends: (i64, i64),
}

/// What becomes of a task whose time has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// It is the active one.
    Next,
    /// It waits at this position.
    Wait(i64),
    /// It is refused: this task is in its way.
    Busy(JobId),
}

/// Of these sessions, which the unit has locked. However long a line is, only its ends are read.
async fn lines<D: Dialect>(unit: &mut Unit<D>, sessions: &BTreeSet<SessionId>) -> Result<Vec<Line>, StoreError> {
    let ids = id_rows(sessions.iter().map(|id| id.uuid()));
    let rows = unit.tx.fetch(&statement::LINES, params![ids]).await?;
    rows.iter()
        .map(|row| {
            Ok(Line {
                active: row.opt_uuid("active")?.map(Into::into),
                unreleased: row.int("unreleased")? > 0,
                next: row.opt_uuid("next")?.map(Into::into),
                ends: (row.opt_int("first")?.unwrap_or(0), row.opt_int("last")?.unwrap_or(0)),
            })
        })
        .collect()
}

/// Judges a task that has come due in a session which the unit has locked. An active task that must give way is cancelled
/// and saved here.
pub(super) async fn admit<D: Dialect>(
    unit: &mut Unit<D>,
    session: SessionId,
    on_busy: OnBusy,
    interruption: Interruption,
    marker: &str,
) -> Result<Admission, StoreError> {
    let Some(line) = lines(unit, &BTreeSet::from([session])).await?.pop() else { return Ok(Admission::Next) };
    if line.active.is_none() && line.next.is_none() && !line.unreleased {
        return Ok(Admission::Next);
    }
    let (first, last) = line.ends;
    match on_busy {
        OnBusy::Reject => Ok(line.active.or(line.next).map_or(Admission::Wait(last + 1), Admission::Busy)),
        OnBusy::Enqueue => Ok(Admission::Wait(last + 1)),
        // No engine of this version takes text into a live run, so steering is interrupting.
        OnBusy::Interrupt | OnBusy::Steer => {
            let mut unreleased = line.unreleased;
            if let Some(active) = line.active {
                let mut rows = unit.lock_jobs([active]).await?;
                for row in &mut rows {
                    cancel::cancel_row(unit, row, &Reason::interrupted(interruption), marker).await?;
                    unreleased |= row.job.lease_until.is_some();
                }
                unit.save(&mut rows).await?;
            }
            Ok(if unreleased { Admission::Wait(first - 1) } else { Admission::Next })
        }
    }
}

/// Frees the next task of each of these sessions where nothing is in the way any more. What ended the last one must have
/// been saved before. Returns how many it freed.
pub(super) async fn free_next<D: Dialect>(
    unit: &mut Unit<D>,
    sessions: BTreeSet<SessionId>,
) -> Result<usize, StoreError> {
    if sessions.is_empty() {
        return Ok(0);
    }
    let rows =
        unit.tx.fetch(&statement::WAITING_SESSIONS, params![id_rows(sessions.iter().map(|id| id.uuid()))]).await?;
    let waiting: BTreeSet<SessionId> =
        rows.iter().map(|row| row.uuid("session_id").map(Into::into)).collect::<Result<_, _>>()?;
    if waiting.is_empty() {
        return Ok(0);
    }
    let next: Vec<JobId> = lines(unit, &waiting)
        .await?
        .into_iter()
        .filter(|line| line.active.is_none() && !line.unreleased)
        .filter_map(|line| line.next)
        .collect();
    if next.is_empty() {
        return Ok(0);
    }
    let mut rows = unit.lock_jobs(next).await?;
    rows.retain(|row| row.job.state == JobState::Blocked);
    for row in &mut rows {
        row.change(Change::Unblock).expect("only blocked jobs are kept");
        row.job.run_at = unit.now;
        unit.queue(row);
    }
    unit.save(&mut rows).await?;
    Ok(rows.len())
}
