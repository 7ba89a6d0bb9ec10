//! Restart of all workers under load, one after the other: nobody but the clock should notice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use errand_tests::{Client, Mode};
use tokio::{sync::oneshot, task::JoinSet, time::MissedTickBehavior};

use crate::{
    fleet::{self, Fleet},
    load,
    report::{Report, percentile},
    truth::{self, Job},
};

/// How long a word takes; a job has two to five.
const WORD: Duration = Duration::from_millis(100);

/// What is drilled.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Workers
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Jobs submitted in a second
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Seconds of load before the first restart, and after the last
    #[arg(long, default_value_t = 15)]
    seconds: u64,
}

/// Restarts each worker in turn.
///
/// # Errors
/// If the fleet can't be brought there.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let setup = load::with_pace(fleet::setup(Mode::Cluster)?, "brief", WORD).workers(options.workers);
    Fleet::drill(setup, async |fleet| {
        let (stop, stopped) = oneshot::channel();
        let load = tokio::spawn(submit(fleet.client().clone(), options.rate, stopped));
        let calm = Duration::from_secs(options.seconds);
        tokio::time::sleep(calm).await;
        let begun = truth::now();
        for worker in 0..options.workers {
            let status = fleet.errand.sigterm_worker(worker).await;
            ensure!(status.success(), "worker {worker} ended with {status}");
            fleet.errand.restart_workers().await;
        }
        let ended = truth::now();
        tokio::time::sleep(calm).await;
        stop.send(()).ok().context("the load ended early")?;
        let refused = load.await??;
        let jobs = truth::when_all_ended(&fleet.database, Duration::from_secs(120)).await?;
        Ok(report(options, begun, ended, &refused, &jobs))
    })
    .await
}

/// Submits at a steady rate until it is told to stop, however long each answer takes. Statuses other than 202.
async fn submit(client: Client, rate: u32, mut stopped: oneshot::Receiver<()>) -> Result<Vec<u16>> {
    let mut clock = tokio::time::interval(Duration::from_secs(1) / rate);
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut submissions = JoinSet::new();
    for words in (2..=5).cycle() {
        tokio::select! {
            _ = &mut stopped => break,
            _ = clock.tick() => {}
        }
        let client = client.clone();
        submissions.spawn(async move { load::submit(&client, &load::task("brief", words)).await });
    }
    let statuses: Vec<u16> = submissions.join_all().await.into_iter().collect::<Result<_>>()?;
    Ok(statuses.into_iter().filter(|status| *status != 202).collect())
}

fn report(options: &Options, begun: i64, ended: i64, refused: &[u16], jobs: &[Job]) -> Report {
    let delays = |during: bool| -> Vec<f64> {
        let phase = jobs.iter().filter(|job| job.created_at < ended && (job.created_at >= begun) == during);
        phase.filter_map(Job::start_delay_ms).collect()
    };
    let (mut before, mut during) = (delays(false), delays(true));
    let twice: Vec<String> = jobs.iter().filter(|job| job.starts.len() != 1).map(Job::told).collect();
    Report::new(format!(
        "rolling: SIGTERM and restart of {} workers in turn, {} jobs/s of 200 to 500 ms",
        options.workers, options.rate
    ))
    .count("jobs", jobs.len())
    .count("of them submitted during the restarts", during.len())
    .figure("the restarts took", truth::seconds(begun, ended), "s")
    .figure("from submission to start, before: p99", percentile(&mut before, 99.0), "ms")
    .figure("from submission to start, before: the longest", percentile(&mut before, 100.0), "ms")
    .figure("from submission to start, during: p99", percentile(&mut during, 99.0), "ms")
    .figure("from submission to start, during: the longest", percentile(&mut during, 100.0), "ms")
    .count("handed back, and started again", twice.len())
    .promise("every submission is accepted", refused)
    .promise("all jobs complete, each once", &truth::not_completed_once(jobs))
    .promise("no attempt is spent", &truth::spent_attempts(jobs))
}
