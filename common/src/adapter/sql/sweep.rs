//! What the sweeper asks.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use serde::Serialize;
use uuid::Uuid;

use super::{
    SqlStore, approval,
    cancel::Reason,
    crash, dedup,
    dialect::{Dialect, SqlRow, SqlTx, batch, params},
    family, line,
    row::{self, JobRow},
    run::{give_up, hand_back},
    statement,
    unit::{Unit, id_rows},
    usage,
};
use crate::{
    domain::{Change, Failure, FailureClass, JobId, JobState, SessionId, Timestamp},
    port::{
        Ready, StoreError,
        store::{Consequences, Due, LostRun, Queued, RescueScope, Sweeps, Unblocked},
    },
};

/// A key whose time has passed, but whose jobs are still there, is looked at again after so long at least.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

#[derive(Serialize)]
struct KeyRow {
    tenant: String,
    owner: String,
    key: String,
    /// Read by the statement that puts it off alone.
    again_at: i64,
}

fn lost_run(row: &JobRow) -> LostRun {
    LostRun { job: row.job.clone(), claim: row.claim, claimed_at: row.claimed_at }
}

#[async_trait]
impl<D: Dialect> Sweeps for SqlStore<D> {
    async fn queued(&self, queue: &str, after: Option<&Ready>, limit: u32) -> Result<Vec<Queued>, StoreError> {
        let params = match after {
            Some(Ready { queue, tenant, priority, id, .. }) => {
                params![queue.as_str(), tenant.as_str(), u32::from(priority.get()), id.uuid(), limit]
            }
            None => params![queue, "", 0_u32, Uuid::nil(), limit],
        };
        let rows = self.dialect.read(&statement::QUEUED, params).await?;
        rows.iter().map(row::queued).collect()
    }

    async fn queue_names(&self, limit: u32) -> Result<Vec<String>, StoreError> {
        let rows = self.dialect.read(&statement::QUEUE_NAMES, params![limit]).await?;
        rows.iter().map(|row| row.text("queue")).collect()
    }

