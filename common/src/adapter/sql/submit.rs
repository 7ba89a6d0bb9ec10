//! What clients bring.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    SqlStore, attachment,
    coordination::{broadcast, question, repeat::Originals},
    dedup::{Judged, Keys},
    dialect::{Dialect, SqlRow, SqlTx, batch, params},
    effect,
    line::{self, Admission},
    row::{CallbackRow, JobRow},
    statement,
    unit::{FreshSession, HeldSession, Unit},
    webhook,
};
use crate::{
    domain::{Change, DedupMode, EventType, Job, JobId, JobState, NewEvent, OnBusy, SessionId, Timestamp},
    port::{
        StoreError,
        store::{
            CancelRequest, CancelResult, Consequences, Created, IdempotencyRecord, Interruption, NewJob, NewTask,
            Refused, StoredAnswer, Submission, Submissions, Submitted,
        },
    },
    wire::coordination::{ASK_USER, BROADCAST, SOUL_WRITE},
};

#[derive(Serialize)]
struct IdempotencyRow<'a> {
    tenant: &'a str,
    owner: &'a str,
    key: &'a str,
    fingerprint: &'a str,
    status: u16,
    answer: String,
    job_ids: String,
    at: i64,
    expires_at: i64,
}

impl<'a> IdempotencyRow<'a> {
    fn new(record: &'a IdempotencyRecord, jobs: &[NewJob], now: Timestamp) -> Self {
        let job_ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
        Self {
            tenant: &record.tenant,
            owner: &record.owner,
            key: &record.key,
            fingerprint: &record.fingerprint,
            status: record.status,
            answer: record.answer.to_string(),
            job_ids: serde_json::to_string(&job_ids).expect("ids are plain data"),
            at: now.micros(),
            expires_at: record.expires_at.micros(),
        }
    }
}

type Scope = (String, String, String);

fn scope(record: &IdempotencyRecord) -> Scope {
    (record.tenant.clone(), record.owner.clone(), record.key.clone())
}

#[async_trait]
impl<D: Dialect> Submissions for SqlStore<D> {
    async fn submit(
        &self,
        batch: Vec<Submission>,
        now: Timestamp,
    ) -> (Vec<Result<Submitted, StoreError>>, Consequences) {
        let mut results = Vec::with_capacity(batch.len());
        let mut consequences = Consequences::default();
        // A stack instead of recursion: the left half is on top, so results come in order.
        let mut parts = vec![batch.as_slice()];
        while let Some(part) = parts.pop() {
            match self.submit_together(part, now).await {
                Ok((done, follow)) => {
                    results.extend(done.into_iter().map(Ok));
                    consequences.extend(follow);
                }
                Err(StoreError::Unavailable(cause)) => {
                    let text = cause.to_string();
                    results.extend(part.iter().map(|_| Err(StoreError::Unavailable(text.clone().into()))));
                }
                Err(error) if part.len() <= 1 => results.push(Err(error)),
                Err(error) => {
                    tracing::warn!(%error, submissions = part.len(), "a batch was refused; halving it");
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([right, left]);
                }
            }
        }
        (results, consequences)
    }

    async fn cancel(&self, request: CancelRequest) -> Result<Option<(CancelResult, Consequences)>, StoreError> {
        self.cancel_job(request).await
    }

    async fn close_session(&self, tenant: &str, id: SessionId, now: Timestamp) -> Result<bool, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let closed = tx.execute(&statement::CLOSE_SESSION, params![tenant, id.uuid(), now]).await?;
        tx.commit().await?;
        Ok(closed > 0)
    }

    async fn recall(&self, tenant: &str, owner: &str, key: &str) -> Result<Option<StoredAnswer>, StoreError> {
        let rows = self.dialect.read(&statement::RECALL, params![tenant, owner, key]).await?;
        rows.first().map(stored_answer).transpose()
    }

    async fn remember(&self, record: IdempotencyRecord) -> Result<Option<StoredAnswer>, StoreError> {
        let mut tx = self.dialect.begin().await?;
        // An answer that is kept without jobs lives by its own time alone.
        let now = record.expires_at;
        let rows = [IdempotencyRow::new(&record, &[], now)];
        let kept = tx.fetch(&statement::INSERT_IDEMPOTENCY, params![batch(&rows)]).await?;
        if !kept.is_empty() {
            tx.commit().await?;
            return Ok(None);
        }
        let before = recall(&mut tx, &scope(&record)).await?;
        Ok(before)
    }
}

