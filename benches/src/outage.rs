//! PostgreSQL away for longer than a lease, with programs running: none may run beside itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
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
        load::submit_many(fleet.client(), &load::task("stamp", 1), options.tasks).await?;
        truth::reach(&fleet.database, "running", options.tasks, lasts).await?;
        // The driver's word for a connection that ends while it is being made.
        fleet.errand.expect_error("error returned from after_connect");
        let stopped = truth::now();
        fleet.postgres.stop(Shutdown::Fast).await?;
        let answers = submissions(fleet.client(), lease * 2).await?;
        fleet.postgres.start().await?;
        let back = truth::now();
        let jobs = truth::when_all_ended(&fleet.database, lease * 4 + Duration::from_secs(120)).await?;
        let lives = stamp::read(&file)?;
        ensure!(lives.len() == options.tasks, "{} of {} programs have run", lives.len(), options.tasks);
        let ended = jobs.iter().filter_map(|job| job.finished_at).max().context("tasks")?;
        let (met, wrong) = (answers.len(), answers.into_iter().filter_map(Result::err).collect::<Vec<_>>());
        let again = lives.values().filter(|lives| lives.len() > 1).count();
        let signs_while_away = lives.values().flatten().map(|life| life.last).filter(|at| *at < back).max();
        let stopped_after = signs_while_away.map_or(f64::NAN, |at| seconds(stopped, at));
        Ok(Report::new(format!(
            "outage: PostgreSQL away for {} s, twice the lease, with {} programs running",
            options.lease * 2,
            options.tasks
        ))
        .figure("from its stop until it served again", seconds(stopped, back), "s")
        .figure("from its stop to the last sign of life of a program before that", stopped_after, "s")
        .count("programs that ran again", again)
        .figure("from its return to the last end", seconds(back, ended), "s")
        .count("submissions meanwhile", met)
        .promise("submissions meanwhile answer 503 with Retry-After", &wrong)
        .promise("no program runs beside itself", &stamp::beside_themselves(&lives))
        .promise("no program runs on when its lease has passed", &outlived(stopped_after, options.lease))
        .promise("all tasks complete, each once", &truth::not_completed_once(&jobs))
        .promise("no attempt is spent", &truth::spent_attempts(&jobs)))
    })
    .await
}

/// Submits once a second for so long, without waiting for the answer before: whether each was what is due, or what it was
/// instead.
async fn submissions(client: &Client, lasts: Duration) -> Result<Vec<Result<(), String>>> {
    let mut clock = tokio::time::interval(BETWEEN);
    let mut answers = JoinSet::new();
    for _ in 0..lasts.as_secs() / BETWEEN.as_secs() {
        clock.tick().await;
        let request = client.request(Method::POST, "/jobs").json(&load::task("stamp", 1));
        answers.spawn(Client::try_send(request));
    }
    let judge = |answer: Answer| {
        let told = answer.status == 503 && !answer.header("retry-after").is_empty();
        if told { Ok(()) } else { Err(format!("{} {}", answer.status, answer.text)) }
    };
    // The server that is away holds up each for as long as a connection is waited for.
    answers.join_all().await.into_iter().map(|answer| Ok(judge(answer?))).collect()
}

fn outlived(stopped_after: f64, lease: u32) -> Vec<String> {
    let outlived = stopped_after > f64::from(lease);
    outlived.then(|| format!("one showed life {stopped_after:.1} s after PostgreSQL was stopped")).into_iter().collect()
}
