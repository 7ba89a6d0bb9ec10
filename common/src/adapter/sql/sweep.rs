//! What the sweeper asks.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use serde::Serialize;
use uuid::Uuid;

use super::{
    SqlStore,
    cancel::Reason,
    dedup,
    dialect::{Dialect, SqlRow, SqlTx, batch, params},
    family, line,
    row::{self, JobRow},
    run::{announce_retry, give_up, hand_back},
    statement,
    unit::{Unit, id_rows},
};
use crate::{
    domain::{
        Change, Failure, FailureClass, JobId, SessionId, Timestamp, WorkerId,
        retry::{Circumstances, Decision, after_failure},
    },
    port::{
        Ready, StoreError,
        store::{Consequences, RescueScope, Sweeps},
    },
};

/// A key whose time has passed, but not its jobs', is looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

#[derive(Serialize)]
struct KeyRow {
    tenant: String,
    owner: String,
    key: String,
}

#[async_trait]
impl<D: Dialect> Sweeps for SqlStore<D> {
    async fn queued(&self, after: Option<JobId>, limit: u32) -> Result<Vec<Ready>, StoreError> {
        let after = after.map_or(Uuid::nil(), JobId::uuid);
        let rows = self.dialect.read(&statement::QUEUED, params![after, limit]).await?;
        rows.iter().map(row::ready).collect()
    }

    async fn upcoming(&self, until: Timestamp, limit: u32) -> Result<Vec<Ready>, StoreError> {
        let rows = self.dialect.read(&statement::UPCOMING, params![until, limit]).await?;
        rows.iter().map(row::ready).collect()
    }

    async fn rescue(
        &self,
        scope: RescueScope,
        now: Timestamp,
        limit: u32,
    ) -> Result<(usize, Consequences), StoreError> {
        let sql = match scope {
            RescueScope::Lapsed => &statement::LAPSED,
            RescueScope::All => &statement::LEASED,
        };
        let ids = self.ids(&self.dialect.read(sql, params![limit]).await?)?;
        if ids.is_empty() {
            return Ok((0, Consequences::default()));
        }
        let mut unit = Unit::begin(&self.dialect, now).await?;
        unit.lock_sessions_of(&ids).await?;
        let mut rows = unit.lock_free_jobs(&ids).await?;
        let lapsed = unit.db_now;
        rows.retain(|row| row.job.lease_until.is_some_and(|until| scope == RescueScope::All || until < lapsed));
        let accounted = match scope {
            RescueScope::Lapsed => accounted_workers(&mut unit, &rows).await?,
            RescueScope::All => BTreeSet::new(),
        };
        for row in &mut rows {
            let accounted = row.job.worker_id.is_some_and(|worker| accounted.contains(&worker));
            end_lapsed(&mut unit, row, accounted);
        }
        unit.save(&mut rows).await?;
        line::free_next(&mut unit, rows.iter().filter_map(|row| row.job.session_id).collect()).await?;
        Ok((rows.len(), unit.commit().await?))
    }

    async fn expire(&self, now: Timestamp, limit: u32) -> Result<(usize, Consequences), StoreError> {
        let (parents, mut consequences) = self.expire_parents(now, limit).await?;
        let mut ids = self.ids(&self.dialect.read(&statement::EXPIRING, params![now, limit]).await?)?;
        ids.extend(self.ids(&self.dialect.read(&statement::OVERDUE, params![now, limit]).await?)?);
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok((parents, consequences));
        }
        let mut unit = Unit::begin(&self.dialect, now).await?;
        unit.lock_sessions_of(&ids).await?;
        let mut rows = unit.lock_free_jobs(&ids).await?;
        rows.retain(|row| !row.job.state.is_terminal() && row.time_is_up(now));
        for row in &mut rows {
            end_late(&mut unit, row);
        }
        unit.save(&mut rows).await?;
        line::free_next(&mut unit, rows.iter().filter_map(|row| row.job.session_id).collect()).await?;
        consequences.extend(unit.commit().await?);
        Ok((parents + rows.len(), consequences))
    }

    async fn unblock(&self, now: Timestamp, limit: u32) -> Result<(usize, Consequences), StoreError> {
        let rows = self.dialect.read(&statement::FREE_SESSIONS, params![limit]).await?;
        let sessions: BTreeSet<SessionId> =
            rows.iter().map(|row| row.uuid("session_id").map(Into::into)).collect::<Result<_, _>>()?;
        let successors = self.ids(&self.dialect.read(&statement::STUCK_SUCCESSORS, params![limit]).await?)?;
        if sessions.is_empty() && successors.is_empty() {
            return Ok((0, Consequences::default()));
        }
        let mut unit = Unit::begin(&self.dialect, now).await?;
        unit.lock_sessions(sessions.iter().copied()).await?;
        let freed = line::free_next(&mut unit, sessions).await? + dedup::free(&mut unit, successors).await?;
        Ok((freed, unit.commit().await?))
    }

    async fn forget_keys(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let rows = self.dialect.read(&statement::STALE_IDEMPOTENCY, params![now, limit]).await?;
        let mut keys = Vec::with_capacity(rows.len());
        for row in &rows {
            let jobs: Vec<JobId> = serde_json::from_str(&row.text("job_ids")?).unwrap_or_default();
            keys.push((KeyRow { tenant: row.text("tenant")?, owner: row.text("owner")?, key: row.text("key")? }, jobs));
        }
        let all = id_rows(keys.iter().flat_map(|(_, jobs)| jobs).map(|id| id.uuid()));
        let unfinished = self.ids(&self.dialect.read(&statement::UNFINISHED, params![all]).await?)?;
        let unfinished: BTreeSet<_> = unfinished.into_iter().collect();
        let (kept, done): (Vec<_>, Vec<_>) =
            keys.into_iter().partition(|(_, jobs)| jobs.iter().any(|id| unfinished.contains(id)));
        let dedup_to_look_at = !self.dialect.read(&statement::ANY_STALE_DEDUP, params![now]).await?.is_empty();
        if kept.is_empty() && done.is_empty() && !dedup_to_look_at {
            return Ok(0);
        }
        let mut tx = self.dialect.begin().await?;
        let rows = |keys: Vec<(KeyRow, Vec<JobId>)>| batch(&keys.into_iter().map(|(key, _)| key).collect::<Vec<_>>());
        let mut forgotten = tx.execute(&statement::FORGET_ALL, params![rows(done), now]).await?;
        // So that those whose jobs live on don't stand before the others for ever.
        tx.execute(&statement::POSTPONE_ALL, params![rows(kept), now, now.plus(LOOK_AGAIN)]).await?;
        if dedup_to_look_at {
            forgotten += dedup::forget::<D>(&mut tx, now, now.plus(LOOK_AGAIN), limit).await?;
        }
        tx.commit().await?;
        Ok(forgotten)
    }
}

