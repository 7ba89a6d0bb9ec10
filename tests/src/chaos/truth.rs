//! What the database says when all is quiet.

use std::collections::BTreeMap;

use anyhow::Result;
use futures::TryStreamExt;
use serde_json::Value;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::history::{Event, Failure, History, Job, Said};

/// The field of a job's metadata that names its submission.
pub const SUBMISSION: &str = "submission";

/// How many jobs have not ended.
///
/// # Errors
/// If the database doesn't answer.
pub async fn unfinished(connection: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT count(*) FROM jobs WHERE finished_at IS NULL").fetch_one(connection).await?)
}

/// Reads jobs, events, sessions and messages into the history.
///
/// # Errors
/// If the database doesn't answer, or holds what no version of Errand writes.
pub async fn read(connection: &mut PgConnection, history: &mut History) -> Result<()> {
    history.jobs = jobs(connection).await?;
    let mut events =
        sqlx::query("SELECT job_id, seq, session_seq, ts, attempt, claim, type, data FROM events ORDER BY job_id, seq")
            .fetch(&mut *connection);
    while let Some(row) = events.try_next().await? {
        let event = Event {
            seq: row.try_get("seq")?,
            session_seq: row.try_get("session_seq")?,
            ts: row.try_get("ts")?,
            attempt: row.try_get("attempt")?,
            claim: row.try_get("claim")?,
            kind: row.try_get("type")?,
            data: serde_json::from_str(row.try_get("data")?)?,
        };
        if let Some(job) = history.jobs.get_mut(&row.try_get::<Uuid, _>("job_id")?) {
            job.events.push(event);
        }
    }
    drop(events);
    for row in sqlx::query("SELECT id, tail_seq FROM sessions").fetch_all(&mut *connection).await? {
        history.sessions.insert(row.try_get("id")?, row.try_get("tail_seq")?);
    }
    for row in
        sqlx::query("SELECT job_id, role FROM messages WHERE job_id IS NOT NULL").fetch_all(&mut *connection).await?
    {
        history.messages.push(Said { job: row.try_get("job_id")?, role: row.try_get("role")? });
    }
    Ok(())
}

async fn jobs(connection: &mut PgConnection) -> Result<BTreeMap<Uuid, Job>> {
    // Errand's own, which follow from others: provisionings, and the nudges that tell of answers.
    let rows = sqlx::query(
        "SELECT id, state, tail_seq, session_id, failure, metadata FROM jobs \
         WHERE kind <> 'provision' AND (kind <> 'nudge' OR metadata IS NOT NULL)",
    )
    .fetch_all(connection)
    .await?;
    let mut jobs = BTreeMap::new();
    for row in rows {
        let json = |column| -> Result<Value> {
            let text: Option<&str> = row.try_get(column)?;
            Ok(text.map(serde_json::from_str).transpose()?.unwrap_or(Value::Null))
        };
        let (failure, metadata) = (json("failure")?, json("metadata")?);
        let text = |field: &str| failure[field].as_str().map(str::to_owned);
        let failure = text("class").zip(text("code")).map(|(class, code)| Failure { class, code });
        let job = Job {
            submission: metadata[SUBMISSION].as_u64(),
            state: row.try_get("state")?,
            tail_seq: row.try_get("tail_seq")?,
            failure,
            session: row.try_get("session_id")?,
            events: Vec::new(),
        };
        jobs.insert(row.try_get("id")?, job);
    }
    Ok(jobs)
}
