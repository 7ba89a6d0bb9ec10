//! Rows to domain values and back.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::dialect::SqlRow;
use crate::{
    domain::{
        AttachmentRef, Change, Event, Failure, FailureClass, Fence, Illegal, Job, JobId, JobState, LeaseToken, Message,
        OnBusy, Priority, RetryPolicy, Session, Timestamp, TraceContext,
    },
    port::{
        Ready, StoreError,
        store::{Interruption, Queued, Window},
    },
};

/// A job as one transaction holds it: loaded under a lock, changed by the rules of `domain`, saved whole.
#[derive(Clone, Debug)]
pub(super) struct JobRow {
    pub job: Job,
    pub on_busy: OnBusy,
    pub position: Option<i64>,
    pub pending_message: Option<String>,
    pub claim: i64,
    pub lease_token: Option<Uuid>,
    pub claimed_at: Option<Timestamp>,
    pub snoozed_since: Option<Timestamp>,
    pub cut_off_at: Option<Timestamp>,
    pub text_from: Option<i64>,
    pub crashes: i64,
    pub waits_for: Option<JobId>,
    /// A task's engine.
    pub engine: Option<String>,
    /// Its runs spend tokens.
    pub metered: bool,
    /// What the task is told that gives way to it.
    pub interruption: Interruption,
    /// What comes with `pending_message`: JSON, as in messages.
    pub pending_attachments: Option<String>,
    /// Number of the last event before a run let go of its process, to be resumed: what was said until then stands.
    pub parked_seq: Option<i64>,
    /// Until when the lease held as the last decision reached a holder that waited for it.
    pub waited_until: Option<Timestamp>,
    /// What is told of its end: JSON of a `Told`.
    pub told: Option<String>,
    /// When that was written.
    pub told_at: Option<Timestamp>,
    /// How long its delivery may be tried.
    pub window: Option<Window>,
    /// For how long it was put off since its window began, in milliseconds.
    pub window_put_off_ms: i64,
    /// When it was first sent.
    pub first_sent_at: Option<Timestamp>,
    /// The callback it waits for, or has had.
    pub callback: CallbackRow,
}

/// What is kept of a job's callback.
#[derive(Clone, Debug, Default)]
pub(super) struct CallbackRow {
    /// Until when it is waited for.
    pub until: Option<Timestamp>,
    /// When its bridge is asked next.
    pub poll_at: Option<Timestamp>,
    /// How long after that it is asked again, in milliseconds.
    pub poll_ms: Option<i64>,
    /// How many numbered pieces of text came before the outcome.
    pub pieces: Option<i64>,
    /// Of the callback that ended the job.
    pub fingerprint: Option<String>,
    /// When the first one came that was too late.
    pub late_at: Option<Timestamp>,
}

/// What may change of a job after it was made: the row of the `SAVE_JOBS` batch.
#[derive(Serialize)]
pub(super) struct SavedJob {
    id: Uuid,
    state: &'static str,
    attempt: u32,
    result: Option<String>,
    failure: Option<String>,
    progress: Option<String>,
    position: Option<i64>,
    pending_message: Option<String>,
    claim: i64,
    lease_token: Option<Uuid>,
    lease_until: Option<i64>,
    worker_id: Option<Uuid>,
    run_at: i64,
    claimed_at: Option<i64>,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    snoozed_since: Option<i64>,
    cut_off_at: Option<i64>,
    text_from: Option<i64>,
    crashes: i64,
    waits_for: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_attachments: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parked_seq: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waited_until: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    told_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_put_off_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_sent_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_until: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_poll_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_poll_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_pieces: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_fingerprint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_late_at: Option<i64>,
    old_version: i64,
    tail_seq: i64,
}

/// What never changes of a job: with [`SavedJob`], the row of the `INSERT_JOBS` batch.
#[derive(Serialize)]
pub(super) struct InsertedJob {
    tenant: String,
    kind: String,
    queue: String,
    priority: u8,
    max_attempts: u32,
    backoff_base_ms: u64,
    backoff_cap_ms: u64,
    timeout_ms: Option<i64>,
    payload: String,
    metadata: Option<String>,
    session_id: Option<Uuid>,
    on_busy: &'static str,
    parent_id: Option<Uuid>,
    retry_of: Option<Uuid>,
    dedup_key: Option<String>,
    payload_version: u32,
    user_id: Option<String>,
    engine: Option<String>,
    metered: u8,
    interruption: Option<&'static str>,
    expires_at: Option<i64>,
    deadline: Option<i64>,
    created_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    told: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_from_send: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<String>,
    #[serde(flatten)]
    saved: SavedJob,
}

