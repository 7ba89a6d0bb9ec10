//! One tenant's flood, and what it costs another: jobs are handed out by tenant in turn.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use errand_tests::{Client, Mode};
use futures::future::try_join_all;
use serde_json::Value;
use tokio::{sync::watch, time::MissedTickBehavior};

use crate::{
    fleet::{self, Fleet},
    load,
    report::{Report, percentile},
    truth::{self, Job},
};

const SLOTS: usize = 16;
/// Clients that keep the slots busy before the flood: some more than slots, so that none is idle while its client submits
/// again.
const BUSY: usize = SLOTS * 5 / 4;
/// A job of the one that floods has one or two words, before the flood and in it.
const WORD: Duration = Duration::from_millis(100);
/// Between two jobs of the other.
const BETWEEN: Duration = Duration::from_millis(100);
const FLOODER: &str = "flooder";
const NEIGHBOUR: &str = "neighbour";
/// How much later the neighbour's jobs may start.
const RATIO: f64 = 2.0;

/// What is measured.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Jobs of the flood
    #[arg(long, default_value_t = 100_000)]
    jobs: usize,
    /// How long the neighbour is watched with all slots busy, and again with the flood queued, in seconds
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

/// Measures the neighbour beside busy slots, then beside a backlog.
///
/// # Errors
/// If the fleet can't be brought there.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let setup = load::with_pace(fleet::setup(Mode::Cluster)?, "brief", WORD)
        .section("worker", &format!("concurrency = {SLOTS}"));
    Fleet::drill(setup, async |fleet| {
        let flooder = fleet.tenant(FLOODER).await?;
        let neighbour = fleet.tenant(NEIGHBOUR).await?;
        let watched = Duration::from_secs(options.seconds);

        let (busy, until) = watch::channel(true);
        let loops = tokio::spawn(try_join_all(
            (0..BUSY).map(|client| keep_busy(flooder.clone(), client % 2 + 1, until.clone())),
        ));
        // The slots are busy before it counts.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let calm = truth::now();
        keep_submitting(&neighbour, watched).await?;
        let calm_over = truth::now();

        let loud = tokio::spawn({
            let flooder = flooder.clone();
            let jobs = options.jobs;
            async move { load::submit_many(&flooder, &[load::task("brief", 1), load::task("brief", 2)], jobs).await }
        });
        // The loops go on until the flood keeps the slots busy by itself.
        tokio::time::sleep(Duration::from_secs(2)).await;
        busy.send_replace(false);
        while !loud.is_finished() {
            keep_submitting(&neighbour, BETWEEN * 5).await?;
        }
        loud.await??;
        let flooded = truth::now();
        keep_submitting(&neighbour, watched).await?;
        let over = truth::now();
        let backlog = truth::count(&fleet.database, "queued").await?;
        ensure!(backlog > 0, "the flood had drained before the measurement ended: let it be larger");
        // What the loops and the neighbour still wait for is not waited for: the fleet ends with its backlog.
        loops.abort();
        let jobs = truth::jobs(&fleet.database).await?;
        fleet.errand.kill9();
        Ok(report(options, &jobs, [(calm, calm_over), (calm_over, flooded), (flooded, over)], backlog))
    })
    .await
}

/// One job after the other, each awaited.
async fn keep_busy(client: Client, words: usize, until: watch::Receiver<bool>) -> Result<()> {
    while *until.borrow() {
        let answer = client.post("/jobs", &load::task("brief", words)).await;
        ensure!(answer.status == 202, "refused with {}: {}", answer.status, answer.text);
        let id = answer.body["id"].as_str().or_else(|| answer.body["job_id"].as_str()).unwrap_or_default();
        let ended = |job: &Value| job["finished_at"].is_string();
        while *until.borrow() && !ended(&client.get(&format!("/jobs/{id}?wait=5")).await.body) {}
    }
    Ok(())
}

/// One short job at a time, on the beat, however long the answers take.
async fn keep_submitting(client: &Client, lasts: Duration) -> Result<()> {
    let mut clock = tokio::time::interval(BETWEEN);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let beats = lasts.as_millis() / BETWEEN.as_millis();
    for _ in 0..beats {
        clock.tick().await;
        let status = load::submit(client, &load::task("echo", 1)).await?;
        ensure!(status == 202, "refused with {status}");
    }
    Ok(())
}

/// How many slots were busy on average.
fn busy_slots(jobs: &[Job], (from, to): (i64, i64)) -> f64 {
    let within = |job: &Job| {
        let start = job.starts.first()?.at.max(from);
        Some(truth::seconds(start, job.finished_at.unwrap_or(to).min(to)).max(0.0))
    };
    jobs.iter().filter_map(within).sum::<f64>() / truth::seconds(from, to)
}

fn report(options: &Options, jobs: &[Job], phases: [(i64, i64); 3], backlog: usize) -> Report {
    let delays = |(from, to): (i64, i64)| -> Vec<f64> {
        let of_phase = |job: &&Job| job.tenant == NEIGHBOUR && (from..to).contains(&job.created_at);
        // Not started by the end is worse than anything that was.
        jobs.iter().filter(of_phase).map(|job| job.start_delay_ms().unwrap_or(f64::INFINITY)).collect()
    };
    let [calm_busy, _, flooded_busy] = phases.map(|phase| busy_slots(jobs, phase));
    let [mut calm, mut rising, mut flooded] = phases.map(delays);
    let [base, high] = [percentile(&mut calm, 95.0), percentile(&mut flooded, 95.0)];
    Report::new(format!(
        "flood: {} jobs of one tenant, one job every {} ms of another, {SLOTS} slots",
        options.jobs,
        BETWEEN.as_millis()
    ))
    .count("still queued at the end", backlog)
    .count("the other's jobs, slots busy and no backlog", calm.len())
    .figure("slots busy meanwhile, on average", calm_busy, "slots")
    .figure("from submission to start: p50", percentile(&mut calm, 50.0), "ms")
    .figure("from submission to start: p95", base, "ms")
    .count("the other's jobs while the flood is submitted", rising.len())
    .figure("from submission to start: p95", percentile(&mut rising, 95.0), "ms")
    .count("the other's jobs, the flood queued", flooded.len())
    .figure("slots busy meanwhile, on average", flooded_busy, "slots")
    .figure("from submission to start: p50", percentile(&mut flooded, 50.0), "ms")
    .figure("from submission to start: p95", high, "ms")
    .figure("p95 with the flood by p95 without", high / base, "times")
    .at_most(format!("at most {RATIO} times"), high / base, RATIO)
}
