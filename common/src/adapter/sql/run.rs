//! What workers write.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    SqlStore, approval,
    dialect::{Dialect, SqlRow, SqlTx, batch, params},
    effect, engine_state,
    line::{self, Admission},
    row::{self, JobRow},
    statement,
    unit::{Unit, id_rows},
    usage,
};
use crate::{
    domain::{
        Change, EventType, Failure, FailureClass, Fence, JobId, JobState, LeaseToken, Message, NewEvent, OnBusy, Role,
        SessionId, Timestamp, WorkerId,
        poison::{Loss, SUSPECT_CRASHES},
    },
    port::{
        StoreError,
        store::{Append, Claimed, Claims, Consequences, Finish, Outcome, Release, Runs, Stale},
    },
};

#[derive(Serialize)]
struct FenceRow {
    id: Uuid,
    claim: i64,
    token: Uuid,
}

#[async_trait]
impl<D: Dialect> Runs for SqlStore<D> {
    async fn promote(&self, ids: &[JobId], now: Timestamp) -> Result<Consequences, StoreError> {
        if ids.is_empty() {
            return Ok(Consequences::default());
        }
        let mut unit = Unit::begin(&self.dialect, now).await?;
        unit.lock_sessions_of(ids).await?;
        let mut rows = unit.lock_free_jobs(ids).await?;
        rows.retain(|row| Change::ComeDue.apply(row.job.state).is_ok() && row.job.run_at <= now);
        let (alone, in_line): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| row.job.session_id.is_none() || row.job.state == JobState::Retrying);
        let mut alone = alone;
        for row in &mut alone {
            row.change(Change::ComeDue).expect("only those are kept");
            unit.queue(row);
        }
        unit.save(&mut alone).await?;
        for row in in_line {
            self.come_due_in_line(&mut unit, row).await?;
        }
        unit.commit().await
    }

    async fn claim(
        &self,
        worker: WorkerId,
        lease: Duration,
        ids: &[JobId],
        now: Timestamp,
    ) -> Result<(Claims, Consequences), StoreError> {
        self.claim_some(worker, lease, ids, now, |row| row.crashes >= SUSPECT_CRASHES).await
    }

    async fn claim_alone(
        &self,
        worker: WorkerId,
        lease: Duration,
        id: JobId,
        now: Timestamp,
    ) -> Result<(Option<Claimed>, Consequences), StoreError> {
        let (mut claims, consequences) = self.claim_some(worker, lease, &[id], now, |_| false).await?;
        Ok((claims.claimed.pop(), consequences))
    }

    async fn renew(&self, lease: Duration, fences: &[Fence]) -> Result<Vec<Result<Timestamp, Stale>>, StoreError> {
        if fences.is_empty() {
            return Ok(Vec::new());
        }
        let mut wanted: Vec<_> = fences
            .iter()
            .map(|fence| FenceRow { id: fence.job_id.uuid(), claim: fence.claim, token: fence.token.uuid() })
            .collect();
        wanted.sort_by_key(|row| row.id);
        let micros = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX);
        let mut tx = self.dialect.begin_renewal().await?;
        // Whoever cancels or ends jobs of several sessions locks those sessions first and some of the jobs late. So the
        // sessions come first here too, and then the jobs in order of id, which an UPDATE … FROM does not promise.
        let sessions: BTreeSet<_> = fences.iter().filter_map(|fence| fence.session_id).map(SessionId::uuid).collect();
        if !sessions.is_empty() {
            tx.fetch(&statement::LOCK_SESSIONS, params![id_rows(sessions)]).await?;
        }
        tx.fetch(&statement::LOCK_JOBS, params![id_rows(wanted.iter().map(|row| row.id))]).await?;
        let mut renewed = HashMap::new();
        for row in tx.fetch(&statement::RENEW, params![batch(&wanted), micros]).await? {
            renewed.insert((JobId::from(row.uuid("id")?), row.int("claim")?), row::at(&row, "lease_until")?);
        }
        tx.commit().await?;
        Ok(fences.iter().map(|fence| renewed.get(&(fence.job_id, fence.claim)).copied().ok_or(Stale)).collect())
    }

    async fn append(
        &self,
        entries: Vec<Append>,
        now: Timestamp,
    ) -> Result<(Vec<Result<(), Stale>>, Consequences), StoreError> {
        let (mut unit, mut rows) = self.hold(entries.iter().map(|entry| entry.fence), now).await?;
        let results = entries
            .into_iter()
            .map(|entry| {
                let row = rows.get_mut(&entry.fence.job_id).filter(|row| row.accepts(&entry.fence)).ok_or(Stale)?;
                for event in entry.events {
                    unit.emit(row, event);
                }
                Ok(())
            })
            .collect();
        let mut rows: Vec<_> = rows.into_values().collect();
        let written: BTreeSet<_> = unit.consequences.events.iter().filter_map(|event| event.job_id).collect();
        rows.retain(|row| written.contains(&row.job.id));
        unit.save_tails(&mut rows).await?;
        Ok((results, unit.commit().await?))
    }

    async fn finish(
        &self,
        entries: Vec<Finish>,
        now: Timestamp,
    ) -> Result<(Vec<Result<(), Stale>>, Consequences), StoreError> {
        let (mut unit, mut rows) = self.hold(entries.iter().map(|entry| entry.fence), now).await?;
        let reports: Vec<_> = entries
            .iter()
            .filter_map(|entry| {
                let row = rows.get(&entry.fence.job_id).filter(|row| row.accepts(&entry.fence))?;
                Some((row, entry.usage.clone()?))
            })
            .collect();
        let mut spent = usage::keep(&mut unit, &reports).await?;
        let mut ended = Vec::with_capacity(entries.len());
        let mut receipts = Vec::new();
        let mut results = Vec::with_capacity(entries.len());
        for entry in entries {
            let fence = entry.fence;
            let Some(mut row) = rows.remove(&fence.job_id) else {
                results.push(Err(Stale));
                continue;
            };
            if !row.accepts(&fence) {
                rows.insert(fence.job_id, row);
                results.push(Err(Stale));
                continue;
            }
            results.push(Ok(()));
            receipts.extend(effect::receipt_rows(row.job.id, entry.receipts, now));
            if let Some(written) = entry.agent {
                unit.left.wrote_agent(&row, written);
            }
            for event in entry.events.into_iter().chain(spent.remove(&fence.job_id)) {
                unit.emit(&mut row, event);
            }
            let resumable = entry.engine_state.is_some();
            if let Some(state) = entry.engine_state {
                engine_state::keep(&mut unit, &fence, state).await?;
            }
            if row.job.state == JobState::AwaitingApproval && matches!(entry.outcome, Outcome::HandedBack { .. }) {
                approval::let_wait(&mut row, resumable);
            } else {
                approval::end_wait(&mut unit, &mut row).await?;
                unit.to_tell.run_ended(&row, &entry.outcome);
                end_run(&mut unit, &mut row, entry.outcome);
            }
            ended.push(row);
        }
        unit.save(&mut ended).await?;
        effect::write_receipts(&mut unit, &receipts).await?;
        line::free_next(&mut unit, ended.iter().filter_map(|row| row.job.session_id).collect()).await?;
        Ok((results, unit.commit().await?))
    }

    async fn release(&self, release: Release, now: Timestamp) -> Result<(Result<(), Stale>, Consequences), StoreError> {
        let fence = release.fence;
        let (mut unit, rows) = self.hold([fence], now).await?;
        let mut rows: Vec<_> =
            rows.into_values().filter(|row| row.job.state.is_terminal() && row.is_held_by(&fence)).collect();
        if rows.is_empty() {
            return Ok((Err(Stale), Consequences::default()));
        }
        for row in &mut rows {
            let report = release.usage.clone().map(|report| (&*row, report));
            let spent = usage::keep(&mut unit, &Vec::from_iter(report)).await?;
            for event in spent.into_values() {
                unit.emit(row, event);
            }
            row.end_lease();
        }
        if let Some(state) = release.engine_state {
            engine_state::keep(&mut unit, &fence, state).await?;
        }
        unit.save(&mut rows).await?;
        line::free_next(&mut unit, BTreeSet::from_iter(fence.session_id)).await?;
        Ok((Ok(()), unit.commit().await?))
    }

    async fn history(&self, session: SessionId, job: JobId, limit: u32) -> Result<Vec<Message>, StoreError> {
        let rows = self.dialect.read(&statement::HISTORY, params![session.uuid(), job.uuid(), limit]).await?;
        rows.iter().rev().map(row::message).collect()
    }
}

