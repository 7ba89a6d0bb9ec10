//! What the database holds: each job, and when it was started. Times are instants in microseconds since 1970.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use chrono::Utc;
use serde_json::Value;
use sqlx::{Connection, PgConnection, Row};
use uuid::Uuid;

/// Between two looks whether all have ended.
const LOOK: Duration = Duration::from_millis(100);

/// A job.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: Uuid,
    pub(crate) tenant: String,
    pub(crate) state: String,
    pub(crate) attempt: i64,
    pub(crate) created_at: i64,
    pub(crate) finished_at: Option<i64>,
    /// Oldest first.
    pub(crate) starts: Vec<Start>,
    /// `completed` events.
    pub(crate) ends: usize,
}

/// One claim's beginning.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) at: i64,
    pub(crate) worker: String,
}

impl Job {
    /// From its submission to its first start, in milliseconds.
    pub(crate) fn start_delay_ms(&self) -> Option<f64> {
        self.starts.first().map(|start| seconds(self.created_at, start.at) * 1_000.0)
    }

    /// What it is called where something speaks against it.
    pub(crate) fn told(&self) -> String {
        format!("job {} is {}, attempt {}, {} starts", self.id, self.state, self.attempt, self.starts.len())
    }
}

/// Now, on the clock of the events.
pub(crate) fn now() -> i64 {
    Utc::now().timestamp_micros()
}

/// Between two instants.
#[expect(clippy::cast_precision_loss, reason = "the time of a drill")]
pub(crate) fn seconds(from: i64, to: i64) -> f64 {
    (to - from) as f64 / 1_000_000.0
}

/// All jobs with their starts.
///
/// # Errors
/// If the database doesn't answer.
pub(crate) async fn jobs(database: &str) -> Result<Vec<Job>> {
    let mut connection = PgConnection::connect(database).await?;
    let rows = sqlx::query("SELECT id, tenant, state, attempt, created_at, finished_at FROM jobs")
        .fetch_all(&mut connection)
        .await?;
    let mut jobs = BTreeMap::new();
    for row in rows {
        let job = Job {
            id: row.try_get("id")?,
            tenant: row.try_get("tenant")?,
            state: row.try_get("state")?,
            attempt: row.try_get("attempt")?,
            created_at: row.try_get("created_at")?,
            finished_at: row.try_get("finished_at")?,
            starts: Vec::new(),
            ends: 0,
        };
        jobs.insert(job.id, job);
    }
    let events =
        "SELECT job_id, ts, type, data FROM events WHERE type IN ('started', 'completed') ORDER BY job_id, seq";
    for row in sqlx::query(events).fetch_all(&mut connection).await? {
        let Some(job) = jobs.get_mut(&row.try_get::<Uuid, _>("job_id")?) else { continue };
        if row.try_get::<&str, _>("type")? == "completed" {
            job.ends += 1;
            continue;
        }
        let data: Value = serde_json::from_str(row.try_get("data")?)?;
        let worker = data["worker_id"].as_str().context("who started it")?.to_owned();
        job.starts.push(Start { at: row.try_get("ts")?, worker });
    }
    connection.close().await?;
    Ok(jobs.into_values().collect())
}

/// The text events of all jobs: when each was written, and its text.
///
/// # Errors
/// If the database doesn't answer.
pub(crate) async fn texts(database: &str) -> Result<Vec<(i64, String)>> {
    let mut connection = PgConnection::connect(database).await?;
    let rows = sqlx::query("SELECT ts, data FROM events WHERE type = 'text'").fetch_all(&mut connection).await?;
    connection.close().await?;
    let text = |data: &str| -> Result<String> {
        let data: Value = serde_json::from_str(data)?;
        Ok(data["content"].as_str().unwrap_or_default().to_owned())
    };
    rows.into_iter().map(|row| Ok((row.try_get("ts")?, text(row.try_get("data")?)?))).collect()
}

/// A decision about a tool call of a job, and what its run wrote next.
pub(crate) struct Decision {
    pub(crate) job: Uuid,
    pub(crate) decided_at: i64,
    pub(crate) next_frame_at: i64,
}

/// All decisions that a run has gone on after.
///
/// # Errors
/// If the database doesn't answer.
pub(crate) async fn decisions(database: &str) -> Result<Vec<Decision>> {
    let mut connection = PgConnection::connect(database).await?;
    let rows = sqlx::query(
        "SELECT approvals.job_id, decided_at, min(later.ts) AS next_frame_at FROM approvals \
         JOIN events AS resolved ON resolved.job_id = approvals.job_id AND resolved.type = 'approval_resolved' \
         JOIN events AS later ON later.job_id = approvals.job_id AND later.seq > resolved.seq \
             AND later.type IN ('tool_use', 'tool_result', 'text') \
         WHERE state = 'approved' GROUP BY approvals.job_id, decided_at",
    )
    .fetch_all(&mut connection)
    .await?;
    connection.close().await?;
    let decision = |row: &sqlx::postgres::PgRow| {
        Ok(Decision {
            job: row.try_get("job_id")?,
            decided_at: row.try_get("decided_at")?,
            next_frame_at: row.try_get("next_frame_at")?,
        })
    };
    rows.iter().map(decision).collect()
}

/// How many jobs are in a state.
///
/// # Errors
/// If the database doesn't answer.
pub(crate) async fn count(database: &str, state: &str) -> Result<usize> {
    let mut connection = PgConnection::connect(database).await?;
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = $1").bind(state).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(usize::try_from(count)?)
}

/// Waits until so many jobs are in a state.
///
/// # Errors
/// If they aren't within `limit`.
pub(crate) async fn reach(database: &str, state: &str, wanted: usize, limit: Duration) -> Result<()> {
    let mut connection = PgConnection::connect(database).await?;
    let mut seen: i64 = 0;
    let looks = async {
        loop {
            seen = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE state = $1")
                .bind(state)
                .fetch_one(&mut connection)
                .await?;
            if usize::try_from(seen)? >= wanted {
                return anyhow::Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(limit, looks).await {
        Ok(reached) => reached,
        Err(_) => bail!("{seen} of {wanted} jobs were {state} after {limit:?}"),
    }
}

/// Waits until all jobs have ended, and reads them.
///
/// # Errors
/// If they haven't within `limit`.
pub(crate) async fn when_all_ended(database: &str, limit: Duration) -> Result<Vec<Job>> {
    let mut connection = PgConnection::connect(database).await?;
    let mut live: i64 = 0;
    let looks = async {
        loop {
            live = sqlx::query_scalar("SELECT count(*) FROM jobs WHERE finished_at IS NULL")
                .fetch_one(&mut connection)
                .await?;
            if live == 0 {
                return anyhow::Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    match tokio::time::timeout(limit, looks).await {
        Ok(ended) => ended?,
        Err(_) => bail!("{live} jobs had not ended after {limit:?}"),
    }
    jobs(database).await
}

/// Those that did not complete, or not exactly once.
pub(crate) fn not_completed_once(jobs: &[Job]) -> Vec<String> {
    jobs.iter().filter(|job| job.state != "completed" || job.ends != 1).map(Job::told).collect()
}

/// Those that spent more than one attempt.
pub(crate) fn spent_attempts(jobs: &[Job]) -> Vec<String> {
    jobs.iter().filter(|job| job.attempt != 1).map(Job::told).collect()
}
