//! What bridges say of the prompts they were given. It decides the job under the job's lock, wherever the job is; a worker that
//! still holds it finds its own end stale.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    adapter::sql::{
        SqlStore,
        cancel::shown_text,
        dialect::{Dialect, SqlRow, SqlTx, params},
        effect, line,
        row::JobRow,
        run::give_up,
        statement::{self as jobs, instance as statement},
        submit::make_plain,
        unit::{Unit, id_rows},
        usage,
    },
    domain::{
        Change, Effect, EventType, Failure, FailureClass, JobId, JobState, NewEvent, Priority, Receipt, RetryPolicy,
        Role, Timestamp, UsageReport,
        instance::{Instance, Said},
    },
    port::{
        StoreError,
        store::{Callback, Callbacks, Consequences, EffectReceipt, NewJob, Received},
    },
    wire::instance::{self as wire, PollPayload},
};

#[async_trait]
impl<D: Dialect> Callbacks for SqlStore<D> {
    async fn call_back(
        &self,
        batch: Vec<Callback>,
        now: Timestamp,
    ) -> Result<(Vec<Received>, Consequences), StoreError> {
        let mut answers = vec![Received::Unknown; batch.len()];
        let mut consequences = Consequences::default();
        let mut left: Vec<(usize, Callback)> = batch.into_iter().enumerate().collect();
        // What is said of one job is taken in one after the other: each reads what those before it wrote.
        while !left.is_empty() {
            let mut seen = BTreeSet::new();
            let (turn, later) = left.into_iter().partition(|(_, callback)| seen.insert(callback.job_id));
            left = later;
            consequences.extend(self.take_in(turn, &mut answers, now).await?);
        }
        Ok((answers, consequences))
    }

    async fn instance_of(&self, tenant: &str, job: JobId) -> Result<Option<Instance>, StoreError> {
        let rows = self.dialect.read(&statement::INSTANCE_OF, params![tenant, job.uuid()]).await?;
        rows.first().map(super::read).transpose()
    }

    async fn expire_callbacks(
        &self,
        message: &str,
        now: Timestamp,
        limit: u32,
    ) -> Result<(usize, Consequences), StoreError> {
        let found = self.dialect.read(&statement::EXPIRING_CALLBACKS, params![now, limit]).await?;
        let Some((mut unit, mut rows)) = self.hold_waiting(&found, now).await? else {
            return Ok((0, Consequences::default()));
        };
        rows.retain(|row| row.callback.until.is_some_and(|until| until <= now));
        for row in &mut rows {
            let failure = Failure {
                class: FailureClass::Timeout,
                code: "TIMEOUT".to_owned(),
                message: message.to_owned(),
                attempt: row.job.attempt,
            };
            give_up(&mut unit, row, failure, Change::Fail);
        }
        unit.save(&mut rows).await?;
        line::free_next(&mut unit, rows.iter().filter_map(|row| row.job.session_id).collect()).await?;
        Ok((rows.len(), unit.commit().await?))
    }

    async fn poll_callbacks(&self, now: Timestamp, limit: u32) -> Result<(usize, Consequences), StoreError> {
        let found = self.dialect.read(&statement::POLLING_CALLBACKS, params![now, limit]).await?;
        let Some((mut unit, mut rows)) = self.hold_waiting(&found, now).await? else {
            return Ok((0, Consequences::default()));
        };
        rows.retain(|row| row.callback.poll_at.is_some_and(|at| at <= now));
        let mut polls = Vec::with_capacity(rows.len());
        for row in &mut rows {
            let every = row.callback.poll_ms.and_then(|millis| u64::try_from(millis).ok()).map(Duration::from_millis);
            row.callback.poll_at = every.map(|every| now.plus(every));
            polls.push(make_plain(&mut unit, &poll(row), None));
        }
        unit.insert(&polls).await?;
        unit.save(&mut rows).await?;
        Ok((rows.len(), unit.commit().await?))
    }
}

