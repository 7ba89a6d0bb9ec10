//! A session's line: one active task, and those that wait.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cancel::{self, Reason},
    dialect::{Dialect, SqlRow, SqlTx, params},
    row::JobRow,
    statement,
    unit::{Unit, id_rows},
};
use crate::{
    domain::{Change, JobId, JobState, OnBusy, SessionId},
    port::StoreError,
};

/// What stands in a session's line, and what is in its way.
#[derive(Default)]
struct Line {
    active: Option<JobRow>,
    /// A finished run whose holder has not said that its processes are gone.
    unreleased: bool,
    /// In order.
    blocked: Vec<JobRow>,
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

async fn lines<D: Dialect>(
    unit: &mut Unit<D>,
    sessions: &BTreeSet<SessionId>,
) -> Result<BTreeMap<SessionId, Line>, StoreError> {
    let ids = id_rows(sessions.iter().map(|id| id.uuid()));
    let mut lines: BTreeMap<_, Line> = BTreeMap::new();
    for row in unit.load_jobs(&statement::LINES, params![ids]).await? {
        let Some(session) = row.job.session_id else { continue };
        let line = lines.entry(session).or_default();
        match row.job.state {
            JobState::Blocked => line.blocked.push(row),
            state if state.is_terminal() => line.unreleased = true,
            _ => line.active = Some(row),
        }
    }
    Ok(lines)
}

/// Judges a task that has come due in a session which the unit has locked. An active task that must give way is cancelled
/// and saved here.
pub(super) async fn admit<D: Dialect>(
    unit: &mut Unit<D>,
    session: SessionId,
    on_busy: OnBusy,
    marker: &str,
) -> Result<Admission, StoreError> {
    let line = lines(unit, &BTreeSet::from([session])).await?.remove(&session).unwrap_or_default();
    if line.active.is_none() && line.blocked.is_empty() && !line.unreleased {
        return Ok(Admission::Next);
    }
    let first = line.blocked.first().and_then(|row| row.position).unwrap_or(0);
    let last = line.blocked.last().and_then(|row| row.position).unwrap_or(0);
    let in_the_way = line.active.as_ref().or(line.blocked.first()).map(|row| row.job.id);
    match on_busy {
        OnBusy::Reject => Ok(in_the_way.map_or(Admission::Wait(last + 1), Admission::Busy)),
        OnBusy::Enqueue => Ok(Admission::Wait(last + 1)),
        // No engine of this version takes text into a live run, so steering is interrupting.
        OnBusy::Interrupt | OnBusy::Steer => {
            let mut unreleased = line.unreleased;
            if let Some(active) = line.active {
                // The line was read without locks on its jobs: a renewal may have moved the lease since.
                let mut rows = unit.lock_jobs([active.job.id]).await?;
                for row in &mut rows {
                    cancel::cancel_row(unit, row, &Reason::interrupted(), marker).await?;
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
    let ids = id_rows(sessions.iter().map(|id| id.uuid()));
    let rows = unit.tx.fetch(&statement::WAITING_SESSIONS, params![ids]).await?;
    let waiting: BTreeSet<SessionId> =
        rows.iter().map(|row| row.uuid("session_id").map(Into::into)).collect::<Result<_, _>>()?;
    if waiting.is_empty() {
        return Ok(0);
    }
    let next: Vec<JobId> = lines(unit, &waiting)
        .await?
        .into_values()
        .filter(|line| line.active.is_none() && !line.unreleased)
        .filter_map(|line| line.blocked.first().map(|row| row.job.id))
        .collect();
    let mut rows = unit.lock_jobs(next).await?;
    rows.retain(|row| row.job.state == JobState::Blocked);
    for row in &mut rows {
        row.change(Change::Unblock).expect("only blocked jobs are kept");
        unit.queue(row);
    }
    unit.save(&mut rows).await?;
    Ok(rows.len())
}
