//! What fetching costs per job, with few and with many jobs waiting.
//!
//! In one process, on the ports themselves: a worker's two ways to its next jobs, by the queue and straight from the
//! store, each with the claim that follows.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use errand_common::{
    backend::Backend,
    config::{self, Config},
    domain::{JobId, Priority, RetryPolicy, WorkerId},
    port::store::{NewJob, Submission},
    wire,
};
use errand_tests::{
    postgres::{Durability, Postgres},
    redis::Redis,
};
use serde_json::json;

use crate::report::{Report, percentile};

/// Jobs one fetch takes.
const PER_FETCH: usize = 16;
/// Fetches measured, each way.
const FETCHES: usize = 25;
/// Jobs in one submission.
const PER_SUBMISSION: usize = 1_000;
const LEASE: Duration = Duration::from_secs(300);
const QUEUE: &str = "default";

/// What is measured.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Jobs that wait, smallest first
    #[arg(long, value_delimiter = ',', default_value = "1000,20000,200000")]
    sizes: Vec<usize>,
}

/// How much more a job may cost with the largest backlog than with the smallest.
const RATIO: f64 = 2.0;

/// Microseconds for each job fetched and claimed, in the middle of all fetches.
struct Cost {
    by_queue: f64,
    by_store: f64,
}

/// Measures each backlog on a database of its own, on one PostgreSQL and one Redis.
///
/// # Errors
/// If a fetch doesn't bring what waits.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let postgres = Postgres::boot(Durability::Durable).await?;
    let redis = Redis::boot().await?;
    let mut report = Report::new(format!("backlog: {PER_FETCH} jobs a fetch, each fetched and claimed"));
    let mut smallest: Option<Cost> = None;
    for &backlog in &options.sizes {
        ensure!(backlog > 2 * FETCHES * PER_FETCH, "a backlog must outlast the measurement: {backlog} is too few");
        let cost = measure(backlog, &postgres, &redis).await?;
        report = report.figure(format!("{backlog} waiting, a job by the queue"), cost.by_queue, "us").figure(
            format!("{backlog} waiting, a job straight from the store"),
            cost.by_store,
            "us",
        );
        if let Some(Cost { by_queue, by_store }) = &smallest {
            let (by_queue, by_store) = (cost.by_queue / by_queue, cost.by_store / by_store);
            report = report
                .figure(format!("{backlog} waiting by {}: by the queue", options.sizes[0]), by_queue, "times")
                .figure(format!("{backlog} waiting by {}: from the store", options.sizes[0]), by_store, "times")
                .at_most(
                    format!("with {backlog} waiting a job costs at most {RATIO} times as much"),
                    by_queue.max(by_store),
                    RATIO,
                );
        } else {
            smallest = Some(cost);
        }
    }
    Ok(report)
}

async fn measure(backlog: usize, postgres: &Postgres, redis: &Redis) -> Result<Cost> {
    let mut config = Config::default();
    config.redis.url = Some(config::Secret::new(redis.url()));
    config.redis.key_prefix = format!("backlog-{backlog}");
    let backend = Backend::open(&config, &postgres.create_database().await?).await?;
    fill(&backend, backlog).await?;

    let queues = [QUEUE.to_owned()];
    let worker = WorkerId::new();
    let (mut by_queue, mut by_store) = (Vec::new(), Vec::new());
    // By the queue first: it would hand out once more what was taken past it.
    for _ in 0..FETCHES {
        let started = Instant::now();
        let popped = backend.queue.pop(&queues, PER_FETCH, backend.clock.now()).await?;
        claim(&backend, worker, &popped.ready).await?;
        by_queue.push(per_job(started));
    }
    let mut after = None;
    for _ in 0..FETCHES {
        let started = Instant::now();
        let due = backend.store.due(&queues, after.as_deref(), u32::try_from(PER_FETCH)?).await?;
        claim(&backend, worker, &due.ids).await?;
        by_store.push(per_job(started));
        after = due.last_tenant;
    }
    Ok(Cost { by_queue: percentile(&mut by_queue, 50.0), by_store: percentile(&mut by_store, 50.0) })
}

async fn fill(backend: &Backend, backlog: usize) -> Result<()> {
    let mut left = backlog;
    while left > 0 {
        let count = left.min(PER_SUBMISSION);
        let jobs = (0..count).map(|number| job(left - number)).collect();
        let now = backend.clock.now();
        let (mut results, consequences) = backend.store.submit(vec![Submission { jobs, idempotency: None }], now).await;
        results.pop().context("one submission, one result")??;
        backend.dispatch(consequences).await;
        left -= count;
    }
    Ok(())
}

/// Ten tenants share the backlog.
fn job(number: usize) -> NewJob {
    NewJob {
        id: JobId::new(),
        tenant: format!("tenant-{}", number % 10),
        kind: wire::http::KIND.to_owned(),
        queue: QUEUE.to_owned(),
        priority: Priority::default(),
        payload: json!({"method": "GET", "url": "https://example.com/"}),
        payload_version: wire::http::VERSION,
        retry: RetryPolicy::TASK,
        timeout_ms: None,
        run_at: None,
        expires_at: None,
        deadline: None,
        metadata: None,
        retry_of: None,
        user_id: None,
        dedup: None,
        children: Vec::new(),
        task: None,
        coordination: None,
        webhook: None,
        trace: None,
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
