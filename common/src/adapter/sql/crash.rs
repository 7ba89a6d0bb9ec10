//! Runs whose worker died.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    dialect::{Dialect, SqlRow, SqlTx, params},
    row::{self, JobRow},
    run::{announce_retry, give_up},
    statement,
    unit::{Unit, id_rows},
};
use crate::{
    domain::{
        Change, Failure, FailureClass, WorkerId,
        poison::{self, Loss},
        retry::{Circumstances, Decision, after_failure},
    },
    port::StoreError,
};

/// Failed attempts that are looked through for earlier losses.
const ATTEMPTS_READ: u32 = 100;

/// A worker that holds a lease.
pub(super) struct Holder {
    host: String,
    /// It lives, or said good-bye: its runs did not crash.
    pub(super) accounted: bool,
}

/// Those of the rows' holders that are known.
pub(super) async fn holders<D: Dialect>(
    unit: &mut Unit<D>,
    rows: &[JobRow],
) -> Result<BTreeMap<WorkerId, Holder>, StoreError> {
    let holders: BTreeSet<_> = rows.iter().filter_map(|row| row.job.worker_id).map(WorkerId::uuid).collect();
    let rows = unit.tx.fetch(&statement::HOLDERS, params![id_rows(holders)]).await?;
    rows.iter()
        .map(|row| {
            let holder = Holder { host: row.text("host")?, accounted: row.int("accounted")? > 0 };
            Ok((row.uuid("id")?.into(), holder))
        })
        .collect()
}

/// Ends a run whose worker died: the next attempt is due at once, unless that was the last, or one crash too many.
pub(super) async fn end_crashed<D: Dialect>(
    unit: &mut Unit<D>,
    row: &mut JobRow,
    holder: Option<&Holder>,
) -> Result<(), StoreError> {
    row.end_lease();
    row.crashes += 1;
    let loss = Loss { worker_id: row.job.worker_id, host: holder.map(|holder| holder.host.clone()), at: unit.now };
    if row.crashes >= poison::QUARANTINE_CRASHES {
        let mut losses = earlier_losses(unit, row).await?;
        losses.push(loss);
        let failure = crashed(row, "QUARANTINED", poison::evidence(&losses));
        give_up(unit, row, failure, Change::Fail);
        return Ok(());
    }
    let failure = crashed(row, "WORKER_LOST", "The worker that ran it died".to_owned());
    let circumstances = Circumstances {
        policy: row.job.retry,
        deadline: row.job.deadline,
        retry_after: None,
        now: unit.now,
        dice: 0.0,
    };
    match after_failure(&failure, &circumstances) {
        Decision::GiveUp => give_up(unit, row, failure, Change::Fail),
        Decision::Retry { run_at } => {
            announce_retry(unit, row, failure, run_at, Some(&loss));
            row.change(Change::HandBack).expect("a leased job that has not ended is running");
            unit.consequences.ready.extend(row.ready());
        }
    }
    Ok(())
}

fn crashed(row: &JobRow, code: &str, message: String) -> Failure {
    Failure { class: FailureClass::Crash, code: code.to_owned(), message, attempt: row.job.attempt }
}

/// What the job's events say of the workers it lost before, in order.
async fn earlier_losses<D: Dialect>(unit: &mut Unit<D>, row: &JobRow) -> Result<Vec<Loss>, StoreError> {
    let events = unit.tx.fetch(&statement::RETRYING, params![row.job.id.uuid(), ATTEMPTS_READ]).await?;
    let mut losses = Vec::new();
    for event in events.iter().rev() {
        let data: Value = serde_json::from_str(&event.text("data")?).unwrap_or_default();
        if data["class"] == FailureClass::Crash.as_str() {
            losses.push(Loss {
                worker_id: data["worker_id"].as_str().and_then(|id| id.parse().ok()),
                host: data["host"].as_str().map(str::to_owned),
                at: row::at(event, "ts")?,
            });
        }
    }
    Ok(losses)
}
