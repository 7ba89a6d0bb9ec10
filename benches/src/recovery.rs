//! SIGKILL of one of two workers: its jobs run again once their lease has passed.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use errand_tests::Mode;

use crate::{
    fleet::{self, Fleet},
    load,
    report::{Report, percentile},
    truth::{self, Job, seconds},
};

/// The queues by which the workers are told apart; no job is in them.
const NAMES: [&str; 2] = ["first", "second"];

/// Beyond the lease, a job may wait so long for its next start.
const BEYOND_LEASE_SECONDS: f64 = 5.0;

/// What is drilled.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Jobs in flight on both workers together
    #[arg(long, default_value_t = 200)]
    jobs: usize,
    /// Lease of a claim, in seconds
    #[arg(long, default_value_t = 30)]
    lease: u32,
}

/// Fills both workers, kills the first, and waits for all jobs.
///
/// # Errors
/// If the fleet can't be brought there.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let slots = options.jobs.div_ceil(NAMES.len());
    let queues = NAMES.map(|name| format!("default,{name}"));
    // The other worker's own jobs have ended before the lease passes: what is measured is not the wait for a free slot.
    let words = usize::try_from(options.lease)? / 2;
    let setup = load::with_pace(fleet::setup(Mode::Cluster)?, "slow", Duration::from_secs(1))
        .workers_taking_from(&queues.each_ref().map(String::as_str))
        .section("worker", &format!("lease_seconds = {}\nconcurrency = {slots}", options.lease));
    Fleet::drill(setup, async |fleet| {
        let victim = fleet.worker_of(NAMES[0]).await?;
        load::submit_many(fleet.client(), &[load::task("slow", words)], options.jobs).await?;
        truth::reach(&fleet.database, "running", options.jobs, Duration::from_secs(30)).await?;
        let killed = truth::now();
        fleet.errand.kill9_worker(0);
        let limit = Duration::from_secs(u64::from(options.lease) * 3 + 60);
        let jobs = truth::when_all_ended(&fleet.database, limit).await?;
        report(options, &victim, killed, &jobs)
    })
    .await
}

fn report(options: &Options, victim: &str, killed: i64, jobs: &[Job]) -> Result<Report> {
    let is_hit = |job: &&Job| {
        job.starts.iter().rfind(|start| start.at <= killed).is_some_and(|start| start.worker == victim)
            && job.finished_at.is_none_or(|at| at > killed)
    };
    let hit: Vec<&Job> = jobs.iter().filter(is_hit).collect();
    ensure!(!hit.is_empty(), "the worker that was killed ran nothing");
    let next_start = |job: &Job| job.starts.iter().find(|start| start.at > killed).map(|start| start.at);
    let never: Vec<String> = hit.iter().filter(|job| next_start(job).is_none()).map(|job| job.told()).collect();
    let mut waits: Vec<f64> = hit.iter().filter_map(|job| Some(seconds(killed, next_start(job)?))).collect();
    let elsewhere = jobs.iter().filter(|job| !is_hit(job) && job.starts.len() > 1);
    let disturbed: Vec<String> = elsewhere.map(Job::told).collect();
    let p99 = percentile(&mut waits, 99.0);
    let limit = f64::from(options.lease) + BEYOND_LEASE_SECONDS;
    Ok(Report::new(format!("recovery: SIGKILL of one of two workers, a lease of {} s", options.lease))
        .count("jobs in flight on both workers", jobs.len())
        .count("on the one that was killed", hit.len())
        .figure("from the kill to a job's next start, p50", percentile(&mut waits, 50.0), "s")
        .figure("from the kill to a job's next start, p99", p99, "s")
        .figure("from the kill to a job's next start, the longest", percentile(&mut waits, 100.0), "s")
        .promise("all jobs complete, each once", &truth::not_completed_once(jobs))
        .promise("each job of the killed worker starts again", &never)
        .promise("no job of the other worker starts again", &disturbed)
        .at_most(format!("p99 is at most the lease and {BEYOND_LEASE_SECONDS} s"), p99, limit))
}
