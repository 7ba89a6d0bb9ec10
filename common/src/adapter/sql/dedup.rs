//! Dedup keys: what stands under them, and what a submission does to it.
//!
//! Whoever submits under a key holds its row first, so that submissions under one key are judged by one at a time. The jobs
//! that may be replaced or waited for are locked next, all at once in order of id; then their successors. Whoever ends a job
//! likewise holds it before it locks its successor, which may have a smaller id: nobody waits in a ring.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    dialect::{Dialect, SqlRow, SqlTx, batch, params},
    row::{self, JobRow},
    statement,
    submit::new_row,
    unit::{Unit, id_rows},
};
use crate::{
    domain::{
        Change, Dedup, DedupMode, EventType, JobId, JobState, NewEvent, Timestamp,
        dedup::{Standing, Verdict, judge},
    },
    port::{
        StoreError,
        store::{Created, NewJob},
    },
};

/// Tenant, scope, key. The scope is the kind; of a user's job, the kind and the user: nobody meets another user's jobs.
type Key = (String, String, String);

/// In the column `kind`. No kind has a space in its name, so that no user can be mistaken for one.
fn scope_of(new: &NewJob) -> String {
    match &new.user_id {
        Some(user) => format!("{} {user}", new.kind),
        None => new.kind.clone(),
    }
}

fn key_of(new: &NewJob) -> Option<(Key, &Dedup)> {
    let dedup = new.dedup.as_ref()?;
    Some(((new.tenant.clone(), scope_of(new), dedup.key.clone()), dedup))
}

#[derive(Serialize)]
struct KeyRow<'a> {
    tenant: &'a str,
    kind: &'a str,
    key: &'a str,
    job_id: Uuid,
    keep_until: i64,
    look_at: i64,
}

impl<'a> KeyRow<'a> {
    fn new((tenant, kind, key): &'a Key, job_id: JobId, keep_until: Timestamp) -> Self {
        Self { tenant, kind, key, job_id: job_id.uuid(), keep_until: keep_until.micros(), look_at: keep_until.micros() }
    }
}

/// The last job under a key.
enum Last {
    /// In the database.
    Stored(Box<JobRow>),
    /// Made by this transaction and not written yet: its place among the new rows.
    Made(usize),
}

/// A key as this transaction holds it.
#[derive(Default)]
struct Held {
    last: Option<Last>,
    keep_until: Timestamp,
    /// The job that the key's row names.
    written: Option<(JobId, Timestamp)>,
    /// What a successor waits for goes on.
    first_goes_on: bool,
    /// The last one was given another input, and must be saved.
    replaced: bool,
}

fn by_id(rows: Vec<JobRow>) -> BTreeMap<JobId, JobRow> {
    rows.into_iter().map(|row| (row.job.id, row)).collect()
}

/// What is left to do for a job.
pub(super) enum Judged {
    /// Nothing: this one stands for it.
    Stands(Created),
    /// It must be made; with an id, to wait for that job's end.
    Make(Option<JobId>),
}

/// The keys of one transaction.
#[derive(Default)]
pub(super) struct Keys {
    held: BTreeMap<Key, Held>,
    /// Replaced, and then no longer the last under its key.
    displaced: Vec<JobRow>,
}

impl Keys {
    /// Locks the rows of the keys of these jobs, in order; makes those that are new.
    pub(super) async fn hold<D: Dialect>(
        unit: &mut Unit<D>,
        jobs: impl Iterator<Item = &NewJob>,
    ) -> Result<Self, StoreError> {
        let mut first_use: BTreeMap<Key, (JobId, Timestamp)> = BTreeMap::new();
        for new in jobs {
            if let Some((key, dedup)) = key_of(new) {
                first_use.entry(key).or_insert((new.id, dedup.keep_until(unit.now)));
            }
        }
        let mut keys = Self::default();
        if first_use.is_empty() {
            return Ok(keys);
        }
        let rows: Vec<_> = first_use.iter().map(|(key, (id, until))| KeyRow::new(key, *id, *until)).collect();
        for row in unit.tx.fetch(&statement::HOLD_DEDUP, params![batch(&rows)]).await? {
            let key = (row.text("tenant")?, row.text("kind")?, row.text("key")?);
            let keep_until = row::at(&row, "keep_until")?;
            let written = Some((row.uuid("job_id")?.into(), keep_until));
            keys.held.insert(key, Held { keep_until, written, ..Held::default() });
        }
        Ok(keys)
    }

