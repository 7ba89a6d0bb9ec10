//! Many tasks at once: as fast as the API takes them, and each exactly once.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use errand_tests::{Client, Mode, wait};
use futures::{StreamExt, TryStreamExt, future::try_join_all, stream};
use serde_json::json;

use crate::{
    fleet::{self, Fleet},
    lag, memory,
    report::{Report, percentile},
};

/// The whole burst may take no longer.
const LIMIT: Duration = Duration::from_secs(900);

/// Jobs that are looked at together afterwards.
const CHECKS_AT_ONCE: usize = 32;

/// What is measured.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Tasks of the burst
    #[arg(long, default_value_t = 5_000)]
    jobs: usize,
    /// Keep-alive connections that submit
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Tasks scheduled ahead, to see how late they start
    #[arg(long, default_value_t = 200)]
    scheduled: usize,
    /// What runs, and where its truth is kept
    #[arg(long, value_enum, default_value_t = Place::Sqlite)]
    store: Place,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Place {
    /// `errand dev` on a file
    Sqlite,
    /// `errand dev` on PostgreSQL
    Postgres,
    /// The two above
    Both,
    /// `errand api` and `errand worker` on PostgreSQL and Redis
    Cluster,
    /// All three
    All,
}

impl Place {
    const fn modes(self) -> &'static [(&'static str, Mode)] {
        const ALL: &[(&str, Mode)] = &[
            ("errand dev on SQLite", Mode::Embedded),
            ("errand dev on PostgreSQL", Mode::DevOnPostgres),
            ("one api and one worker on PostgreSQL and Redis", Mode::Cluster),
        ];
        match self {
            Self::Sqlite => ALL.split_at(1).0,
            Self::Postgres => ALL.split_at(2).0.split_at(1).1,
            Self::Both => ALL.split_at(2).0,
            Self::Cluster => ALL.split_at(2).1,
            Self::All => ALL,
        }
    }
}

/// Measures each place in turn.
///
/// # Errors
/// If a task is refused, doesn't complete, or ran more than once.
pub(crate) async fn run(options: &Options) -> Result<Vec<Report>> {
    let mut reports = Vec::new();
    for &(place, mode) in options.store.modes() {
        let setup = fleet::setup(mode)?;
        let title = format!("burst: {place}; {} echo tasks over {} connections", options.jobs, options.connections);
        let report = Fleet::drill(setup, async |fleet| {
            let report = measure(Report::new(title), fleet.client(), options).await?;
            let peak = memory::peak_mib(fleet.errand.worker_pid(0))?;
            let lag = lag::run(fleet.client(), options.scheduled).await?;
            Ok(report
                .figure("peak memory of the process that runs the tasks", peak, "MiB")
                .count("tasks scheduled ahead", lag.jobs)
                .figure("from their time to their start, p50", lag.p50_ms, "ms")
                .figure("from their time to their start, p99", lag.p99_ms, "ms")
                .figure("from their time to their start, the longest", lag.max_ms, "ms"))
        });
        reports.push(report.await?);
    }
    Ok(reports)
}

/// Submits all tasks over all connections, waits for them, and looks at each.
async fn measure(report: Report, client: &Client, options: &Options) -> Result<Report> {
    let Options { jobs, connections, .. } = *options;
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
    Ok(report
        .figure("submitted", rate(jobs, submitting), "/s")
        .figure("one submission, p50", percentile(&mut times, 50.0), "ms")
        .figure("one submission, p99", percentile(&mut times, 99.0), "ms")
        .figure("completed, from the first request to the last end", rate(jobs, completing), "/s"))
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
