//! What is shown.

use std::collections::BTreeMap;

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    SqlStore,
    dialect::{Dialect, SqlRow, params},
    family, row, statement,
    unit::id_rows,
};
use crate::{
    domain::{AttachmentRef, Children, Event, Job, JobId, JobState, Message, Session, SessionId, Stream, Timestamp},
    port::{
        StoreError,
        store::{JobFilter, QueueStats, Reads, SessionFilter, StreamState},
    },
};

#[async_trait]
impl<D: Dialect> Reads for SqlStore<D> {
    async fn epoch(&self) -> Result<String, StoreError> {
        Ok(self.epoch.to_string())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.dialect.read(&statement::NOW, params![]).await.map(drop)
    }

    async fn job(&self, tenant: &str, id: JobId) -> Result<Option<Job>, StoreError> {
        let rows = self.dialect.read(&statement::JOB, params![tenant, id.uuid()]).await?;
        rows.first().map(|row| row::job_row(row).map(|row| row.job)).transpose()
    }

    async fn jobs(&self, tenant: &str, filter: &JobFilter) -> Result<Vec<Job>, StoreError> {
        let only_live = !filter.states.is_empty() && filter.states.iter().all(|state| !state.is_terminal());
        let only_unsuccessful = !filter.states.is_empty()
            && filter.states.iter().all(|state| state.is_terminal() && *state != JobState::Completed);
        let sql = if filter.parent_id.is_some() {
            &statement::CHILD_JOBS
        } else if filter.session_id.is_some() {
            &statement::SESSION_JOBS
        } else if filter.user_id.is_some() {
            &statement::USER_JOBS
        } else if only_live {
            &statement::LIVE_JOBS
        } else if only_unsuccessful {
            &statement::UNSUCCESSFUL_JOBS
        } else {
            &statement::JOBS
        };
        let mut params = params![
            tenant,
            filter.kind.clone(),
            filter.queue.clone(),
            filter.session_id.map(SessionId::uuid),
            filter.since,
            before(filter.before.map(JobId::uuid)),
            filter.limit,
            state_list(&filter.states),
            filter.user_id.clone(),
        ];
        params.extend(filter.parent_id.map(|id| id.uuid().into()));
        let rows = self.dialect.read(sql, params).await?;
        Ok(rows.iter().filter_map(row::readable).map(|row| row.job).collect())
    }

    async fn children(&self, parents: &[JobId]) -> Result<BTreeMap<JobId, Children>, StoreError> {
        if parents.is_empty() {
            return Ok(BTreeMap::new());
        }
        let ids = id_rows(parents.iter().map(|id| id.uuid()));
        family::counted(&self.dialect.read(&statement::CHILDREN, params![ids]).await?)
    }

    async fn stream(&self, tenant: &str, stream: Stream) -> Result<Option<StreamState>, StoreError> {
        let found = self.states(&[stream]).await?;
        Ok(found.into_iter().find(|(_, owner, _)| owner == tenant).map(|(_, _, state)| state))
    }

    async fn tails(&self, streams: &[Stream]) -> Result<Vec<(Stream, StreamState)>, StoreError> {
        let found = self.states(streams).await?;
        Ok(found.into_iter().map(|(stream, _, state)| (stream, state)).collect())
    }

    async fn events(&self, stream: Stream, after: i64, limit: u32) -> Result<Vec<Event>, StoreError> {
        let rows = match stream {
            Stream::Board(id) => {
                let params = params![id.uuid(), after, limit];
                let rows = self.dialect.read(&statement::coordination::BOARD_EVENTS, params).await?;
                return rows.iter().map(row::board_event).collect();
            }
            Stream::Job(id) => self.dialect.read(&statement::JOB_EVENTS, params![id.uuid(), after, limit]).await?,
            Stream::Session(id) => {
                self.dialect.read(&statement::SESSION_EVENTS, params![id.uuid(), after, limit]).await?
            }
        };
        rows.iter().map(row::event).collect()
    }

    async fn timeline(&self, id: JobId, limit: u32) -> Result<Vec<Event>, StoreError> {
        let rows = self.dialect.read(&statement::TIMELINE, params![id.uuid(), limit]).await?;
        rows.iter().map(row::event).collect()
    }

    async fn session(&self, tenant: &str, id: SessionId) -> Result<Option<Session>, StoreError> {
        let rows = self.dialect.read(&statement::SESSION, params![tenant, id.uuid()]).await?;
        rows.first().map(row::session).transpose()
    }

