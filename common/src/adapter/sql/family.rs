//! Parents and children.
//!
//! A transaction that ends a child locks its parent last, as part of [`Unit::commit`], so that no way to end can forget it, and
//! whoever ends a parent locks its children first. A parent's row is thus always locked after those of its children: nobody
//! waits in a ring. Under that lock the children's own rows say whether all have ended; there is no counter to go wrong.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{
    cancel::{Reason, cancel_row},
    coordination::broadcast,
    dialect::{Dialect, SqlRow, SqlTx, params},
    line,
    row::{self, JobRow},
    run::give_up,
    statement,
    unit::{Unit, id_rows},
};
use crate::{
    domain::{Change, Children, EventType, Failure, FailureClass, JobId, JobState, NewEvent},
    port::StoreError,
    wire::coordination::BROADCAST,
};

/// A child that ended in this transaction.
#[derive(Clone, Debug)]
pub(super) struct EndedChild {
    parent: JobId,
    id: JobId,
    kind: String,
    state: JobState,
    code: Option<String>,
}

impl EndedChild {
    pub(super) fn of(row: &JobRow) -> Option<Self> {
        let code = row.job.failure.as_ref().map(|failure| failure.code.clone());
        Some(Self {
            parent: row.job.parent_id?,
            id: row.job.id,
            kind: row.job.kind.clone(),
            state: row.job.state,
            code,
        })
    }
}

/// Tells parents of the children that ended in this transaction, which has saved them, and ends those parents whose last
/// child that was.
pub(super) async fn settle<D: Dialect>(unit: &mut Unit<D>) -> Result<(), StoreError> {
    // More than once only where a parent is a child itself.
    while !unit.ended_children.is_empty() {
        let ended = std::mem::take(&mut unit.ended_children);
        let parents: BTreeSet<JobId> = ended.iter().map(|child| child.parent).collect();
        let mut rows = unit.lock_jobs(parents).await?;
        rows.retain(|row| !row.job.state.is_terminal());
        tell(unit, &mut rows, &ended);
        let done = all_ended(unit, rows.iter().map(|row| row.job.id)).await?;
        for row in &mut rows {
            let Some(children) = done.get(&row.job.id) else { continue };
            if let Some(change) = children.verdict()
                && change.apply(row.job.state).is_ok()
            {
                end_parent(unit, row, children, change).await?;
            }
        }
        unit.save(&mut rows).await?;
    }
    Ok(())
}

fn tell<D: Dialect>(unit: &mut Unit<D>, parents: &mut [JobRow], ended: &[EndedChild]) {
    for row in parents {
        let id = row.job.id;
        for child in ended.iter().filter(|child| child.parent == id) {
            let mut data = json!({"child_id": child.id, "kind": child.kind, "state": child.state});
            if let Some(code) = &child.code {
                data["code"] = code.as_str().into();
            }
            unit.emit(row, NewEvent::new(EventType::ChildCompleted, data));
        }
    }
}

/// Ends a parent as its children did. What a parent of some kind makes of its children's results belongs here.
async fn end_parent<D: Dialect>(
    unit: &mut Unit<D>,
    row: &mut JobRow,
    children: &Children,
    change: Change,
) -> Result<(), StoreError> {
    let result = match row.job.kind.as_str() {
        BROADCAST => broadcast::result(unit, row.job.id).await?,
        _ => children.result(),
    };
    row.job.result = Some(result.clone());
    if change == Change::Fail {
        let failure = Failure {
            class: FailureClass::Fatal,
            code: "CHILDREN_FAILED".to_owned(),
            message: format!("None of its {} jobs completed", children.total()),
            attempt: row.job.attempt,
        };
        give_up(unit, row, failure, change);
        return Ok(());
    }
    let mut data = result;
    data["state"] = change.target().as_str().into();
    unit.emit(row, NewEvent::new(EventType::Completed, data));
    unit.end(row, change);
    Ok(())
}

/// Those of these parents, which the unit has locked, whose children have all ended, with the count of them.
async fn all_ended<D: Dialect>(
    unit: &mut Unit<D>,
    parents: impl Iterator<Item = JobId>,
) -> Result<BTreeMap<JobId, Children>, StoreError> {
    let ids = id_rows(parents.map(JobId::uuid));
    let rows = unit.tx.fetch(&statement::CHILDREN_ENDED, params![ids]).await?;
    let done = rows.iter().map(|row| row.uuid("id")).collect::<Result<Vec<_>, _>>()?;
    if done.is_empty() {
        return Ok(BTreeMap::new());
    }
    counted(&unit.tx.fetch(&statement::CHILDREN, params![id_rows(done)]).await?)
}

/// Rows of `CHILDREN`, by parent.
pub(super) fn counted(rows: &[impl SqlRow]) -> Result<BTreeMap<JobId, Children>, StoreError> {
    let mut found: BTreeMap<JobId, Children> = BTreeMap::new();
    for row in rows {
        let count = u64::try_from(row.int("jobs")?).unwrap_or_default();
        found.entry(row.uuid("parent_id")?.into()).or_default().by_state.push((row::state(row)?, count));
    }
    Ok(found)
}

/// Cancels the children of a job that still go on, tells it so, and returns it, locked, to be ended and saved by the
/// caller. `None`: there is no such job.
pub(super) async fn cancel_children<D: Dialect>(
    unit: &mut Unit<D>,
    parent: JobId,
    reason: &Reason,
    marker: &str,
) -> Result<Option<JobRow>, StoreError> {
    let found = unit.tx.fetch(&statement::LIVE_CHILDREN, params![parent.uuid()]).await?;
    let ids: Vec<JobId> = found.iter().map(|row| row.uuid("id").map(Into::into)).collect::<Result<_, _>>()?;
    unit.lock_sessions_of(&ids).await?;
    let mut children = unit.lock_jobs(ids).await?;
    children.retain(|row| !row.job.state.is_terminal());
    for row in &mut children {
        cancel_row(unit, row, reason, marker).await?;
    }
    unit.save(&mut children).await?;
    line::free_next(unit, children.iter().filter_map(|row| row.job.session_id).collect()).await?;
    let mut rows = unit.lock_jobs([parent]).await?;
    let (ours, others) = std::mem::take(&mut unit.ended_children).into_iter().partition(|child| child.parent == parent);
    unit.ended_children = others;
    let ours: Vec<_> = ours;
    if rows.iter().all(|row| !row.job.state.is_terminal()) {
        tell(unit, &mut rows, &ours);
    }
    Ok(rows.pop())
}
