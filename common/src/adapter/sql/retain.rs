//! Retention.

use async_trait::async_trait;
use serde::Serialize;
use uuid::Uuid;

use super::{
    SqlStore, attachment,
    dialect::{Dialect, Param, SqlRow, SqlTx, batch, params},
    row, statement,
    unit::id_rows,
    webhook,
};
use crate::{
    domain::Timestamp,
    port::{
        StoreError,
        store::{Passed, Retains, Step},
    },
};

/// A stream that will begin at `first_seq`.
#[derive(Serialize)]
struct Start {
    id: Uuid,
    first_seq: i64,
}

/// What a session's stream loses.
#[derive(Serialize)]
struct Span {
    id: Uuid,
    first_seq: i64,
    /// The first that stays.
    until: i64,
}

/// One job of the walk.
struct Old {
    id: Uuid,
    session_id: Option<Uuid>,
    first_seq: i64,
    tail_seq: i64,
}

#[async_trait]
impl<D: Dialect> Retains for SqlStore<D> {
    async fn drop_events(&self, before: Timestamp, after: Option<Passed>, limit: u32) -> Result<Step, StoreError> {
        let rows = self.dialect.read(&statement::OLD_JOBS_WITH_EVENTS, walk(before, after, limit)).await?;
        let next = end_of(&rows, limit)?;
        let old = rows.iter().map(old).collect::<Result<Vec<_>, _>>()?;
        let mut budget = i64::from(limit);
        let mut starts = starts_of_plain_jobs(&old, &mut budget);
        let mut sessions: Vec<_> = old.iter().filter_map(|job| job.session_id).collect();
        sessions.sort_unstable();
        sessions.dedup();

        let mut tx = self.dialect.begin().await?;
        if !sessions.is_empty() && budget > 0 {
            let spans = spans_of_sessions(&mut tx, sessions, before, &mut budget).await?;
            if !spans.is_empty() {
                for row in tx.fetch(&statement::STARTS_AFTER_SPANS, params![batch(&spans)]).await? {
                    starts.push(Start { id: row.uuid("job_id")?, first_seq: row.int("first_seq")? });
                }
                let starts: Vec<_> = spans.iter().map(|span| Start { id: span.id, first_seq: span.until }).collect();
                tx.execute(&statement::MOVE_SESSION_STARTS, params![batch(&starts)]).await?;
            }
        }
        let mut removed = 0;
        if !starts.is_empty() {
            tx.fetch(&statement::LOCK_JOBS, params![id_rows(starts.iter().map(|start| start.id))]).await?;
            tx.execute(&statement::MOVE_JOB_STARTS, params![batch(&starts)]).await?;
            removed = tx.execute(&statement::DROP_EVENTS, params![batch(&starts)]).await?;
        }
        tx.commit().await?;
        // When the budget was spent there may be more right here; what is done is not found again.
        let next = if budget > 0 { next } else { Some(after.unwrap_or_else(beginning)) };
        Ok(Step { removed, next })
    }

    async fn delete_jobs(
        &self,
        before: Timestamp,
        after: Option<Passed>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Step, StoreError> {
        let rows = self.dialect.read(&statement::OLD_JOBS_WITHOUT_EVENTS, walk(before, after, limit)).await?;
        let next = end_of(&rows, limit)?;
        let old = rows.iter().map(|row| row.uuid("id")).collect::<Result<Vec<_>, _>>()?;
        if old.is_empty() {
            return Ok(Step { removed: 0, next });
        }
        let mut tx = self.dialect.begin().await?;
        let locked = tx.fetch(&statement::LOCK_FREE_JOBS, params![id_rows(old)]).await?;
        let locked = locked.iter().map(|row| row.uuid("id")).collect::<Result<Vec<_>, _>>()?;
        let deleted = tx.fetch(&statement::DELETE_JOBS, params![id_rows(locked), before, now]).await?;
        let ids = deleted.iter().map(|row| row.uuid("id")).collect::<Result<Vec<_>, _>>()?;
        if !ids.is_empty() {
            tx.execute(&statement::DELETE_EFFECTS, params![id_rows(ids.iter().copied())]).await?;
            tx.execute(&statement::DELETE_APPROVALS, params![id_rows(ids.iter().copied())]).await?;
            tx.execute(&statement::coordination::DELETE_QUESTIONS, params![id_rows(ids.iter().copied())]).await?;
            webhook::forget(&mut tx, &ids).await?;
        }
        tx.commit().await?;
        Ok(Step { removed: ids.len() as u64, next })
    }

    async fn drop_attachments(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let dropped = attachment::drop_unnamed(&mut tx, before, limit).await?;
        tx.commit().await?;
        Ok(dropped)
    }

    async fn drop_board_events(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.drop_old_board_events(before, limit).await
    }

    async fn drop_activities(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.drop_old_activities(before, limit).await
    }
}

/// Before every job.
fn beginning() -> Passed {
    Passed { finished_at: Timestamp::from_micros(i64::MIN), id: Uuid::nil().into() }
}

fn walk(before: Timestamp, after: Option<Passed>, limit: u32) -> Vec<Param> {
    let after = after.unwrap_or_else(beginning);
    params![before, after.finished_at, after.id.uuid(), limit]
}

/// Where the next page begins; `None`: this one is the last.
fn end_of(rows: &[impl SqlRow], limit: u32) -> Result<Option<Passed>, StoreError> {
    let last = rows.last().filter(|_| rows.len() >= limit as usize);
    last.map(|row| Ok(Passed { finished_at: row::at(row, "finished_at")?, id: row.uuid("id")?.into() })).transpose()
}

fn old(row: &impl SqlRow) -> Result<Old, StoreError> {
    Ok(Old {
        id: row.uuid("id")?,
        session_id: row.opt_uuid("session_id")?,
        first_seq: row.int("first_seq")?,
        tail_seq: row.int("tail_seq")?,
    })
}

/// Jobs without a session: all of their events go, or as many as the budget allows.
fn starts_of_plain_jobs(old: &[Old], budget: &mut i64) -> Vec<Start> {
    let mut starts = Vec::new();
    for job in old.iter().filter(|job| job.session_id.is_none()) {
        let dropped = (job.tail_seq + 1 - job.first_seq).min(*budget);
        if dropped > 0 {
            starts.push(Start { id: job.id, first_seq: job.first_seq + dropped });
            *budget -= dropped;
        }
    }
    starts
}

/// Locks the sessions and says what their streams lose.
async fn spans_of_sessions(
    tx: &mut impl SqlTx,
    sessions: Vec<Uuid>,
    before: Timestamp,
    budget: &mut i64,
) -> Result<Vec<Span>, StoreError> {
    let sessions = id_rows(sessions);
    tx.fetch(&statement::LOCK_SESSIONS, params![sessions.clone()]).await?;
    let mut spans = Vec::new();
    for row in tx.fetch(&statement::DROPPABLE, params![sessions, before]).await? {
        let first_seq = row.int("first_seq")?;
        let dropped = (row.int("until")? - first_seq).min(*budget);
        if dropped > 0 {
            spans.push(Span { id: row.uuid("id")?, first_seq, until: first_seq + dropped });
            *budget -= dropped;
        }
    }
    Ok(spans)
}