    async fn sessions(&self, tenant: &str, filter: &SessionFilter) -> Result<Vec<Session>, StoreError> {
        let before = before(filter.before.map(SessionId::uuid));
        let mut params = params![tenant, before, filter.limit];
        let sql = match (&filter.user_id, filter.instance_id) {
            (None, None) => &statement::SESSIONS,
            (Some(user), None) => {
                params.push(user.as_str().into());
                &statement::USER_SESSIONS
            }
            (user, Some(instance)) => {
                params.extend(params![user.clone(), instance.uuid()]);
                &statement::INSTANCE_SESSIONS
            }
        };
        let rows = self.dialect.read(sql, params).await?;
        rows.iter().map(row::session).collect()
    }

    async fn session_attachment(&self, session: SessionId, hash: &str) -> Result<Option<AttachmentRef>, StoreError> {
        // As it is written there; no name can look like it, since quotes within one are escaped.
        let values = params![session.uuid(), format!("%\"hash\":\"{hash}\"%")];
        let Some(row) = self.dialect.read(&statement::SESSION_ATTACHMENT, values).await?.pop() else { return Ok(None) };
        let named: Vec<AttachmentRef> = serde_json::from_str(&row.text("attachments")?)
            .map_err(|error| StoreError::Corrupt(format!("attachments of a message: {error}")))?;
        Ok(named.into_iter().rev().find(|attachment| attachment.hash == hash))
    }

    async fn messages(&self, session: SessionId, after: i64, limit: u32) -> Result<Vec<Message>, StoreError> {
        let rows = self.dialect.read(&statement::MESSAGES, params![session.uuid(), after, limit]).await?;
        rows.iter().map(row::message).collect()
    }

    async fn queue_stats(&self, tenant: Option<&str>) -> Result<Vec<QueueStats>, StoreError> {
        let rows = self.dialect.read(&statement::QUEUE_STATS, params![tenant.map(str::to_owned)]).await?;
        rows.iter()
            .map(|row| {
                let state = row.text("state")?;
                Ok(QueueStats {
                    queue: row.text("queue")?,
                    state: state.parse().map_err(|_| StoreError::Corrupt(format!("state {state:?}")))?,
                    count: row.int("jobs")?,
                    oldest: row.opt_int("oldest")?.map(Timestamp::from_micros),
                })
            })
            .collect()
    }
}

/// Where a list begins: at the cursor, or above every id. A bound that is always there lets the index seek.
pub(super) fn before(cursor: Option<Uuid>) -> Uuid {
    cursor.unwrap_or(Uuid::max())
}

/// `,a,b,` for the statements that take any of some states; `None` means any at all.
pub(super) fn state_list(states: &[JobState]) -> Option<String> {
    (!states.is_empty()).then(|| states.iter().fold(",".to_owned(), |list, state| list + state.as_str() + ","))
}

impl<D: Dialect> SqlStore<D> {
    async fn states(&self, streams: &[Stream]) -> Result<Vec<(Stream, String, StreamState)>, StoreError> {
        let (mut jobs, mut sessions, mut boards) = (Vec::new(), Vec::new(), Vec::new());
        for stream in streams {
            match stream {
                Stream::Job(id) => jobs.push(id.uuid()),
                Stream::Session(id) => sessions.push(id.uuid()),
                Stream::Board(id) => boards.push(id.uuid()),
            }
        }
        let mut found = Vec::with_capacity(streams.len());
        if !jobs.is_empty() {
            for row in self.dialect.read(&statement::JOB_TAILS, params![id_rows(jobs)]).await? {
                found.push((Stream::Job(row.uuid("id")?.into()), row.text("tenant")?, state(&row)?));
            }
        }
        if !sessions.is_empty() {
            for row in self.dialect.read(&statement::SESSION_TAILS, params![id_rows(sessions)]).await? {
                found.push((Stream::Session(row.uuid("id")?.into()), row.text("tenant")?, state(&row)?));
            }
        }
        if !boards.is_empty() {
            for row in self.dialect.read(&statement::coordination::BOARD_TAILS, params![id_rows(boards)]).await? {
                found.push((Stream::Board(row.uuid("id")?.into()), row.text("tenant")?, state(&row)?));
            }
        }
        Ok(found)
    }
}

fn state(row: &impl SqlRow) -> Result<StreamState, StoreError> {
    Ok(StreamState {
        first_seq: row.int("first_seq")?,
        tail_seq: row.int("tail_seq")?,
        ended: row.opt_int("finished_at")?.is_some(),
    })
}
