//! PostgreSQL away for longer than a lease, with programs running: none may run beside itself.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use errand_tests::{Client, Mode, client::Answer, postgres::Shutdown};
use reqwest::Method;
use tokio::task::JoinSet;

use crate::{
    fleet::{self, Fleet},
    load,
    report::Report,
    stamp,
    truth::{self, seconds},
};

const WORKERS: usize = 2;
/// All programs must have started by then.
const STARTING: Duration = Duration::from_secs(120);
/// Between two submissions while it is away.
const BETWEEN: Duration = Duration::from_secs(1);

/// What is drilled.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Programs that run
    #[arg(long, default_value_t = 100)]
    tasks: usize,
    /// Lease of a claim, in seconds; PostgreSQL is away for twice that
    #[arg(long, default_value_t = 10)]
    lease: u32,
}

/// Starts all programs, stops PostgreSQL, starts it again, and waits for all tasks.
///
/// # Errors
/// If the fleet can't be brought there.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("stamps");
    let lease = Duration::from_secs(options.lease.into());
    // Long enough to be met by the outage, and to be cut off by it.
    let lasts = lease * 3 / 2;
    let setup = stamp::engine(fleet::setup(Mode::Cluster)?, "stamp", &file, lasts)?.workers(WORKERS).section(
        "worker",
        &format!("lease_seconds = {}\nconcurrency = {}", options.lease, options.tasks.div_ceil(WORKERS)),
    );
    Fleet::drill(setup, async |fleet| {
        load::submit_many(fleet.client(), &[load::task("stamp", 1)], options.tasks).await?;
        until_all_live(&file, options.tasks).await?;
        // The driver's word for a connection that ends while it is being made.
        fleet.errand.expect_error("error returned from after_connect");
        let stopped = truth::now();
        fleet.postgres.stop(Shutdown::Fast).await?;
        let submissions = submissions(fleet.client(), lease * 2).await;
        let back = truth::now();
        fleet.postgres.start().await?;
        let served = truth::now();
        let seen: Vec<Seen> = submissions.join_all().await.into_iter().collect::<Result<_>>()?;
        let jobs = truth::when_all_ended(&fleet.database, lease * 4 + Duration::from_secs(120)).await?;
        let lives = stamp::read(&file)?;
        let ended = jobs.iter().filter_map(|job| job.finished_at).max().context("tasks")?;
        let again = lives.values().filter(|lives| lives.len() > 1).count();
        let signs_while_away = lives.values().flatten().map(|life| life.last).filter(|at| *at < back).max();
        let stopped_after = signs_while_away.map_or(f64::NAN, |at| seconds(stopped, at));
        Ok(Report::new(format!(
            "outage: PostgreSQL away for {} s, twice the lease, with {} programs running",
            options.lease * 2,
            options.tasks
        ))
        .figure("from its stop until it served again", seconds(stopped, served), "s")
        .figure("from its stop to the last sign of life of a program before that", stopped_after, "s")
        .count("programs that ran again", again)
        .figure("from its return to the last end", seconds(served, ended), "s")
        .count("submissions meanwhile", seen.len())
        .count("of them answered 503", seen.iter().filter(|seen| seen.answer.status == 503).count())
        .promise("submissions meanwhile answer 503 with Retry-After", &wrong(&seen, back))
        .promise("no program runs beside itself", &stamp::beside_themselves(&lives))
        .promise("no program runs on when its lease has passed", &outlived(stopped_after, options.lease))
        .promise("all tasks complete, each once", &truth::not_completed_once(&jobs))
        .promise("no attempt is spent", &truth::spent_attempts(&jobs)))
    })
    .await
}

/// What was seen of one submission.
struct Seen {
    answer: Answer,
    at: i64,
}

/// Submits once a second for so long, without waiting for the answer before.
async fn submissions(client: &Client, lasts: Duration) -> JoinSet<Result<Seen>> {
    let mut clock = tokio::time::interval(BETWEEN);
    let mut answers = JoinSet::new();
    for _ in 0..lasts.as_secs() / BETWEEN.as_secs() {
        clock.tick().await;
        let request = client.request(Method::POST, "/jobs").json(&load::task("echo", 1));
        answers.spawn(async move {
            let answer = Client::try_send(request).await?;
            Ok(Seen { answer, at: truth::now() })
        });
    }
    clock.tick().await;
    answers
}

/// Answers that are neither 503 with a time to come again nor, once PostgreSQL served again, an acceptance: a request waits
/// a while for a connection.
fn wrong(seen: &[Seen], back: i64) -> Vec<String> {
    let is_due = |Seen { answer, at }: &&Seen| match answer.status {
        503 => !answer.header("retry-after").is_empty(),
        202 => *at > back,
        _ => false,
    };
    let told = |seen: &Seen| format!("{} {}", seen.answer.status, seen.answer.text);
    seen.iter().filter(|seen| !is_due(seen)).map(told).collect()
}

/// Waits until each task's program has shown life.
async fn until_all_live(file: &Path, tasks: usize) -> Result<()> {
    let looks = async {
        while !file.exists() || stamp::read(file)?.len() < tasks {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    tokio::time::timeout(STARTING, looks).await.context("the programs did not all start")?
}

fn outlived(stopped_after: f64, lease: u32) -> Vec<String> {
    let outlived = stopped_after > f64::from(lease);
    outlived.then(|| format!("one showed life {stopped_after:.1} s after PostgreSQL was stopped")).into_iter().collect()
}