impl<D: Dialect> SqlStore<D> {
    /// Those of the jobs that were found, by their `id`, that still wait for a callback, locked after their sessions.
    async fn hold_waiting(
        &self,
        found: &[D::Row],
        now: Timestamp,
    ) -> Result<Option<(Unit<D>, Vec<JobRow>)>, StoreError> {
        let ids = found.iter().map(|row| row.uuid("id").map(JobId::from)).collect::<Result<Vec<_>, _>>()?;
        if ids.is_empty() {
            return Ok(None);
        }
        let mut unit = Unit::begin(&self.dialect, now).await?;
        unit.lock_sessions_of(&ids).await?;
        let mut rows = unit.lock_jobs(ids).await?;
        rows.retain(|row| row.job.state == JobState::AwaitingCallback);
        Ok(Some((unit, rows)))
    }

    /// Takes in what is said of different jobs, and puts each answer into its place.
    async fn take_in(
        &self,
        turn: Vec<(usize, Callback)>,
        answers: &mut [Received],
        now: Timestamp,
    ) -> Result<Consequences, StoreError> {
        let ids: Vec<JobId> = turn.iter().map(|(_, callback)| callback.job_id).collect();
        let mut unit = Unit::begin(&self.dialect, now).await?;
        unit.lock_sessions_of(&ids).await?;
        let mut rows: BTreeMap<JobId, JobRow> =
            unit.lock_jobs(ids.iter().copied()).await?.into_iter().map(|row| (row.job.id, row)).collect();
        let mut newest: BTreeMap<JobId, Effect> = BTreeMap::new();
        let sent = id_rows(ids.iter().map(|id| id.uuid()));
        for row in unit.tx.fetch(&jobs::EFFECTS_OF_JOBS, params![sent]).await? {
            let effect = effect::read(&row)?;
            if newest.get(&effect.job_id).is_none_or(|known| known.ordinal < effect.ordinal) {
                newest.insert(effect.job_id, effect);
            }
        }
        let (mut changed, mut receipts) = (Vec::new(), Vec::new());
        for (place, callback) in turn {
            let Some(mut row) = rows.remove(&callback.job_id) else { continue };
            let Some(dispatch) = newest.get(&callback.job_id) else { continue };
            if row.job.tenant != callback.tenant || row.job.kind != wire::KIND {
                continue;
            }
            let (received, writes) = receive(&mut unit, &mut row, dispatch, &callback).await?;
            answers[place] = received;
            if received == Received::Accepted && dispatch.receipt.is_none() {
                // Whatever became of the answer to it, the dispatch arrived.
                let receipt = Receipt::Done(json!({"called_back": true}));
                let arrived = EffectReceipt { ordinal: dispatch.ordinal, receipt };
                receipts.extend(effect::receipt_rows(row.job.id, vec![arrived], now));
            }
            if writes {
                changed.push(row);
            }
        }
        unit.save(&mut changed).await?;
        effect::write_receipts(&mut unit, &receipts).await?;
        let ended = changed.iter().filter(|row| unit.ended.contains(&row.job.id));
        let sessions = ended.filter_map(|row| row.job.session_id).collect();
        line::free_next(&mut unit, sessions).await?;
        unit.commit().await
    }
}