pub(super) fn stored_answer(row: &impl SqlRow) -> Result<StoredAnswer, StoreError> {
    Ok(StoredAnswer {
        fingerprint: row.text("fingerprint")?,
        status: u16::try_from(row.int("status")?).unwrap_or(200),
        answer: serde_json::from_str(&row.text("answer")?).unwrap_or(Value::Null),
        deduplicated: row
            .opt_text("deduplicated")?
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default(),
    })
}

/// Keeps the key of a request that makes no job, and its answer. `Some`: the key was used before, and that was the answer.
pub(super) async fn used_before(
    tx: &mut impl SqlTx,
    record: Option<&IdempotencyRecord>,
    now: Timestamp,
) -> Result<Option<StoredAnswer>, StoreError> {
    let Some(record) = record else { return Ok(None) };
    let rows = [IdempotencyRow::new(record, &[], now)];
    if !tx.fetch(&statement::INSERT_IDEMPOTENCY, params![batch(&rows)]).await?.is_empty() {
        return Ok(None);
    }
    recall(tx, &scope(record)).await
}

async fn recall(tx: &mut impl SqlTx, (tenant, owner, key): &Scope) -> Result<Option<StoredAnswer>, StoreError> {
    let rows = tx.fetch(&statement::RECALL, params![tenant.as_str(), owner.as_str(), key.as_str()]).await?;
    rows.first().map(stored_answer).transpose()
}

impl<D: Dialect> SqlStore<D> {
    async fn submit_together(
        &self,
        part: &[Submission],
        now: Timestamp,
    ) -> Result<(Vec<Submitted>, Consequences), StoreError> {
        self.submit_in(Unit::begin(&self.dialect, now).await?, part).await
    }

    /// Submits in a transaction that has locked no row yet, and commits it.
    pub(super) async fn submit_in(
        &self,
        mut unit: Unit<D>,
        part: &[Submission],
    ) -> Result<(Vec<Submitted>, Consequences), StoreError> {
        let mut settled = self.settle_keys(&mut unit, part).await?;
        let open: Vec<&NewJob> = part
            .iter()
            .enumerate()
            .filter(|(index, _)| !settled.contains_key(index))
            .flat_map(|(_, submission)| &submission.jobs)
            .collect();
        let mut keys = Keys::hold(&mut unit, open.iter().copied()).await?;
        let wanted: BTreeSet<SessionId> = open
            .iter()
            .flat_map(|job| std::iter::once(*job).chain(&job.children))
            .filter_map(|job| job.task.as_ref()?.session_id)
            .collect();
        unit.lock_sessions(wanted).await?;
        keys.load(&mut unit, open.iter().copied()).await?;
        let originals = Originals::see(&mut unit, &open).await?;

        let mut results = Vec::with_capacity(part.len());
        let mut rows = Vec::new();
        for (index, submission) in part.iter().enumerate() {
            if let Some(answer) = settled.remove(&index) {
                results.push(answer);
                continue;
            }
            let mut made = Vec::with_capacity(submission.jobs.len());
            for job in &submission.jobs {
                made.push(self.judge(&mut unit, job, &mut keys, &originals, &mut rows).await?);
            }
            if let Some(record) = &submission.idempotency {
                correct_key(&mut unit, record, &submission.jobs, &made).await?;
            }
            results.push(Submitted::Done(made));
        }
        unit.insert(&rows).await?;
        end_childless(&mut unit, &mut rows).await?;
        attachment::name(&mut unit, &open).await?;
        keys.save(&mut unit, &rows).await?;
        let repeated: Vec<_> = part
            .iter()
            .zip(&results)
            .filter_map(|(submission, result)| match result {
                Submitted::Done(made) => Some(submission.jobs.iter().zip(made)),
                Submitted::Replayed(_) | Submitted::Mismatch => None,
            })
            .flatten()
            .filter(|(job, made)| made.as_ref().is_ok_and(|created| created.id == job.id))
            .flat_map(|(job, _)| std::iter::once(job).chain(&job.children))
            // A question that is repeated is another question: whoever was asked the first is asked again. A soul is written by
            // each run anew: what was there before says nothing of what is there now.
            .filter(|job| ![ASK_USER, SOUL_WRITE].contains(&job.kind.as_str()))
            .filter_map(|job| Some((job.id, job.retry_of?)))
            .collect();
        effect::inherit(&mut unit, &repeated).await?;
        webhook::inherit(&mut unit, &repeated).await?;
        Ok((results, unit.commit().await?))
    }

