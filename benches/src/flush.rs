//! FLUSHALL with a full queue and full workers: Redis holds nothing that can't be had again.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use errand_tests::{Client, Mode};
use tokio::sync::oneshot;

use crate::{
    fleet::{self, Fleet},
    load,
    report::Report,
    truth::{self, Job, seconds},
};

const WORKERS: usize = 2;
/// Between two submissions while Redis is flushed.
const BETWEEN: Duration = Duration::from_millis(20);
/// All must have ended by then.
const LIMIT: Duration = Duration::from_secs(600);

/// What is drilled.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Jobs that wait
    #[arg(long, default_value_t = 10_000)]
    queued: usize,
    /// Jobs that run
    #[arg(long, default_value_t = 200)]
    running: usize,
    /// How long those run, in seconds: longer than it takes to queue the others
    #[arg(long, default_value_t = 20)]
    hold: usize,
}

/// Fills the workers and the queue, flushes, and waits for all jobs.
///
/// # Errors
/// If the fleet can't be brought there.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let slots = options.running.div_ceil(WORKERS);
    let setup = load::with_pace(fleet::setup(Mode::Cluster)?, "slow", Duration::from_secs(1))
        .workers(WORKERS)
        .section("worker", &format!("concurrency = {slots}"));
    Fleet::drill(setup, async |fleet| {
        let client = fleet.client();
        load::submit_many(client, &[load::task("slow", options.hold)], options.running).await?;
        truth::reach(&fleet.database, "running", options.running, Duration::from_secs(60)).await?;
        load::submit_many(client, &[load::task("echo", 1)], options.queued).await?;

        let (stop, stopped) = oneshot::channel();
        let submissions = tokio::spawn(submit(client.clone(), stopped));
        tokio::time::sleep(BETWEEN * 10).await;
        let running = truth::count(&fleet.database, "running").await?;
        ensure!(running >= options.running, "{running} jobs still run: they must be held longer");
        let waiting = truth::count(&fleet.database, "queued").await?;
        let flushed = truth::now();
        fleet.redis.flushall().await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        // It only ends early with an error, which is told next.
        let _ = stop.send(());
        let refused = submissions.await??;
        let jobs = truth::when_all_ended(&fleet.database, LIMIT).await?;
        Ok(report(waiting, running, flushed, &refused, &jobs))
    })
    .await
}

/// Submits one after the other until it is told to stop. Statuses other than 202.
async fn submit(client: Client, mut stopped: oneshot::Receiver<()>) -> Result<Vec<u16>> {
    let mut refused = Vec::new();
    while matches!(stopped.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
        let status = load::submit(&client, &load::task("echo", 1)).await?;
        refused.extend((status != 202).then_some(status));
        tokio::time::sleep(BETWEEN).await;
    }
    Ok(refused)
}

fn report(waiting: usize, running: usize, flushed: i64, refused: &[u16], jobs: &[Job]) -> Report {
    let last = |end: fn(&Job) -> Option<i64>, of: &dyn Fn(&Job) -> bool| {
        jobs.iter().filter(|job| of(job)).filter_map(end).max().map_or(f64::NAN, |at| seconds(flushed, at))
    };
    let ran = |job: &Job| job.starts.first().is_some_and(|start| start.at < flushed);
    let twice: Vec<String> = jobs.iter().filter(|job| job.starts.len() != 1).map(Job::told).collect();
    Report::new("flush: FLUSHALL with a full queue and full workers")
        .count("queued at that moment", waiting)
        .count("running at that moment", running)
        .count("jobs in all, with those submitted meanwhile", jobs.len())
        .figure("from FLUSHALL to the last end of those that ran", last(|job| job.finished_at, &ran), "s")
        .figure("from FLUSHALL to the last end of all", last(|job| job.finished_at, &|_| true), "s")
        .promise("submissions meanwhile are accepted", refused)
        .promise("all jobs complete, each once", &truth::not_completed_once(jobs))
        .promise("each is started once", &twice)
        .promise("no attempt is spent", &truth::spent_attempts(jobs))
}