    /// Reads what stands under the keys, and locks what may be replaced or waited for: a successor only if the one it waits
    /// for, which is locked first, goes on. If that one has just ended, the successor is an active job by now, which can't be
    /// locked in order any more: who comes to wait for it may miss its end, and is freed by the sweep.
    pub(super) async fn load<D: Dialect>(
        &mut self,
        unit: &mut Unit<D>,
        jobs: impl Iterator<Item = &NewJob>,
    ) -> Result<(), StoreError> {
        if self.held.is_empty() {
            return Ok(());
        }
        let touching: BTreeSet<Key> =
            jobs.filter_map(key_of).filter(|(_, dedup)| dedup.mode.touches_others()).map(|(key, _)| key).collect();
        let named: Vec<Uuid> = self.held.values().filter_map(|held| held.written).map(|(id, _)| id.uuid()).collect();
        let mut rows = by_id(unit.load_jobs(&statement::SEE_JOBS, params![id_rows(named)]).await?);
        let last_of = |key: &Key| self.held.get(key).and_then(|held| held.written).map(|(id, _)| id);
        let lasts: BTreeSet<JobId> = touching.iter().filter_map(last_of).filter(|id| rows.contains_key(id)).collect();
        let firsts: BTreeSet<JobId> = lasts.iter().map(|id| rows[id].waits_for.unwrap_or(*id)).collect();
        if !firsts.is_empty() {
            rows.extend(by_id(unit.lock_jobs(firsts).await?));
        }
        let goes_on = |id: JobId| rows.get(&id).is_some_and(|row| !row.job.state.is_terminal());
        let (waiting, freed): (Vec<JobId>, Vec<JobId>) = lasts
            .iter()
            .filter(|id| rows[id].waits_for.is_some())
            .partition(|id| rows[id].waits_for.is_some_and(goes_on));
        if !waiting.is_empty() {
            rows.extend(by_id(unit.lock_jobs(waiting).await?));
        }
        if !freed.is_empty() {
            let freed = id_rows(freed.into_iter().map(JobId::uuid));
            rows.extend(by_id(unit.load_jobs(&statement::SEE_JOBS, params![freed]).await?));
        }
        for held in self.held.values_mut() {
            let Some((id, _)) = held.written else { continue };
            let Some(row) = rows.get(&id).cloned() else { continue };
            let first = row.waits_for.and_then(|first| rows.get(&first));
            held.first_goes_on = first.is_some_and(|first| !first.job.state.is_terminal());
            held.last = Some(Last::Stored(Box::new(row)));
        }
        Ok(())
    }

    /// Judges a job. `made` are the rows that this transaction will insert.
    pub(super) fn judge<D: Dialect>(&mut self, unit: &mut Unit<D>, new: &NewJob, made: &mut [JobRow]) -> Judged {
        let Some((key, dedup)) = key_of(new) else { return Judged::Make(None) };
        let held = self.held.entry(key).or_default();
        let standing = held.standing(unit, made);
        let verdict = judge(dedup.mode, standing.as_ref(), unit.now);
        let last = match &mut held.last {
            Some(Last::Stored(row)) => Some(row.as_mut()),
            Some(Last::Made(place)) => made.get_mut(*place),
            None => None,
        };
        match (verdict, last, standing) {
            (Verdict::Succeed(first), ..) => Judged::Make(Some(first)),
            (Verdict::New, ..) | (_, None, _) | (_, _, None) => Judged::Make(None),
            (verdict, Some(row), Some(standing)) => {
                if verdict == Verdict::Replace {
                    replace(unit, row, new, dedup);
                    held.replaced = true;
                }
                Judged::Stands(Created {
                    id: row.job.id,
                    state: standing.state,
                    session_id: row.job.session_id,
                    deduplicated: true,
                })
            }
        }
    }

    /// The job was made: it is the last under its key now. `place` says where among the new rows, unless it is written.
    pub(super) fn made(&mut self, new: &NewJob, row: &JobRow, place: Option<usize>, now: Timestamp) {
        let Some((key, dedup)) = key_of(new) else { return };
        let held = self.held.entry(key).or_default();
        if std::mem::take(&mut held.replaced)
            && let Some(Last::Stored(before)) = held.last.take()
        {
            self.displaced.push(*before);
        }
        held.last = Some(place.map_or_else(|| Last::Stored(Box::new(row.clone())), Last::Made));
        held.keep_until = dedup.keep_until(now);
        held.first_goes_on = row.waits_for.is_some();
    }

    /// Writes replaced jobs and changed keys; forgets keys whose only job was refused.
    pub(super) async fn save<D: Dialect>(self, unit: &mut Unit<D>, made: &[JobRow]) -> Result<(), StoreError> {
        let (mut changed, mut unused) = (Vec::new(), Vec::new());
        let mut replaced: Vec<_> = self.displaced.iter().map(JobRow::inserted).collect();
        for (key, held) in &self.held {
            let last = match &held.last {
                Some(Last::Stored(row)) => Some(row.as_ref()),
                Some(Last::Made(place)) => made.get(*place),
                None => None,
            };
            let Some(row) = last else {
                unused.extend(held.written.map(|(id, until)| KeyRow::new(key, id, until)));
                continue;
            };
            if held.written != Some((row.job.id, held.keep_until)) {
                changed.push(KeyRow::new(key, row.job.id, held.keep_until));
            }
            if held.replaced && matches!(held.last, Some(Last::Stored(_))) {
                replaced.push(row.inserted());
            }
        }
        for (sql, rows) in [(&statement::SAVE_DEDUP, changed), (&statement::FORGET_DEDUP, unused)] {
            if !rows.is_empty() {
                unit.tx.execute(sql, params![batch(&rows)]).await?;
            }
        }
        if !replaced.is_empty() {
            let written = unit.tx.execute(&statement::REPLACE_JOBS, params![batch(&replaced)]).await?;
            if written != replaced.len() as u64 {
                return Err(StoreError::Corrupt(format!("{} locked jobs, but {written} replaced", replaced.len())));
            }
        }
        Ok(())
    }
}

