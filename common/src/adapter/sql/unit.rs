//! One transaction's bookkeeping.
//!
//! A unit of work loads rows under locks (sessions first, then jobs, each by id), lets the caller change them by the
//! rules of `domain`, numbers the events and messages that result, and writes everything back in a few batched statements.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    coordination::{self, LeftOver},
    dedup,
    dialect::{Dialect, Sql, SqlRow, SqlTx, batch, params},
    family::{self, EndedChild},
    row::{self, JobRow},
    statement,
    webhook::{self, ToTell},
};
use crate::{
    domain::{Change, Event, EventType, InstanceId, JobId, JobState, MessageId, NewEvent, Role, SessionId, Timestamp},
    port::{
        StoreError,
        store::{Consequences, Ended, Stop},
    },
};

/// A session as one transaction holds it.
#[derive(Clone, Debug)]
pub(super) struct HeldSession {
    pub tenant: String,
    pub user_id: Option<String>,
    pub instance_id: Option<InstanceId>,
    pub active: bool,
    tail_seq: i64,
    tail_message: i64,
    dirty: bool,
    /// Not in the database yet.
    fresh: Option<FreshSession>,
}

/// What a new session is made of.
#[derive(Clone, Debug)]
pub(super) struct FreshSession {
    pub instance_id: Option<InstanceId>,
    pub engine: String,
    pub system_prompt: Option<String>,
    pub metadata: serde_json::Value,
}

#[derive(Serialize)]
pub(super) struct IdRow {
    pub id: Uuid,
}

#[derive(Serialize)]
struct EventRow {
    job_id: Uuid,
    seq: i64,
    session_id: Option<Uuid>,
    session_seq: Option<i64>,
    ts: i64,
    attempt: u32,
    claim: i64,
    r#type: &'static str,
    data: String,
}

#[derive(Serialize)]
struct MessageRow {
    session_id: Uuid,
    ordinal: i64,
    id: Uuid,
    job_id: Uuid,
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    attachments: Option<String>,
    at: i64,
}

#[derive(Serialize)]
struct SessionRow {
    id: Uuid,
    tenant: String,
    user_id: Option<String>,
    instance_id: Option<Uuid>,
    engine: String,
    system_prompt: Option<String>,
    metadata: String,
    at: i64,
    tail_seq: i64,
    tail_message: i64,
}

#[derive(Serialize)]
struct SessionTail {
    id: Uuid,
    tail_seq: i64,
    tail_message: i64,
    at: i64,
}

/// One transaction.
pub(super) struct Unit<D: Dialect> {
    pub tx: D::Tx,
    pub now: Timestamp,
    pub sessions: BTreeMap<SessionId, HeldSession>,
    pub consequences: Consequences,
    /// The database's clock, as of the last lock of jobs.
    pub db_now: Timestamp,
    /// Jobs that ended.
    pub ended: BTreeSet<JobId>,
    /// Those of them whose parents are to be told.
    pub ended_children: Vec<EndedChild>,
    /// Those of them for which a successor may wait.
    ended_keyed: Vec<JobId>,
    /// What coordination has to write at the end.
    pub left: LeftOver,
    /// What others outside are to be told.
    pub to_tell: ToTell,
    events: Vec<EventRow>,
    messages: Vec<MessageRow>,
}

pub(super) fn id_rows(ids: impl IntoIterator<Item = Uuid>) -> String {
    let rows: Vec<_> = ids.into_iter().map(|id| IdRow { id }).collect();
    batch(&rows)
}

impl<D: Dialect> Unit<D> {
    pub(super) async fn begin(dialect: &D, now: Timestamp) -> Result<Self, StoreError> {
        Ok(Self {
            tx: dialect.begin().await?,
            now,
            sessions: BTreeMap::new(),
            consequences: Consequences::default(),
            db_now: now,
            ended: BTreeSet::new(),
            ended_children: Vec::new(),
            ended_keyed: Vec::new(),
            left: LeftOver::default(),
            to_tell: ToTell::default(),
            events: Vec::new(),
            messages: Vec::new(),
        })
    }

    pub(super) async fn lock_sessions(&mut self, ids: impl IntoIterator<Item = SessionId>) -> Result<(), StoreError> {
        let ids: Vec<_> = ids.into_iter().map(SessionId::uuid).collect();
        if ids.is_empty() {
            return Ok(());
        }
        self.hold_sessions(&statement::LOCK_SESSIONS, id_rows(ids)).await
    }

    /// Locks the sessions of these jobs, before the jobs themselves.
    pub(super) async fn lock_sessions_of(&mut self, jobs: &[JobId]) -> Result<(), StoreError> {
        self.hold_sessions(&statement::LOCK_SESSIONS_OF, id_rows(jobs.iter().map(|id| id.uuid()))).await
    }