fn micros(at: Option<Timestamp>) -> Option<i64> {
    at.map(Timestamp::micros)
}

fn json(value: Option<&Value>) -> Option<String> {
    value.map(Value::to_string)
}

impl JobRow {
    pub(super) fn saved(&self) -> SavedJob {
        let job = &self.job;
        SavedJob {
            id: job.id.uuid(),
            state: job.state.as_str(),
            attempt: job.attempt,
            result: json(job.result.as_ref()),
            failure: job.failure.as_ref().map(|failure| serde_json::to_string(failure).expect("plain data")),
            progress: json(job.progress.as_ref()),
            position: self.position,
            pending_message: self.pending_message.clone(),
            claim: self.claim,
            lease_token: self.lease_token,
            lease_until: micros(job.lease_until),
            worker_id: job.worker_id.map(crate::domain::WorkerId::uuid),
            run_at: job.run_at.micros(),
            claimed_at: micros(self.claimed_at),
            started_at: micros(job.started_at),
            finished_at: micros(job.finished_at),
            snoozed_since: micros(self.snoozed_since),
            cut_off_at: micros(self.cut_off_at),
            text_from: self.text_from,
            crashes: self.crashes,
            waits_for: self.waits_for.map(JobId::uuid),
            pending_attachments: self.pending_attachments.clone(),
            parked_seq: self.parked_seq,
            waited_until: micros(self.waited_until),
            told_at: micros(self.told_at),
            window_put_off_ms: (self.window_put_off_ms > 0).then_some(self.window_put_off_ms),
            first_sent_at: micros(self.first_sent_at),
            callback_until: micros(self.callback.until),
            callback_poll_at: micros(self.callback.poll_at),
            callback_poll_ms: self.callback.poll_ms,
            callback_pieces: self.callback.pieces,
            callback_fingerprint: self.callback.fingerprint.clone(),
            callback_late_at: micros(self.callback.late_at),
            old_version: job.version,
            tail_seq: job.tail_seq,
        }
    }

    pub(super) fn inserted(&self) -> InsertedJob {
        let job = &self.job;
        InsertedJob {
            tenant: job.tenant.clone(),
            kind: job.kind.clone(),
            queue: job.queue.clone(),
            priority: job.priority.get(),
            max_attempts: job.retry.max_attempts,
            backoff_base_ms: job.retry.base_ms,
            backoff_cap_ms: job.retry.cap_ms,
            timeout_ms: job.timeout_ms,
            payload: job.payload.to_string(),
            metadata: json(job.metadata.as_ref()),
            session_id: job.session_id.map(crate::domain::SessionId::uuid),
            on_busy: self.on_busy.as_str(),
            parent_id: job.parent_id.map(JobId::uuid),
            retry_of: job.retry_of.map(JobId::uuid),
            dedup_key: job.dedup_key.clone(),
            payload_version: job.payload_version,
            user_id: job.user_id.clone(),
            engine: self.engine.clone(),
            metered: self.metered.into(),
            interruption: (self.interruption != Interruption::default()).then(|| self.interruption.as_str()),
            expires_at: micros(job.expires_at),
            deadline: micros(job.deadline),
            created_at: job.created_at.micros(),
            told: self.told.clone(),
            window_ms: self.window.map(|window| i64::try_from(window.length.as_millis()).unwrap_or(i64::MAX)),
            window_from_send: self.window.map(|window| window.from_send.into()),
            traceparent: job.trace.as_ref().map(TraceContext::traceparent),
            tracestate: job.trace.as_ref().and_then(TraceContext::tracestate).map(str::to_owned),
            saved: self.saved(),
        }
    }

    /// Applies a change of state; see [`Change::apply`].
    pub(super) fn change(&mut self, change: Change) -> Result<(), Illegal> {
        self.job.state = change.apply(self.job.state)?;
        Ok(())
    }

