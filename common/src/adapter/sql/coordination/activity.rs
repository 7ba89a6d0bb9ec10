//! The audit.

use async_trait::async_trait;
use serde::Serialize;
use uuid::Uuid;

use crate::{
    adapter::sql::{
        SqlStore,
        dialect::{Dialect, SqlRow, SqlTx, batch, params},
        read::before,
        row,
        statement::coordination as statement,
    },
    domain::{
        ActivityId, AgentId, BoardId, JobId, Timestamp,
        coordination::{Activity, NewActivity},
    },
    port::{
        StoreError,
        store::coordination::{Activities, ActivityFilter},
    },
};

#[derive(Serialize)]
pub(super) struct ActivityRow {
    id: Uuid,
    tenant: String,
    event_type: String,
    message: String,
    agent_id: Option<Uuid>,
    board_id: Option<Uuid>,
    job_id: Option<Uuid>,
    trace_id: Option<String>,
    at: i64,
}

impl ActivityRow {
    pub(super) fn new(tenant: String, line: NewActivity, job: Option<JobId>, now: Timestamp) -> Self {
        Self {
            id: ActivityId::new().uuid(),
            tenant,
            event_type: line.event_type,
            message: line.message,
            agent_id: line.agent_id.map(AgentId::uuid),
            board_id: line.board_id.map(BoardId::uuid),
            job_id: job.map(JobId::uuid),
            trace_id: line.trace_id,
            at: now.micros(),
        }
    }
}

pub(super) async fn insert(tx: &mut impl SqlTx, rows: &[ActivityRow]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    tx.execute(&statement::INSERT_ACTIVITIES, params![batch(rows)]).await.map(drop)
}

#[async_trait]
impl<D: Dialect> Activities for SqlStore<D> {
    async fn activities(&self, filter: &ActivityFilter) -> Result<Vec<Activity>, StoreError> {
        let before = before(filter.before.map(ActivityId::uuid));
        let (board, agent) = (filter.board_id.map(BoardId::uuid), filter.agent_id.map(AgentId::uuid));
        let rows = match filter.after {
            None => {
                let params = params![filter.tenant.as_str(), board, agent, before, filter.limit];
                self.dialect.read(&statement::ACTIVITIES, params).await?
            }
            Some(after) => {
                let params = params![filter.tenant.as_str(), board, agent, after.uuid(), filter.limit, before];
                self.dialect.read(&statement::ACTIVITIES_AFTER, params).await?
            }
        };
        rows.iter().map(read).collect()
    }

    async fn tell(&self, tenant: &str, line: NewActivity, now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.dialect.begin().await?;
        insert(&mut tx, &[ActivityRow::new(tenant.to_owned(), line, None, now)]).await?;
        tx.commit().await
    }
}

fn read(row: &impl SqlRow) -> Result<Activity, StoreError> {
    Ok(Activity {
        id: row.uuid("id")?.into(),
        tenant: row.text("tenant")?,
        event_type: row.text("event_type")?,
        message: row.text("message")?,
        agent_id: row.opt_uuid("agent_id")?.map(Into::into),
        board_id: row.opt_uuid("board_id")?.map(Into::into),
        job_id: row.opt_uuid("job_id")?.map(Into::into),
        trace_id: row.opt_text("trace_id")?,
        created_at: row::at(row, "created_at")?,
    })
}