    async fn hold_sessions(&mut self, sql: &'static Sql, ids: String) -> Result<(), StoreError> {
        for row in self.tx.fetch(sql, params![ids]).await? {
            let held = HeldSession {
                tenant: row.text("tenant")?,
                user_id: row.opt_text("user_id")?,
                instance_id: row.opt_uuid("instance_id")?.map(Into::into),
                active: row.text("status")? == "active",
                tail_seq: row.int("tail_seq")?,
                tail_message: row.int("tail_message")?,
                dirty: false,
                fresh: None,
            };
            self.sessions.insert(row.uuid("id")?.into(), held);
        }
        Ok(())
    }

    /// A session that [`Unit::commit`] will make.
    pub(super) fn open_session(&mut self, id: SessionId, tenant: &str, user_id: Option<String>, fresh: FreshSession) {
        let held = HeldSession {
            tenant: tenant.to_owned(),
            user_id,
            instance_id: fresh.instance_id,
            active: true,
            tail_seq: 0,
            tail_message: 0,
            dirty: true,
            fresh: Some(fresh),
        };
        self.sessions.insert(id, held);
    }

    pub(super) async fn lock_jobs(&mut self, ids: impl IntoIterator<Item = JobId>) -> Result<Vec<JobRow>, StoreError> {
        self.load_jobs(&statement::LOCK_JOBS, params![id_rows(ids.into_iter().map(JobId::uuid))]).await
    }

    /// Without those that another transaction holds.
    pub(super) async fn lock_free_jobs(&mut self, ids: &[JobId]) -> Result<Vec<JobRow>, StoreError> {
        self.load_jobs(&statement::LOCK_FREE_JOBS, params![id_rows(ids.iter().map(|id| id.uuid()))]).await
    }

    /// A row that can't be read is left out: nothing happens to that job, and the others go on.
    pub(super) async fn load_jobs(
        &mut self,
        sql: &'static Sql,
        params: Vec<super::dialect::Param>,
    ) -> Result<Vec<JobRow>, StoreError> {
        let rows = self.tx.fetch(sql, params).await?;
        if let Some(row) = rows.first() {
            self.db_now = row::at(row, "db_now")?;
        }
        Ok(rows.iter().filter_map(row::readable).collect())
    }

    /// Numbers an event in the streams of its job and session, and keeps it for [`Unit::commit`]. A retraction is told here
    /// from where on text is void, if it does not say so itself; where no text stands there is nothing to say.
    pub(super) fn emit(&mut self, row: &mut JobRow, mut event: NewEvent) {
        if event.kind == EventType::TextRetracted {
            // Also what an earlier run said before it was parked: an engine that goes on says again what stands.
            let Some(first) = row.text_from else { return };
            let from = event.data["from_seq"].as_i64().map_or(first, |told| told.max(first));
            event.data = json!({ "from_seq": from });
        }
        row.job.tail_seq += 1;
        let session_seq = row.job.session_id.and_then(|id| self.sessions.get_mut(&id)).map(|session| {
            session.tail_seq += 1;
            session.dirty = true;
            session.tail_seq
        });
        debug_assert_eq!(session_seq.is_some(), row.job.session_id.is_some(), "a job's session is locked before it");
        match event.kind {
            EventType::Text => row.text_from = row.text_from.or(Some(row.job.tail_seq)),
            EventType::TextRetracted => {
                let from = event.data["from_seq"].as_i64().unwrap_or_default();
                row.text_from = row.text_from.filter(|first| *first < from);
            }
            EventType::Progress => row.job.progress = Some(event.data.clone()),
            _ => {}
        }
        self.events.push(EventRow {
            job_id: row.job.id.uuid(),
            seq: row.job.tail_seq,
            session_id: row.job.session_id.map(SessionId::uuid),
            session_seq,
            ts: self.now.micros(),
            attempt: row.job.attempt,
            claim: row.claim,
            r#type: event.kind.as_str(),
            data: event.data.to_string(),
        });
        self.consequences.events.push(Event {
            job_id: Some(row.job.id),
            board_id: None,
            seq: row.job.tail_seq,
            session_id: row.job.session_id,
            session_seq,
            ts: self.now,
            attempt: row.job.attempt,
            kind: event.kind,
            data: event.data,
        });
    }

    /// Adds to the history of the job's session.
    pub(super) fn say(&mut self, row: &JobRow, role: Role, content: String) {
        self.say_with(row, role, content, None);
    }

    fn say_with(&mut self, row: &JobRow, role: Role, content: String, attachments: Option<String>) {
        let Some(session_id) = row.job.session_id else { return };
        let Some(session) = self.sessions.get_mut(&session_id) else { return };
        session.tail_message += 1;
        session.dirty = true;
        self.messages.push(MessageRow {
            session_id: session_id.uuid(),
            ordinal: session.tail_message,
            id: MessageId::new().uuid(),
            job_id: row.job.id.uuid(),
            role: role.as_str(),
            content,
            attachments,
            at: self.now.micros(),
        });
    }