impl<D: Dialect> SqlStore<D> {
    /// Ends parents past their deadline, each with its children in a transaction of its own, until about `limit` jobs have
    /// ended. Returns how many parents.
    async fn expire_parents(&self, now: Timestamp, limit: u32) -> Result<(usize, Consequences), StoreError> {
        let mut consequences = Consequences::default();
        let mut parents = 0;
        for id in self.ids(&self.dialect.read(&statement::OVERDUE_PARENTS, params![now, limit]).await?)? {
            let mut unit = Unit::begin(&self.dialect, now).await?;
            let reason = Reason::parent_overdue();
            let parent = family::cancel_children(&mut unit, id, &reason, &self.interrupted_marker).await?;
            let Some(mut row) = parent.filter(|row| !row.job.state.is_terminal()) else { continue };
            end_late(&mut unit, &mut row);
            unit.save(&mut [row]).await?;
            consequences.extend(unit.commit().await?);
            parents += 1;
            if consequences.ended.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
                break;
            }
        }
        Ok((parents, consequences))
    }

    fn ids(&self, rows: &[D::Row]) -> Result<Vec<JobId>, StoreError> {
        rows.iter().map(|row| row.uuid("id").map(Into::into)).collect()
    }
}

/// Those of the holders that live, or said good-bye: their runs did not crash.
async fn accounted_workers<D: Dialect>(unit: &mut Unit<D>, rows: &[JobRow]) -> Result<BTreeSet<WorkerId>, StoreError> {
    let holders: BTreeSet<_> = rows.iter().filter_map(|row| row.job.worker_id).map(WorkerId::uuid).collect();
    let rows = unit.tx.fetch(&statement::ACCOUNTED_WORKERS, params![id_rows(holders)]).await?;
    rows.iter().map(|row| row.uuid("id").map(Into::into)).collect()
}

fn end_lapsed<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow, accounted: bool) {
    if row.job.state.is_terminal() {
        row.end_lease();
        return;
    }
    row.cut_off_at = Some(unit.now);
    row.snoozed_since = None;
    if accounted {
        hand_back(unit, row, "lease_lost");
        return;
    }
    row.end_lease();
    let failure = Failure {
        class: FailureClass::Crash,
        code: "WORKER_LOST".to_owned(),
        message: "The worker that ran it died".to_owned(),
        attempt: row.job.attempt,
    };
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
            announce_retry(unit, row, failure, run_at);
            row.change(Change::HandBack).expect("a leased job that has not ended is running");
            unit.consequences.ready.extend(row.ready());
        }
    }
}

fn end_late<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow) {
    let never_started = row.job.started_at.is_none() && Change::Expire.apply(row.job.state).is_ok();
    let (change, code, message) = if never_started {
        (Change::Expire, "EXPIRED", "It was not started in time")
    } else {
        (Change::Fail, "TIMEOUT", "Its deadline has passed")
    };
    let failure = Failure {
        class: FailureClass::Timeout,
        code: code.to_owned(),
        message: message.to_owned(),
        attempt: row.job.attempt,
    };
    give_up(unit, row, failure, change);
    unit.stop_holder(row);
}