/// What one callback means for its job, which is held; and whether the row is to be saved.
async fn receive<D: Dialect>(
    unit: &mut Unit<D>,
    row: &mut JobRow,
    dispatch: &Effect,
    callback: &Callback,
) -> Result<(Received, bool), StoreError> {
    let fingerprint = fingerprint(callback);
    let was_appended = match &callback.said {
        Said::Piece { number, .. } => number.is_some_and(|number| number <= row.callback.pieces.unwrap_or(0)),
        Said::Done { .. } | Said::Failed { .. } => false,
    };
    if row.job.state.is_terminal() {
        if was_appended || row.callback.fingerprint.as_ref() == Some(&fingerprint) {
            return Ok((Received::Repeated, false));
        }
        let is_first = row.callback.late_at.is_none();
        if is_first {
            row.callback.late_at = Some(unit.now);
            let ok = !matches!(callback.said, Said::Failed { .. });
            let data = json!({"ok": ok, "ordinal": callback.ordinal});
            unit.emit(row, NewEvent::new(EventType::LateCallback, data));
        }
        return Ok((Received::Late, is_first));
    }
    match callback.ordinal.cmp(&dispatch.ordinal) {
        std::cmp::Ordering::Less => return Ok((Received::Superseded, false)),
        std::cmp::Ordering::Greater => return Ok((Received::Unknown, false)),
        std::cmp::Ordering::Equal => {}
    }
    if was_appended {
        return Ok((Received::Repeated, false));
    }
    match &callback.said {
        Said::Piece { content, number } => {
            row.callback.pieces = number.or(row.callback.pieces);
            if !content.is_empty() {
                unit.emit(row, NewEvent::new(EventType::Text, json!({"content": content})));
            }
            return Ok((Received::Accepted, true));
        }
        Said::Done { result, usage: spent } => {
            let answer = show_whole(unit, row, result).await?;
            let report = spent.clone().map(|usage| UsageReport { usage, incomplete: false });
            let reports: Vec<_> = report.iter().map(|report| (&*row, report.clone())).collect();
            let kept = usage::keep(unit, &reports).await?;
            for event in kept.into_values() {
                unit.emit(row, event);
            }
            if !answer.is_empty() {
                unit.say(row, Role::Assistant, answer.clone());
            }
            let spent = spent.as_ref();
            let result = json!({
                "summary": answer,
                "tokensUsed": spent.map_or(0, crate::domain::Usage::total_tokens),
                "inputTokens": spent.map(|usage| usage.input_tokens),
                "outputTokens": spent.map(|usage| usage.output_tokens),
                "costUsd": spent.and_then(crate::domain::Usage::cost_usd),
                "model": spent.and_then(|usage| usage.model.as_ref()),
            });
            unit.emit(row, NewEvent::new(EventType::Completed, result.clone()));
            row.job.result = Some(result);
            row.job.failure = None;
            unit.end(row, Change::Answer);
        }
        Said::Failed { class, code, message } => {
            let failure =
                Failure { class: *class, code: code.clone(), message: message.clone(), attempt: row.job.attempt };
            give_up(unit, row, failure, Change::Fail);
        }
    }
    row.callback.fingerprint = Some(fingerprint);
    // Its dispatch may be under way: whoever makes it keeps the lease until it lets go.
    unit.stop_holder(row);
    Ok((Received::Accepted, true))
}

/// Shows what is missing of the answer, or all of it anew where the pieces said something else. Returns the whole answer.
async fn show_whole<D: Dialect>(unit: &mut Unit<D>, row: &mut JobRow, result: &str) -> Result<String, StoreError> {
    let shown = shown_text(unit, row).await?;
    if result.is_empty() {
        return Ok(shown);
    }
    let rest = match result.strip_prefix(&shown) {
        Some(rest) => rest,
        None => {
            unit.emit(row, NewEvent::new(EventType::TextRetracted, Value::Object(serde_json::Map::new())));
            result
        }
    };
    if !rest.is_empty() {
        unit.emit(row, NewEvent::new(EventType::Text, json!({"content": rest})));
    }
    Ok(result.to_owned())
}

/// Of the dispatch and what is said of it: equal for equal callbacks.
fn fingerprint(callback: &Callback) -> String {
    let text = json!([callback.ordinal, callback.said]).to_string();
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The job that asks a bridge about another. It is made again each time: it lives no longer than until the next.
fn poll(row: &JobRow) -> NewJob {
    NewJob {
        id: JobId::new(),
        tenant: row.job.tenant.clone(),
        kind: wire::POLL.to_owned(),
        queue: row.job.queue.clone(),
        priority: Priority::default(),
        // It always serialises: it has string keys only.
        payload: serde_json::to_value(PollPayload { job_id: row.job.id }).unwrap_or_default(),
        payload_version: wire::VERSION,
        retry: RetryPolicy { max_attempts: 1, ..RetryPolicy::HTTP },
        timeout_ms: None,
        run_at: None,
        expires_at: row.callback.poll_at,
        deadline: None,
        metadata: None,
        retry_of: None,
        user_id: row.job.user_id.clone(),
        task: None,
        dedup: None,
        children: Vec::new(),
        coordination: None,
        webhook: None,
        trace: Some(row.job.trace_context()),
    }
}