    /// The job is its session's active one now: what its user says enters the history, and it can be seen to be due.
    pub(super) fn queue(&mut self, row: &mut JobRow) {
        row.position = None;
        if let Some(prompt) = row.pending_message.take() {
            let attachments = row.pending_attachments.take();
            self.say_with(row, Role::User, prompt, attachments);
        }
        self.emit(row, NewEvent::new(EventType::Queued, json!({"state": JobState::Queued.as_str()})));
        self.consequences.ready.extend(row.ready());
    }

    /// The job ends; its `failure` is set already. A holder, if there is one, keeps its lease; the caller decides about it, and
    /// saves the row. Its parent, and who waits for it under its dedup key, are served by [`Unit::commit`].
    pub(super) fn end(&mut self, row: &mut JobRow, change: Change) {
        row.change(change).expect("the caller checked that it has not ended");
        row.job.finished_at = Some(self.now);
        row.position = None;
        row.pending_message = None;
        row.pending_attachments = None;
        self.ended.insert(row.job.id);
        self.ended_children.extend(EndedChild::of(row));
        self.ended_keyed.extend(row.job.dedup_key.is_some().then_some(row.job.id));
        self.left.job_ended(row, self.now);
        self.to_tell.job_ended(row);
        self.consequences.ended.push(Ended { kind: row.job.kind.clone(), outcome: row.job.state });
    }

    /// Tells the holder, if there is one, to stop.
    pub(super) fn stop_holder(&mut self, row: &JobRow) {
        if let (Some(worker_id), Some(_)) = (row.job.worker_id, row.job.lease_until) {
            self.consequences.stops.push(Stop { worker_id, job_id: row.job.id, claim: row.claim });
        }
    }

    /// Writes changed jobs back. Their order among transactions is that of their locks.
    pub(super) async fn save(&mut self, rows: &mut [JobRow]) -> Result<(), StoreError> {
        self.save_by(&statement::SAVE_JOBS, rows).await
    }

    /// Writes back only what appending changes.
    pub(super) async fn save_tails(&mut self, rows: &mut [JobRow]) -> Result<(), StoreError> {
        self.save_by(&statement::SAVE_TAILS, rows).await
    }

    async fn save_by(&mut self, sql: &'static Sql, rows: &mut [JobRow]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let saved: Vec<_> = rows.iter().map(JobRow::saved).collect();
        let written = self.tx.execute(sql, params![batch(&saved)]).await?;
        if written != rows.len() as u64 {
            return Err(StoreError::Corrupt(format!("{} locked jobs, but {written} saved", rows.len())));
        }
        for row in rows {
            row.job.version += 1;
        }
        Ok(())
    }

    /// Writes new jobs.
    pub(super) async fn insert(&mut self, rows: &[JobRow]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let inserted: Vec<_> = rows.iter().map(JobRow::inserted).collect();
        self.tx.execute(&statement::INSERT_JOBS, params![batch(&inserted)]).await.map(drop)
    }

    /// Serves those that depend on jobs that ended here, writes what is left on boards and in the audit and what is to be told
    /// outside, then sessions, messages and events, and commits.
    pub(super) async fn commit(mut self) -> Result<Consequences, StoreError> {
        let ended = std::mem::take(&mut self.ended_keyed);
        dedup::free_successors(&mut self, &ended).await?;
        family::settle(&mut self).await?;
        coordination::settle(&mut self).await?;
        webhook::settle(&mut self).await?;
        let at = self.now.micros();
        let (mut fresh, mut tails) = (Vec::new(), Vec::new());
        for (id, session) in std::mem::take(&mut self.sessions) {
            let (id, tail_seq, tail_message) = (id.uuid(), session.tail_seq, session.tail_message);
            match session.fresh {
                Some(new) => fresh.push(SessionRow {
                    id,
                    tenant: session.tenant,
                    user_id: session.user_id,
                    instance_id: session.instance_id.map(InstanceId::uuid),
                    engine: new.engine,
                    system_prompt: new.system_prompt,
                    metadata: new.metadata.to_string(),
                    at,
                    tail_seq,
                    tail_message,
                }),
                None if session.dirty => tails.push(SessionTail { id, tail_seq, tail_message, at }),
                None => {}
            }
        }
        if !fresh.is_empty() {
            self.tx.execute(&statement::INSERT_SESSIONS, params![batch(&fresh)]).await?;
        }
        if !tails.is_empty() {
            self.tx.execute(&statement::SAVE_SESSIONS, params![batch(&tails)]).await?;
        }
        if !self.messages.is_empty() {
            self.tx.execute(&statement::INSERT_MESSAGES, params![batch(&self.messages)]).await?;
        }
        if !self.events.is_empty() {
            self.tx.execute(&statement::INSERT_EVENTS, params![batch(&self.events)]).await?;
        }
        self.tx.commit().await?;
        Ok(self.consequences)
    }
}