impl<D: Dialect> SqlStore<D> {
    /// Locks the jobs of these fences, their sessions first.
    pub(super) async fn hold(
        &self,
        fences: impl IntoIterator<Item = Fence>,
        now: Timestamp,
    ) -> Result<(Unit<D>, BTreeMap<JobId, JobRow>), StoreError> {
        let fences: Vec<_> = fences.into_iter().collect();
        let sessions: BTreeSet<_> = fences.iter().filter_map(|fence| fence.session_id).collect();
        let jobs: BTreeSet<_> = fences.iter().map(|fence| fence.job_id).collect();
        let mut unit = Unit::begin(&self.dialect, now).await?;
        unit.lock_sessions(sessions).await?;
        let rows = unit.lock_jobs(jobs).await?;
        Ok((unit, rows.into_iter().map(|row| (row.job.id, row)).collect()))
    }

    /// Claims those of `ids` that can be, but for suspects.
    async fn claim_some(
        &self,
        worker: WorkerId,
        lease: Duration,
        ids: &[JobId],
        now: Timestamp,
        is_suspect: impl Fn(&JobRow) -> bool,
    ) -> Result<(Claims, Consequences), StoreError> {
        if ids.is_empty() {
            return Ok((Claims::default(), Consequences::default()));
        }
        let mut unit = Unit::begin(&self.dialect, now).await?;
        unit.lock_sessions_of(ids).await?;
        let wanted = id_rows(ids.iter().map(|id| id.uuid()));
        let mut rows = unit.load_jobs(&statement::LOCK_FREE_JOBS_WHOLE, params![wanted]).await?;
        rows.retain(|row| row.is_claimable(now));
        let (suspects, mut rows): (Vec<_>, Vec<_>) = rows.into_iter().partition(is_suspect);
        let suspects = suspects.into_iter().map(|row| row.job.id).collect();
        let lease_until = unit.db_now.plus(lease);
        for row in &mut rows {
            row.change(Change::Claim).expect("only claimable jobs are kept");
            row.claim += 1;
            row.lease_token = Some(LeaseToken::random().uuid());
            row.job.lease_until = Some(lease_until);
            row.job.worker_id = Some(worker);
            row.claimed_at = Some(now);
            row.job.started_at = row.job.started_at.or(Some(now));
            if let Some(from) = void_from(&mut unit, row).await? {
                unit.emit(row, NewEvent::new(EventType::TextRetracted, json!({"from_seq": from})));
            }
            unit.emit(row, NewEvent::new(EventType::Started, json!({"worker_id": worker})));
        }
        unit.save(&mut rows).await?;
        let consequences = unit.commit().await?;
        let mut claimed: Vec<_> = rows
            .into_iter()
            .filter_map(|row| {
                let fence = row.fence()?;
                Some(Claimed {
                    snoozed_since: row.snoozed_since,
                    cut_off_at: row.cut_off_at,
                    resumes: row.parked_seq.is_some(),
                    window_ends_at: row.window_ends_at(),
                    window: row.window,
                    job: row.job,
                    fence,
                })
            })
            .collect();
        // The queue handed them out best first; the locks were taken by id.
        let place: HashMap<_, _> = ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        claimed.sort_by_key(|claimed| place.get(&claimed.job.id).copied());
        Ok((Claims { claimed, suspects }, consequences))
    }