    /// Whether a worker may take it now.
    pub(super) fn is_claimable(&self, now: Timestamp) -> bool {
        Change::Claim.apply(self.job.state).is_ok() && !self.time_is_up(now)
    }

    /// `expires_at` bounds the first start only; `deadline` the whole life.
    pub(super) fn time_is_up(&self, now: Timestamp) -> bool {
        let unstarted = self.job.started_at.is_none() && self.job.expires_at.is_some_and(|at| at <= now);
        unstarted || self.job.deadline.is_some_and(|at| at <= now)
    }

    /// Whether `fence` is that of the claim that holds the job, or, on a finished job, that must still release it.
    pub(super) fn is_held_by(&self, fence: &Fence) -> bool {
        self.job.lease_until.is_some() && self.claim == fence.claim && self.lease_token == Some(fence.token.uuid())
    }

    /// Whether the holder of `fence` may write.
    pub(super) fn accepts(&self, fence: &Fence) -> bool {
        !self.job.state.is_terminal() && self.is_held_by(fence)
    }

    /// When the time to deliver it is over; `None`: it has no window, or was not sent yet.
    pub(super) fn window_ends_at(&self) -> Option<Timestamp> {
        let window = self.window?;
        let begins = if window.from_send { self.first_sent_at? } else { self.job.created_at };
        let put_off = Duration::from_millis(u64::try_from(self.window_put_off_ms).unwrap_or_default());
        Some(begins.plus(window.length).plus(put_off))
    }

    /// It is put off until `run_at`: time that is not spent on its delivery.
    pub(super) fn stop_window(&mut self, now: Timestamp, run_at: Timestamp) {
        if self.window_ends_at().is_some() {
            let pause = i64::try_from(run_at.since(now).as_millis()).unwrap_or(i64::MAX);
            self.window_put_off_ms = self.window_put_off_ms.saturating_add(pause);
        }
    }

    /// Ends the lease: nobody holds it any more.
    pub(super) fn end_lease(&mut self) {
        self.lease_token = None;
        self.job.lease_until = None;
    }

    pub(super) fn fence(&self) -> Option<Fence> {
        self.lease_token.map(|token| Fence {
            job_id: self.job.id,
            session_id: self.job.session_id,
            claim: self.claim,
            token: LeaseToken::from(token),
        })
    }

    pub(super) fn ready(&self) -> Option<Ready> {
        let due_at = match self.job.state {
            JobState::Queued => None,
            JobState::Scheduled | JobState::Retrying => Some(self.job.run_at),
            _ => return None,
        };
        Some(Ready {
            id: self.job.id,
            tenant: self.job.tenant.clone(),
            queue: self.job.queue.clone(),
            priority: self.job.priority,
            due_at,
        })
    }
}

fn corrupt(column: &str, value: &str) -> StoreError {
    StoreError::Corrupt(format!("column {column} holds {value:?}"))
}

pub(super) fn parse<T: std::str::FromStr>(row: &impl SqlRow, column: &str) -> Result<T, StoreError> {
    let text = row.text(column)?;
    text.parse().map_err(|_| corrupt(column, &text))
}

pub(super) fn number<T: TryFrom<i64>>(row: &impl SqlRow, column: &str) -> Result<T, StoreError> {
    let value = row.int(column)?;
    T::try_from(value).map_err(|_| corrupt(column, &value.to_string()))
}

pub(super) fn at(row: &impl SqlRow, column: &str) -> Result<Timestamp, StoreError> {
    row.int(column).map(Timestamp::from_micros)
}

pub(super) fn opt_at(row: &impl SqlRow, column: &str) -> Result<Option<Timestamp>, StoreError> {
    Ok(row.opt_int(column)?.map(Timestamp::from_micros))
}

/// What is not JSON can't have come through us; it is shown as the string it is. So a payload that can't be read ends its
/// own job, by its handler, and nothing else.
pub(super) fn lenient_json(row: &impl SqlRow, column: &str) -> Result<Option<Value>, StoreError> {
    let text = row.opt_text(column)?;
    Ok(text.map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text))))
}