    async fn due(&self, queues: &[String], after_tenant: Option<&str>, limit: u32) -> Result<Due, StoreError> {
        self.read_due(queues, after_tenant, limit).await
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
    ) -> Result<(Vec<LostRun>, Consequences), StoreError> {
        let sql = match scope {
            RescueScope::Lapsed => &statement::LAPSED,
            RescueScope::All => &statement::LEASED,
        };
        let ids = self.ids(&self.dialect.read(sql, params![limit]).await?)?;
        if ids.is_empty() {
            return Ok((Vec::new(), Consequences::default()));
        }
        let mut unit = Unit::begin(&self.dialect, now).await?;
        unit.lock_sessions_of(&ids).await?;
        let mut rows = unit.lock_free_jobs(&ids).await?;
        let lapsed = unit.db_now;
        rows.retain(|row| row.job.lease_until.is_some_and(|until| scope == RescueScope::All || until < lapsed));
        let lost = rows.iter().map(lost_run).collect();
        let holders = crash::holders(&mut unit, &rows).await?;
        usage::lost(&mut unit, &mut rows).await?;
        for row in &mut rows {
            let holder = row.job.worker_id.and_then(|worker| holders.get(&worker));
            if row.job.state.is_terminal() {
                row.end_lease();
                continue;
            }
            if row.job.state == JobState::AwaitingApproval {
                approval::let_go(&unit, row);
                continue;
            }
            row.cut_off_at = Some(now);
            row.snoozed_since = None;
            // A lease that was never renewed after the decision: its holder may have been gone before.
            if row.waited_until.is_some() && row.waited_until == row.job.lease_until {
                hand_back(&mut unit, row, "lease_lost");
                continue;
            }
            // Who asks for all knows that no holder lives, whatever its registration says.
            if scope == RescueScope::Lapsed && holder.is_some_and(|holder| holder.accounted) {
                hand_back(&mut unit, row, "lease_lost");
            } else {
                crash::end_crashed(&mut unit, row, holder).await?;
            }
        }
        unit.save(&mut rows).await?;
        line::free_next(&mut unit, rows.iter().filter_map(|row| row.job.session_id).collect()).await?;
        Ok((lost, unit.commit().await?))
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
            approval::close(&mut unit, row).await?;
            end_late(&mut unit, row);
        }
        unit.save(&mut rows).await?;
        line::free_next(&mut unit, rows.iter().filter_map(|row| row.job.session_id).collect()).await?;
        consequences.extend(unit.commit().await?);
        Ok((parents + rows.len(), consequences))
    }

    async fn unblock(
        &self,
        after: Option<SessionId>,
        now: Timestamp,
        limit: u32,
    ) -> Result<(Unblocked, Consequences), StoreError> {
        let after = after.map_or(Uuid::nil(), SessionId::uuid);
        let rows = self.dialect.read(&statement::BLOCKED_SESSIONS, params![after, limit]).await?;
        let mut free = BTreeSet::new();
        let mut last = None;
        for row in &rows {
            let session = SessionId::from(row.uuid("session_id")?);
            last = Some(session);
            if row.int("free")? > 0 {
                free.insert(session);
            }
        }
        let next = last.filter(|_| rows.len() == limit as usize);
        let successors = self.ids(&self.dialect.read(&statement::STUCK_SUCCESSORS, params![limit]).await?)?;
        if free.is_empty() && successors.is_empty() {
            return Ok((Unblocked { freed: 0, next }, Consequences::default()));
        }
        let mut unit = Unit::begin(&self.dialect, now).await?;
        unit.lock_sessions(free.iter().copied()).await?;
        let freed = line::free_next(&mut unit, free).await? + dedup::free(&mut unit, successors).await?;
        Ok((Unblocked { freed, next }, unit.commit().await?))
    }

    async fn forget_keys(&self, now: Timestamp, jobs_kept: Option<Duration>, limit: u32) -> Result<u64, StoreError> {
        let rows = self.dialect.read(&statement::STALE_IDEMPOTENCY, params![now, limit]).await?;
        let mut keys = Vec::with_capacity(rows.len());
        for row in &rows {
            let jobs: Vec<JobId> = serde_json::from_str(&row.text("job_ids")?).unwrap_or_default();
            let (tenant, owner, key) = (row.text("tenant")?, row.text("owner")?, row.text("key")?);
            keys.push((KeyRow { tenant, owner, key, again_at: 0 }, jobs));
        }
        let all = id_rows(keys.iter().flat_map(|(_, jobs)| jobs).map(|id| id.uuid()));
        let mut go_at = HashMap::new();
        for row in self.dialect.read(&statement::ENDS, params![all]).await? {
            let finished_at = row.opt_int("finished_at")?.map(Timestamp::from_micros);
            go_at.insert(JobId::from(row.uuid("id")?), finished_at.zip(jobs_kept).map(|(at, kept)| at.plus(kept)));
        }
        let (mut kept, mut done) = (Vec::new(), Vec::new());
        for (row, jobs) in keys {
            match jobs.iter().filter_map(|id| go_at.get(id)).max() {
                None => done.push(row),
                // So that those whose jobs are there don't stand before the others for ever.
                Some(at) => {
                    let again_at = at.unwrap_or_default().max(now.plus(LOOK_AGAIN)).micros();
                    kept.push(KeyRow { again_at, ..row });
                }
            }
        }
        let dedup_to_look_at = !self.dialect.read(&statement::ANY_STALE_DEDUP, params![now]).await?.is_empty();
        if kept.is_empty() && done.is_empty() && !dedup_to_look_at {
            return Ok(0);
        }
        let mut tx = self.dialect.begin().await?;
        let mut forgotten = tx.execute(&statement::FORGET_ALL, params![batch(&done), now]).await?;
        tx.execute(&statement::POSTPONE_ALL, params![batch(&kept), now]).await?;
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