    /// A scheduled task's time has come, and its session may be busy.
    async fn come_due_in_line(&self, unit: &mut Unit<D>, mut row: JobRow) -> Result<(), StoreError> {
        let Some(session) = row.job.session_id else { return Ok(()) };
        // One that ran before and was put off pushes nobody aside.
        let on_busy = if row.claim > 0 { OnBusy::Enqueue } else { row.on_busy };
        match line::admit(unit, session, on_busy, row.interruption, &self.interrupted_marker).await? {
            Admission::Next => {
                row.change(Change::ComeDue).expect("only those are promoted");
                unit.queue(&mut row);
            }
            Admission::Wait(position) => {
                row.change(Change::Block).expect("a scheduled job can wait");
                row.position = Some(position);
                unit.emit(&mut row, NewEvent::new(EventType::Queued, json!({"state": "blocked"})));
            }
            Admission::Busy(active) => {
                let failure = Failure {
                    class: FailureClass::Invalid,
                    code: "SESSION_BUSY".to_owned(),
                    message: format!("The session was busy with task {active} when this task came due"),
                    attempt: row.job.attempt,
                };
                give_up(unit, &mut row, failure, Change::Fail);
            }
        }
        unit.save(&mut [row]).await
    }
}

/// From where on what an earlier run said is void, now that another begins: all of it, or, where a run was parked to be
/// resumed, what was said after that.
async fn void_from<D: Dialect>(unit: &mut Unit<D>, row: &JobRow) -> Result<Option<i64>, StoreError> {
    let (Some(from), Some(parked)) = (row.text_from, row.parked_seq) else { return Ok(row.text_from) };
    let said = unit.tx.fetch(&statement::TEXT_AFTER, params![row.job.id.uuid(), parked]).await?;
    Ok((!said.is_empty()).then_some(from.max(parked + 1)))
}