/// Likewise for a failure: its text becomes the message.
pub(super) fn failure(row: &impl SqlRow, attempt: u32) -> Result<Option<Failure>, StoreError> {
    let text = row.opt_text("failure")?;
    Ok(text.map(|text| {
        serde_json::from_str(&text).unwrap_or(Failure {
            class: FailureClass::Fatal,
            code: "UNREADABLE".to_owned(),
            message: text,
            attempt,
        })
    }))
}

pub(super) fn job_row(row: &impl SqlRow) -> Result<JobRow, StoreError> {
    let priority: u8 = number(row, "priority")?;
    let attempt = number(row, "attempt")?;
    let job = Job {
        user_id: row.opt_text("user_id")?,
        id: row.uuid("id")?.into(),
        tenant: row.text("tenant")?,
        kind: row.text("kind")?,
        queue: row.text("queue")?,
        state: parse(row, "state")?,
        priority: Priority::try_from(priority).map_err(|_| corrupt("priority", &priority.to_string()))?,
        attempt,
        retry: RetryPolicy {
            max_attempts: number(row, "max_attempts")?,
            base_ms: number(row, "backoff_base_ms")?,
            cap_ms: number(row, "backoff_cap_ms")?,
        },
        payload: lenient_json(row, "payload")?.unwrap_or_default(),
        payload_version: number(row, "payload_version")?,
        result: lenient_json(row, "result")?,
        failure: failure(row, attempt)?,
        progress: lenient_json(row, "progress")?,
        session_id: row.opt_uuid("session_id")?.map(Into::into),
        parent_id: row.opt_uuid("parent_id")?.map(Into::into),
        retry_of: row.opt_uuid("retry_of")?.map(Into::into),
        worker_id: row.opt_uuid("worker_id")?.map(Into::into),
        lease_until: opt_at(row, "lease_until")?,
        run_at: at(row, "run_at")?,
        expires_at: opt_at(row, "expires_at")?,
        deadline: opt_at(row, "deadline")?,
        timeout_ms: row.opt_int("timeout_ms")?,
        created_at: at(row, "created_at")?,
        started_at: opt_at(row, "started_at")?,
        finished_at: opt_at(row, "finished_at")?,
        version: row.int("version")?,
        metadata: lenient_json(row, "metadata")?,
        dedup_key: row.opt_text("dedup_key")?,
        tail_seq: row.int("tail_seq")?,
        trace: trace(row)?,
    };
    Ok(JobRow {
        on_busy: row.opt_text("on_busy")?.and_then(|text| text.parse().ok()).unwrap_or_default(),
        position: row.opt_int("position")?,
        pending_message: row.opt_text("pending_message")?,
        claim: row.int("claim")?,
        lease_token: row.opt_uuid("lease_token")?,
        claimed_at: opt_at(row, "claimed_at")?,
        snoozed_since: opt_at(row, "snoozed_since")?,
        cut_off_at: opt_at(row, "cut_off_at")?,
        text_from: row.opt_int("text_from")?,
        crashes: row.int("crashes")?,
        waits_for: row.opt_uuid("waits_for")?.map(Into::into),
        engine: row.opt_text("engine")?,
        metered: row.int("metered")? > 0,
        interruption: row.opt_text("interruption")?.and_then(|text| text.parse().ok()).unwrap_or_default(),
        pending_attachments: row.opt_text("pending_attachments")?,
        parked_seq: row.opt_int("parked_seq")?,
        waited_until: opt_at(row, "waited_until")?,
        told: row.opt_text("told")?,
        told_at: opt_at(row, "told_at")?,
        window: window(row)?,
        window_put_off_ms: row.opt_int("window_put_off_ms")?.unwrap_or(0),
        first_sent_at: opt_at(row, "first_sent_at")?,
        callback: CallbackRow {
            until: opt_at(row, "callback_until")?,
            poll_at: opt_at(row, "callback_poll_at")?,
            poll_ms: row.opt_int("callback_poll_ms")?,
            pieces: row.opt_int("callback_pieces")?,
            fingerprint: row.opt_text("callback_fingerprint")?,
            late_at: opt_at(row, "callback_late_at")?,
        },
        job,
    })
}