impl Held {
    fn standing<D: Dialect>(&self, unit: &Unit<D>, made: &[JobRow]) -> Option<Standing> {
        let row = match self.last.as_ref()? {
            Last::Stored(row) => row,
            Last::Made(place) => made.get(*place)?,
        };
        // Another job of the same transaction may have pushed it aside.
        let state = if unit.ended.contains(&row.job.id) { JobState::Cancelled } else { row.job.state };
        Some(Standing {
            id: row.job.id,
            state,
            claimed: row.claim > 0,
            run_at: row.job.run_at,
            keep_until: self.keep_until,
            waits_for: row.waits_for.map(|first| (first, self.first_goes_on)),
        })
    }
}

/// Gives a job that nobody has taken what a later submission brings. It keeps its id and its place in time.
fn replace<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow, new: &NewJob, dedup: &Dedup) {
    let brought = new_row(new, unit.now);
    row.job.payload_version = brought.job.payload_version;
    row.job.queue = brought.job.queue;
    row.job.priority = brought.job.priority;
    row.job.payload = brought.job.payload;
    row.job.retry = brought.job.retry;
    row.job.timeout_ms = brought.job.timeout_ms;
    row.job.expires_at = brought.job.expires_at;
    row.job.deadline = brought.job.deadline;
    row.job.metadata = brought.job.metadata;
    let data = if dedup.mode == DedupMode::Debounce {
        row.job.run_at = unit.now.plus(dedup.ttl);
        json!({"state": row.job.state, "reason": "debounced", "run_at": row.job.run_at})
    } else {
        json!({"state": row.job.state, "reason": "replaced"})
    };
    unit.emit(row, NewEvent::new(EventType::Queued, data));
    unit.consequences.ready.extend(row.ready());
}

/// Frees those that wait for these jobs, which have ended and are saved.
pub(super) async fn free_successors<D: Dialect>(unit: &mut Unit<D>, ended: &[JobId]) -> Result<(), StoreError> {
    if ended.is_empty() {
        return Ok(());
    }
    let ids = id_rows(ended.iter().map(|id| id.uuid()));
    let rows = unit.tx.fetch(&statement::SUCCESSORS, params![ids]).await?;
    let ids: Vec<JobId> = rows.iter().map(|row| row.uuid("id").map(Into::into)).collect::<Result<_, _>>()?;
    free(unit, ids).await.map(drop)
}

/// Frees successors whose turn has come. Returns how many.
pub(super) async fn free<D: Dialect>(unit: &mut Unit<D>, successors: Vec<JobId>) -> Result<usize, StoreError> {
    if successors.is_empty() {
        return Ok(0);
    }
    let mut rows = unit.lock_jobs(successors).await?;
    rows.retain(|row| row.job.state == JobState::Blocked && row.waits_for.is_some());
    for row in &mut rows {
        row.change(Change::Unblock).expect("only blocked jobs are kept");
        row.waits_for = None;
        row.job.run_at = unit.now;
        unit.queue(row);
    }
    unit.save(&mut rows).await?;
    Ok(rows.len())
}

/// Forgets keys that stand for nothing any more; puts off those whose job goes on to `look_again`. Returns how many it
/// forgot.
pub(super) async fn forget<D: Dialect>(
    tx: &mut D::Tx,
    now: Timestamp,
    look_again: Timestamp,
    limit: u32,
) -> Result<u64, StoreError> {
    let mut keys: Vec<(Key, JobId)> = Vec::new();
    for row in tx.fetch(&statement::STALE_DEDUP, params![now, limit]).await? {
        keys.push(((row.text("tenant")?, row.text("kind")?, row.text("key")?), row.uuid("job_id")?.into()));
    }
    if keys.is_empty() {
        return Ok(0);
    }
    // Asked under the keys' locks: none of them is given to another job meanwhile.
    let all = id_rows(keys.iter().map(|(_, id)| id.uuid()));
    let mut unfinished: BTreeSet<JobId> = BTreeSet::new();
    for row in tx.fetch(&statement::ENDS, params![all]).await? {
        if row.opt_int("finished_at")?.is_none() {
            unfinished.insert(row.uuid("id")?.into());
        }
    }
    let (live, done): (Vec<_>, Vec<_>) = keys.iter().partition(|(_, id)| unfinished.contains(id));
    let rows = |keys: Vec<&(Key, JobId)>| {
        batch(&keys.into_iter().map(|(key, id)| KeyRow::new(key, *id, now)).collect::<Vec<_>>())
    };
    tx.execute(&statement::POSTPONE_DEDUP, params![rows(live), look_again]).await?;
    tx.execute(&statement::FORGET_DEDUP, params![rows(done)]).await
}