    /// Stores the keys of this part; what it finds used before is settled: index → answer.
    async fn settle_keys(
        &self,
        unit: &mut Unit<D>,
        part: &[Submission],
    ) -> Result<BTreeMap<usize, Submitted>, StoreError> {
        // In order of the key, so that two batches with the same keys wait for each other instead of deadlocking.
        let mut first_use: BTreeMap<Scope, usize> = BTreeMap::new();
        for (index, submission) in part.iter().enumerate() {
            if let Some(record) = &submission.idempotency {
                first_use.entry(scope(record)).or_insert(index);
            }
        }
        if first_use.is_empty() {
            return Ok(BTreeMap::new());
        }
        let keys: Vec<_> = first_use
            .values()
            .filter_map(|&index| {
                let record = part[index].idempotency.as_ref()?;
                Some(IdempotencyRow::new(record, &part[index].jobs, unit.now))
            })
            .collect();
        let mut stored: BTreeSet<Scope> = BTreeSet::new();
        for row in unit.tx.fetch(&statement::INSERT_IDEMPOTENCY, params![batch(&keys)]).await? {
            stored.insert((row.text("tenant")?, row.text("owner")?, row.text("key")?));
        }
        let mut settled = BTreeMap::new();
        for (index, submission) in part.iter().enumerate() {
            let Some(record) = &submission.idempotency else { continue };
            let scope = scope(record);
            if first_use.get(&scope) == Some(&index) && stored.contains(&scope) {
                continue;
            }
            let before = recall(&mut unit.tx, &scope).await?;
            settled.insert(
                index,
                match before {
                    Some(answer) if answer.fingerprint == record.fingerprint => Submitted::Replayed(answer),
                    _ => Submitted::Mismatch,
                },
            );
        }
        Ok(settled)
    }

    /// Makes one job with its children, unless another stands for it.
    async fn judge(
        &self,
        unit: &mut Unit<D>,
        new: &NewJob,
        keys: &mut Keys,
        originals: &Originals,
        rows: &mut Vec<JobRow>,
    ) -> Result<Result<Created, Refused>, StoreError> {
        let mut row = new_row(new, unit.now);
        match keys.judge(unit, new, rows) {
            Judged::Stands(created) => return Ok(Ok(created)),
            Judged::Make(Some(first)) => {
                row.change(Change::Block).expect("a new job can wait");
                row.waits_for = Some(first);
            }
            Judged::Make(None) => {}
        }
        let chosen = match new.coordination.as_ref().and_then(|given| given.broadcast.as_deref()) {
            None => None,
            Some(broadcast) => match broadcast::children(unit, new, broadcast).await? {
                Ok(children) => {
                    if let Some(payload) = row.job.payload.as_object_mut() {
                        payload.insert("boards".to_owned(), children.len().into());
                    }
                    Some(children)
                }
                Err(refused) => return Ok(Err(refused)),
            },
        };
        let trace = row.job.trace_context();
        let created = match self.make(unit, new, row, keys, originals, rows).await? {
            Ok(created) => created,
            Err(refused) => return Ok(Err(refused)),
        };
        for child in chosen.as_ref().unwrap_or(&new.children) {
            let mut row = new_row(child, unit.now);
            row.job.parent_id = Some(new.id);
            row.job.expires_at = row.job.expires_at.or(new.expires_at);
            row.job.trace.get_or_insert_with(|| trace.clone());
            if row.on_busy == OnBusy::Reject {
                row.on_busy = OnBusy::Enqueue;
            }
            self.make(unit, child, row, keys, originals, rows).await?.ok();
        }
        Ok(Ok(created))
    }