/// The row, unless it can't be read: then it is left out, so that one such row stops no batch and no list.
pub(super) fn readable(row: &impl SqlRow) -> Option<JobRow> {
    job_row(row)
        .inspect_err(|error| {
            let job_id = row.uuid("id").map(JobId::from).ok();
            tracing::error!(?job_id, %error, "the row of a job can't be read; the job is left alone");
        })
        .ok()
}

/// One that can't be read counts as absent: the job has a trace of its own then.
fn trace(row: &impl SqlRow) -> Result<Option<TraceContext>, StoreError> {
    let Some(parent) = row.opt_text("traceparent")? else { return Ok(None) };
    Ok(TraceContext::parse(&parent, row.opt_text("tracestate")?.as_deref()))
}

fn window(row: &impl SqlRow) -> Result<Option<Window>, StoreError> {
    let Some(millis) = row.opt_int("window_ms")? else { return Ok(None) };
    let length = Duration::from_millis(u64::try_from(millis).unwrap_or_default());
    Ok(Some(Window { length, from_send: row.opt_int("window_from_send")? == Some(1) }))
}

pub(super) fn state(row: &impl SqlRow) -> Result<JobState, StoreError> {
    parse(row, "state")
}

pub(super) fn queued(row: &impl SqlRow) -> Result<Queued, StoreError> {
    Ok(Queued { ready: ready(row)?, run_at: at(row, "run_at")?, is_paused: row.int("paused")? > 0 })
}

pub(super) fn ready(row: &impl SqlRow) -> Result<Ready, StoreError> {
    let priority: u8 = number(row, "priority")?;
    let state: JobState = parse(row, "state")?;
    Ok(Ready {
        id: row.uuid("id")?.into(),
        tenant: row.text("tenant")?,
        queue: row.text("queue")?,
        priority: Priority::try_from(priority).map_err(|_| corrupt("priority", &priority.to_string()))?,
        due_at: if state == JobState::Queued { None } else { Some(at(row, "run_at")?) },
    })
}

pub(super) fn event(row: &impl SqlRow) -> Result<Event, StoreError> {
    Ok(Event {
        job_id: Some(row.uuid("job_id")?.into()),
        board_id: None,
        seq: row.int("seq")?,
        session_id: row.opt_uuid("session_id")?.map(Into::into),
        session_seq: row.opt_int("session_seq")?,
        ts: at(row, "ts")?,
        attempt: number(row, "attempt")?,
        kind: parse(row, "type")?,
        data: lenient_json(row, "data")?.unwrap_or_default(),
    })
}

pub(super) fn board_event(row: &impl SqlRow) -> Result<Event, StoreError> {
    Ok(Event {
        job_id: row.opt_uuid("job_id")?.map(Into::into),
        board_id: Some(row.uuid("board_id")?.into()),
        seq: row.int("seq")?,
        session_id: None,
        session_seq: None,
        ts: at(row, "ts")?,
        attempt: 0,
        kind: parse(row, "type")?,
        data: lenient_json(row, "data")?.unwrap_or_default(),
    })
}

pub(super) fn session(row: &impl SqlRow) -> Result<Session, StoreError> {
    Ok(Session {
        user_id: row.opt_text("user_id")?,
        instance_id: row.opt_uuid("instance_id")?.map(Into::into),
        id: row.uuid("id")?.into(),
        tenant: row.text("tenant")?,
        status: parse(row, "status")?,
        engine: row.text("engine")?,
        system_prompt: row.opt_text("system_prompt")?,
        metadata: lenient_json(row, "metadata")?.unwrap_or_default(),
        created_at: at(row, "created_at")?,
        updated_at: at(row, "updated_at")?,
        tail_seq: row.int("tail_seq")?,
    })
}

/// What can't be read can't be shown, but the message can.
fn attachments(row: &impl SqlRow) -> Result<Vec<AttachmentRef>, StoreError> {
    let text = row.opt_text("attachments")?;
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

pub(super) fn message(row: &impl SqlRow) -> Result<Message, StoreError> {
    Ok(Message {
        attachments: attachments(row)?,
        id: row.uuid("id")?.into(),
        session_id: row.uuid("session_id")?.into(),
        job_id: row.opt_uuid("job_id")?.map(Into::into),
        role: parse(row, "role")?,
        content: row.text("content")?,
        ordinal: row.int("ordinal")?,
        created_at: at(row, "created_at")?,
    })
}
