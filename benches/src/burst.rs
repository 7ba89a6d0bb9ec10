//! Many tasks at once: as fast as the API takes them, and each exactly once.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use errand_tests::{Client, wait};
use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use serde::Serialize;
use serde_json::json;

use crate::report::percentile;

/// The whole burst may take no longer.
const LIMIT: Duration = Duration::from_secs(900);

/// Jobs that are looked at together afterwards.
const CHECKS_AT_ONCE: usize = 32;

/// What came of it.
#[derive(Serialize, Debug)]
pub(crate) struct Burst {
    /// Tasks submitted.
    pub(crate) jobs: usize,
    /// Connections that submitted.
    pub(crate) connections: usize,
    /// Accepted in a second, from the first request to the last answer.
    pub(crate) submissions_per_second: f64,
    /// Half of the submissions were answered in this time.
    pub(crate) submission_p50_ms: f64,
    /// 99 of 100 were.
    pub(crate) submission_p99_ms: f64,
    /// Completed in a second, from the first request until nothing was left to do.
    pub(crate) completions_per_second: f64,
}

/// Submits `jobs` tasks over `connections` connections, waits for all, and looks at each.
///
/// # Errors
/// If one is refused, doesn't complete, or ran more than once.
pub(crate) async fn run(client: &Client, jobs: usize, connections: usize) -> Result<Burst> {
    let started = Instant::now();
    let next = AtomicUsize::new(0);
    let submitted = try_join_all((0..connections).map(|_| submit(client, &next, jobs))).await?;
    let submitting = started.elapsed();
    wait::until_within(LIMIT, "every task has ended", || async {
        client.get("/jobs?state=live&limit=1").await.items().is_empty().then_some(())
    })
    .await;
    let completing = started.elapsed();

    let (ids, mut times): (Vec<String>, Vec<f64>) = submitted.into_iter().flatten().unzip();
    ensure!(ids.len() == jobs, "{} of {jobs} were accepted", ids.len());
    stream::iter(&ids).map(|id| ran_once(client, id)).buffer_unordered(CHECKS_AT_ONCE).try_collect::<()>().await?;
    Ok(Burst {
        jobs,
        connections,
        submissions_per_second: rate(jobs, submitting),
        submission_p50_ms: percentile(&mut times, 50.0),
        submission_p99_ms: percentile(&mut times, 99.0),
        completions_per_second: rate(jobs, completing),
    })
}

/// One connection's share: ids, and how long each answer took in milliseconds.
async fn submit(client: &Client, next: &AtomicUsize, jobs: usize) -> Result<Vec<(String, f64)>> {
    let mut done = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= jobs {
            return Ok(done);
        }
        let asked = Instant::now();
        let body = json!({"prompt": format!("benchmark task number {number}"), "engineType": "echo"});
        let answer = client.post("/agent/tasks", &body).await;
        ensure!(answer.status == 202, "refused with {}: {}", answer.status, answer.text);
        let id = answer.body["taskId"].as_str().context("no taskId")?.to_owned();
        done.push((id, asked.elapsed().as_secs_f64() * 1_000.0));
    }
}

async fn ran_once(client: &Client, id: &str) -> Result<()> {
    let job = client.job(id).await;
    ensure!(job["state"] == "completed", "job {id} is {}", job["state"]);
    ensure!(job["attempt"] == 1, "job {id} needed attempt {}", job["attempt"]);
    let starts = client.timeline(id).await.iter().filter(|event| event["type"] == "started").count();
    ensure!(starts == 1, "job {id} was started {starts} times");
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "far fewer jobs than a float counts exactly")]
fn rate(jobs: usize, elapsed: Duration) -> f64 {
    jobs as f64 / elapsed.as_secs_f64()
}