    /// Makes one job. Most are left in `rows` for one insert; those that join a session's line are inserted at once, as the
    /// next in the same line must see them.
    async fn make(
        &self,
        unit: &mut Unit<D>,
        new: &NewJob,
        mut row: JobRow,
        keys: &mut Keys,
        originals: &Originals,
        rows: &mut Vec<JobRow>,
    ) -> Result<Result<Created, Refused>, StoreError> {
        if originals.has_lost_question(new) {
            return Ok(Err(Refused::QuestionGone));
        }
        let mut joins_line = false;
        if let Some(task) = &new.task {
            let session_id = choose_session(unit, new, task);
            joins_line = task.session_id == Some(session_id);
            row.job.session_id = Some(session_id);
            row.pending_message = Some(task.prompt.clone());
            if joins_line && row.job.state == JobState::Queued {
                match line::admit(unit, session_id, row.on_busy, row.interruption, &self.interrupted_marker).await? {
                    Admission::Next => {}
                    Admission::Wait(position) => {
                        row.change(Change::Block).expect("a queued job can wait");
                        row.position = Some(position);
                    }
                    Admission::Busy(active) => return Ok(Err(Refused::SessionBusy { session_id, active })),
                }
            }
        }
        let asked = match new.coordination.as_ref().and_then(|given| given.question.clone()) {
            Some(asked) => Some(asked),
            None => originals.hand_down(new, &mut row, unit.now),
        };
        if let (Some(task), Some(session)) = (&new.task, row.job.session_id)
            && task.instance_id.is_some()
        {
            // Whoever watches the conversation learns what is to be watched, before anything else.
            unit.emit(&mut row, NewEvent::new(EventType::SessionInfo, json!({"sessionId": session})));
            unit.emit(&mut row, NewEvent::new(EventType::TaskInfo, json!({"taskId": new.id})));
        }
        announce(unit, &mut row);
        if let Some(target) = &new.webhook {
            unit.to_tell.target(&row, target);
        }
        if let Some(asked) = asked {
            question::open(unit, &mut row, asked);
        }
        if new.task.as_ref().is_some_and(|task| task.interruption != Interruption::Task) {
            // Who watches the session follows the new task from here on.
            unit.emit(&mut row, NewEvent::new(EventType::TaskInfo, json!({"taskId": new.id})));
        }
        let created =
            Created { id: row.job.id, state: row.job.state, session_id: row.job.session_id, deduplicated: false };
        keys.made(new, &row, (!joins_line).then_some(rows.len()), unit.now);
        if joins_line {
            unit.insert(&[row]).await?;
        } else {
            rows.push(row);
        }
        Ok(Ok(created))
    }
}

/// Says where a new job begins.
fn announce<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow) {
    match row.job.state {
        JobState::Queued => unit.queue(row),
        JobState::Scheduled => {
            let data = json!({"state": "scheduled", "run_at": row.job.run_at});
            unit.emit(row, NewEvent::new(EventType::Queued, data));
            unit.consequences.ready.extend(row.ready());
        }
        state => unit.emit(row, NewEvent::new(EventType::Queued, json!({"state": state.as_str()}))),
    }
}

/// Makes a job that belongs to no session, has neither children nor a dedup key, and asks nothing. The caller inserts the row.
pub(super) fn make_plain<D: Dialect>(unit: &mut Unit<D>, new: &NewJob, parent: Option<JobId>) -> JobRow {
    let mut row = new_row(new, unit.now);
    row.job.parent_id = parent;
    announce(unit, &mut row);
    row
}

/// Ends broadcasts that nobody is there for.
async fn end_childless<D: Dialect>(unit: &mut Unit<D>, rows: &mut [JobRow]) -> Result<(), StoreError> {
    let parents: BTreeSet<JobId> = rows.iter().filter_map(|row| row.job.parent_id).collect();
    // Children of a group may be written already, those of a broadcast never are.
    let waits = |row: &JobRow| row.job.kind == BROADCAST && row.job.state == JobState::AwaitingChildren;
    let is_childless = |row: &JobRow| waits(row) && !parents.contains(&row.job.id);
    for row in rows.iter_mut().filter(|row| is_childless(row)) {
        broadcast::end_empty(unit, row);
        unit.save(std::slice::from_mut(row)).await?;
    }
    Ok(())
}

/// The session asked for, if it is there, active and the tenant's and user's own; else the fresh one.
fn choose_session<D: Dialect>(unit: &mut Unit<D>, new: &NewJob, task: &NewTask) -> SessionId {
    let may_join = |held: &HeldSession| {
        held.active && held.tenant == new.tenant && held.instance_id == task.instance_id && is_own(held, new)
    };
    if let Some(wanted) = task.session_id
        && unit.sessions.get(&wanted).is_some_and(may_join)
    {
        return wanted;
    }
    let metadata = json!({"title": task.title, "titleSet": true, "voiceMode": task.voice_mode});
    let instance_id = task.instance_id;
    let fresh =
        FreshSession { instance_id, engine: task.engine.clone(), system_prompt: task.system_prompt.clone(), metadata };
    unit.open_session(task.fresh, &new.tenant, new.user_id.clone(), fresh);
    task.fresh
}

