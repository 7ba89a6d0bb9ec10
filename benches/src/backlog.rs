//! What fetching costs per job, with few and with many jobs waiting.
//!
//! In one process, on the ports themselves: a worker's two ways to its next jobs, by the queue and straight from the
//! store, each with the claim that follows.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use errand_common::{
    backend::Backend,
    config::{self, Config},
    domain::{JobId, Priority, RetryPolicy, WorkerId},
    port::store::{NewJob, Submission},
};
use errand_tests::{
    postgres::{Durability, Postgres},
    redis::Redis,
};
use serde::Serialize;
use serde_json::json;

use crate::report::percentile;

/// Jobs one fetch takes.
const PER_FETCH: usize = 16;
/// Fetches measured, each way.
const FETCHES: usize = 25;
/// Jobs in one submission.
const PER_SUBMISSION: usize = 1_000;
const LEASE: Duration = Duration::from_secs(300);
const QUEUE: &str = "default";

/// The figures of one backlog, in microseconds for each job fetched.
#[derive(Serialize, Debug)]
pub(crate) struct Row {
    /// Jobs that waited.
    pub(crate) backlog: usize,
    /// By the queue, and claimed: the middle of all fetches.
    pub(crate) by_queue_us: f64,
    /// Straight from the store, and claimed: the middle of all fetches.
    pub(crate) by_store_us: f64,
}

/// Measures each backlog on a database of its own, on one PostgreSQL and one Redis.
///
/// # Errors
/// If a fetch doesn't bring what waits.
pub(crate) async fn run(sizes: &[usize]) -> Result<Vec<Row>> {
    let postgres = Postgres::boot(Durability::Durable).await?;
    let redis = Redis::boot().await?;
    let mut rows = Vec::new();
    for &backlog in sizes {
        ensure!(backlog > 2 * FETCHES * PER_FETCH, "a backlog must outlast the measurement: {backlog} is too few");
        rows.push(measure(backlog, &postgres, &redis).await?);
    }
    Ok(rows)
}

async fn measure(backlog: usize, postgres: &Postgres, redis: &Redis) -> Result<Row> {
    let mut config = Config::default();
    config.redis.url = Some(config::Secret::new(redis.url()));
    config.redis.key_prefix = format!("backlog-{backlog}");
    let backend = Backend::open(&config, &postgres.create_database().await?).await?;
    fill(&backend, backlog).await?;

    let queues = [QUEUE.to_owned()];
    let worker = WorkerId::new();
    let (mut by_queue, mut by_store) = (Vec::new(), Vec::new());
    let mut after = None;
    for _ in 0..FETCHES {
        let started = Instant::now();
        let popped = backend.queue.pop(&queues, PER_FETCH, backend.clock.now()).await?;
        claim(&backend, worker, &popped.ready).await?;
        by_queue.push(per_job(started));

        let started = Instant::now();
        let due = backend.store.due(&queues, after.as_deref(), u32::try_from(PER_FETCH)?).await?;
        claim(&backend, worker, &due.ids).await?;
        by_store.push(per_job(started));
        after = due.last_tenant;
    }
    Ok(Row { backlog, by_queue_us: percentile(&mut by_queue, 50.0), by_store_us: percentile(&mut by_store, 50.0) })
}

async fn fill(backend: &Backend, backlog: usize) -> Result<()> {
    let mut left = backlog;
    while left > 0 {
        let count = left.min(PER_SUBMISSION);
        let jobs = (0..count).map(|number| job(left - number)).collect();
        let now = backend.clock.now();
        let (mut results, consequences) =
            backend.store.submit(vec![Submission { jobs, idempotency: None }], now).await;
        results.pop().context("one submission, one result")??;
        backend.dispatch(consequences).await;
        left -= count;
    }
    Ok(())
}

/// Ten tenants share the backlog.
fn job(number: usize) -> NewJob {
    NewJob {
        tenant: format!("tenant-{}", number % 10),
        queue: QUEUE.to_owned(),
        payload: json!({"method": "GET", "url": "https://example.com/"}),
        ..NewJob::plain(JobId::new(), "http", Priority::default(), RetryPolicy::TASK)
    }
}

async fn claim(backend: &Backend, worker: WorkerId, ids: &[JobId]) -> Result<()> {
    ensure!(ids.len() == PER_FETCH, "{} of {PER_FETCH} ids were handed out", ids.len());
    let (claims, _) = backend.store.claim(worker, LEASE, ids, backend.clock.now()).await?;
    ensure!(!claims.claimed.is_empty(), "nothing of what was handed out could be claimed");
    Ok(())
}

fn per_job(started: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let jobs = PER_FETCH as f64;
    started.elapsed().as_secs_f64() * 1_000_000.0 / jobs
}
