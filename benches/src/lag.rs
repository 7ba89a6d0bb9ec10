//! How late scheduled tasks start.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use errand_tests::Client;
use serde_json::{Value, json};

use crate::report::percentile;

/// The first is due so long after its submission, so that all are stored by then.
const AHEAD: TimeDelta = TimeDelta::seconds(3);

/// Between two.
const APART: TimeDelta = TimeDelta::milliseconds(10);

/// What came of it: from `run_at` to `started_at`, in milliseconds.
#[derive(Debug)]
pub(crate) struct Lag {
    /// Tasks scheduled.
    pub(crate) jobs: usize,
    /// The middle.
    pub(crate) p50_ms: f64,
    /// 99 of 100 are below.
    pub(crate) p99_ms: f64,
    /// The worst.
    pub(crate) max_ms: f64,
}

/// Schedules `jobs` tasks, spread over time, and waits for all.
///
/// # Errors
/// If one starts too early or doesn't complete.
pub(crate) async fn run(client: &Client, jobs: usize) -> Result<Lag> {
    let first = Utc::now() + AHEAD;
    let mut ids = Vec::with_capacity(jobs);
    for number in 0..i32::try_from(jobs)? {
        let run_at = first + APART * number;
        let body = json!({"prompt": "on time", "engineType": "echo", "runAt": run_at.to_rfc3339()});
        ids.push(client.submit_task(&body).await.id);
    }
    let mut lags = Vec::with_capacity(jobs);
    for id in &ids {
        let job = client.wait_for_completion(id).await;
        let lag = instant(&job, "started_at")? - instant(&job, "run_at")?;
        ensure!(lag >= TimeDelta::zero(), "job {id} started {lag} early");
        lags.push(lag.as_seconds_f64() * 1_000.0);
    }
    Ok(Lag {
        jobs,
        p50_ms: percentile(&mut lags, 50.0),
        p99_ms: percentile(&mut lags, 99.0),
        max_ms: percentile(&mut lags, 100.0),
    })
}

fn instant(job: &Value, field: &str) -> Result<DateTime<Utc>> {
    Ok(job[field].as_str().with_context(|| format!("no {field}"))?.parse()?)
}