/// A key may use every session of its tenant, a user only those they opened.
fn is_own(held: &HeldSession, new: &NewJob) -> bool {
    new.user_id.is_none() || held.user_id == new.user_id
}

/// What the key keeps is what came of it: nothing if the only job was refused, and what stands for those not made.
async fn correct_key<D: Dialect>(
    unit: &mut Unit<D>,
    record: &IdempotencyRecord,
    jobs: &[NewJob],
    made: &[Result<Created, Refused>],
) -> Result<(), StoreError> {
    let (tenant, owner, key) = scope(record);
    if let [Err(_)] = made {
        unit.tx.execute(&statement::FORGET, params![tenant, owner, key]).await?;
        return Ok(());
    }
    let there = || jobs.iter().zip(made).filter_map(|(job, made)| Some((job.id, made.as_ref().ok()?)));
    let stand: BTreeMap<JobId, &Created> = there().filter(|(_, created)| created.deduplicated).collect();
    if stand.is_empty() {
        return Ok(());
    }
    let ids: Vec<JobId> = there().map(|(_, created)| created.id).collect();
    let text = |value: Result<String, serde_json::Error>| value.expect("ids and states are plain data");
    let values = params![tenant, owner, key, text(serde_json::to_string(&ids)), text(serde_json::to_string(&stand)),];
    unit.tx.execute(&statement::SAVE_DEDUPLICATED, values).await.map(drop)
}

pub(super) fn new_row(new: &NewJob, now: Timestamp) -> JobRow {
    let debounced =
        new.dedup.as_ref().filter(|dedup| dedup.mode == DedupMode::Debounce).map(|dedup| now.plus(dedup.ttl));
    let run_at = debounced.or(new.run_at).unwrap_or(now);
    let state = match run_at {
        _ if !new.children.is_empty() || is_broadcast(new) => JobState::AwaitingChildren,
        later if later > now => JobState::Scheduled,
        _ => JobState::Queued,
    };
    let job = Job {
        user_id: new.user_id.clone(),
        id: new.id,
        tenant: new.tenant.clone(),
        kind: new.kind.clone(),
        queue: new.queue.clone(),
        state,
        priority: new.priority,
        attempt: 1,
        retry: new.retry,
        payload: new.payload.clone(),
        payload_version: new.payload_version,
        result: None,
        failure: None,
        progress: None,
        session_id: None,
        parent_id: None,
        retry_of: new.retry_of,
        worker_id: None,
        lease_until: None,
        run_at: run_at.max(now),
        expires_at: new.expires_at,
        deadline: new.deadline,
        timeout_ms: new.timeout_ms,
        created_at: now,
        // A parent is under way once its children are there.
        started_at: (state == JobState::AwaitingChildren).then_some(now),
        finished_at: None,
        version: 1,
        metadata: new.metadata.clone(),
        dedup_key: new.dedup.as_ref().map(|dedup| dedup.key.clone()),
        tail_seq: 0,
        trace: new.trace.clone(),
    };
    let told = new.coordination.as_ref().and_then(|given| given.told.as_ref());
    JobRow {
        job,
        on_busy: new.task.as_ref().map(|task| task.on_busy).unwrap_or_default(),
        position: None,
        pending_message: None,
        claim: 0,
        lease_token: None,
        claimed_at: None,
        snoozed_since: None,
        cut_off_at: None,
        text_from: None,
        crashes: 0,
        waits_for: None,
        engine: new.task.as_ref().map(|task| task.engine.clone()),
        metered: new.task.as_ref().is_some_and(|task| task.metered),
        interruption: new.task.as_ref().map(|task| task.interruption).unwrap_or_default(),
        pending_attachments: new
            .task
            .as_ref()
            .filter(|task| !task.attachments.is_empty())
            .map(|task| serde_json::to_string(&task.attachments).expect("names and hashes are plain data")),
        parked_seq: None,
        waited_until: None,
        told: told.map(|told| serde_json::to_string(told).expect("ids and words are plain data")),
        told_at: None,
        window: new.coordination.as_ref().and_then(|given| given.window),
        window_put_off_ms: 0,
        first_sent_at: None,
        callback: CallbackRow::default(),
    }
}

fn is_broadcast(new: &NewJob) -> bool {
    new.coordination.as_ref().is_some_and(|given| given.broadcast.is_some())
}