/// Gives a job up, by `change`: it failed, or expired. A holder, if there is one, keeps its lease; the caller decides about
/// it.
pub(super) fn give_up<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow, failure: Failure, change: Change) {
    let data = json!({"message": failure.message, "code": failure.code, "class": failure.class});
    unit.emit(row, NewEvent::new(EventType::Error, data));
    row.job.failure = Some(failure);
    unit.end(row, change);
}

/// Says that another attempt will follow at `run_at`, and counts it; if a worker was lost, which. The caller changes the
/// state.
pub(super) fn announce_retry<D: Dialect>(
    unit: &mut Unit<D>,
    row: &mut JobRow,
    failure: Failure,
    run_at: Timestamp,
    loss: Option<&Loss>,
) {
    let delay_ms = u64::try_from(run_at.since(unit.now).as_millis()).unwrap_or(u64::MAX);
    let mut data = json!({
        "class": failure.class, "code": failure.code, "message": failure.message,
        "next_attempt": row.job.attempt + 1, "delay_ms": delay_ms, "run_at": run_at,
    });
    if let Some(loss) = loss {
        data["worker_id"] = json!(loss.worker_id);
        data["host"] = json!(loss.host);
    }
    unit.emit(row, NewEvent::new(EventType::Retrying, data));
    row.job.attempt += 1;
    row.job.failure = Some(failure);
    row.job.run_at = run_at;
}

fn end_run<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow, outcome: Outcome) {
    const HELD: &str = "a fence is accepted in running and waiting states only";
    row.end_lease();
    let snoozed_since = row.snoozed_since.take();
    match outcome {
        Outcome::Completed { result, message } => {
            if let Some(message) = message.filter(|text| !text.is_empty()) {
                unit.say(row, Role::Assistant, message);
            }
            unit.emit(row, NewEvent::new(EventType::Completed, result.clone()));
            row.job.result = Some(result);
            row.job.failure = None;
            unit.end(row, Change::Complete);
        }
        Outcome::Failed { failure } => give_up(unit, row, failure, Change::Fail),
        Outcome::AwaitingAnswer { result } => {
            row.change(Change::AwaitAnswer).expect(HELD);
            let data = json!({"state": row.job.state, "reason": "question"});
            unit.emit(row, NewEvent::new(EventType::Queued, data));
            row.job.result = Some(result);
            row.job.failure = None;
            unit.left.tell(row, unit.now);
        }
        Outcome::AwaitingCallback { until, poll_every } => {
            row.change(Change::AwaitCallback).expect(HELD);
            let data = json!({"state": row.job.state, "reason": "callback", "until": until});
            unit.emit(row, NewEvent::new(EventType::Queued, data));
            row.job.failure = None;
            row.callback.until = Some(until);
            row.callback.poll_at = poll_every.map(|every| unit.now.plus(every));
            row.callback.poll_ms = poll_every.map(|every| i64::try_from(every.as_millis()).unwrap_or(i64::MAX));
        }
        Outcome::Retry { failure, run_at } => {
            announce_retry(unit, row, failure, run_at, None);
            row.change(Change::Retry).expect(HELD);
            unit.consequences.ready.extend(row.ready());
        }
        Outcome::Snoozed { run_at, reason } => {
            row.snoozed_since = snoozed_since.or(Some(unit.now));
            put_off(unit, row, run_at, &reason);
            row.change(Change::Snooze).expect(HELD);
            unit.consequences.ready.extend(row.ready());
        }
        Outcome::HeldBack { run_at, reason } => {
            put_off(unit, row, run_at, &reason);
            row.change(Change::Snooze).expect(HELD);
            unit.consequences.ready.extend(row.ready());
        }
        Outcome::HandedBack { reason } => {
            hand_back(unit, row, &reason);
        }
    }
}

/// The job is due again at `run_at`, no attempt spent. The caller changes the state.
fn put_off<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow, run_at: Timestamp, reason: &str) {
    // A snooze is no start: unless an earlier run did something, the job has not started yet.
    if row.job.started_at == row.claimed_at {
        row.job.started_at = None;
    }
    row.stop_window(unit.now, run_at);
    row.job.run_at = run_at;
    let data = json!({"state": "scheduled", "reason": reason, "run_at": run_at});
    unit.emit(row, NewEvent::new(EventType::Queued, data));
}

/// The job is due again at once, no attempt spent.
pub(super) fn hand_back<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow, reason: &str) {
    row.end_lease();
    row.job.run_at = unit.now;
    unit.emit(row, NewEvent::new(EventType::Queued, json!({"state": "queued", "reason": reason})));
    row.change(Change::HandBack).expect("only running jobs are handed back");
    unit.consequences.ready.extend(row.ready());
}
