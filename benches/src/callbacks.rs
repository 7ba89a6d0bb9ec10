//! What it costs that many tasks wait for their bridges, and how fast a burst of callbacks is taken in.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use errand_tests::{
    Client, Mode,
    bridge::{Bridge, Plan, Prompt, done},
};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    fleet::{self, Fleet},
    memory,
    report::Report,
};

/// The worker's slots: far fewer than tasks, so that tasks that held one would not come through.
const CONCURRENCY: usize = 16;
/// Tasks that wait before the worker's memory is looked at first.
const WARM: u32 = 100;
/// How much a worker's memory may grow while all tasks wait, in MiB.
const GROWTH: f64 = 64.0;
/// Between two looks at what waits.
const LOOK: Duration = Duration::from_millis(200);

/// What is measured.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Tasks that wait at once
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tasks: u32,
    /// Requests at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    at_once: u32,
    /// How long all of them may take to wait, and to end, in seconds
    #[arg(long, default_value_t = 600)]
    patience_seconds: u64,
}

/// Parks all tasks, and then has all bridges call back at once.
///
/// # Errors
/// If the fleet can't be brought there.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let setup = fleet::setup(Mode::Cluster)?
        .section("outbound", "allow = [\"127.0.0.0/8\"]")
        .section("bridges", "callback_seconds = 86400")
        .section("worker", &format!("concurrency = {CONCURRENCY}"));
    Fleet::drill(setup, async |fleet| {
        let bridge = Bridge::start(|_, _| Plan::silent()).await;
        bridge.call_back_to(fleet.errand.url());
        let client = fleet.client();
        let at_once = options.at_once as usize;
        let body = json!({"name": "bench", "serverHost": "127.0.0.1", "hostPort": bridge.address().port()});
        let made = client.post("/agent/instances", &body).await;
        let path = format!("/agent/instances/{}/tasks", made.body["id"].as_str().context("no instance")?);
        let first = WARM.min(options.tasks);
        park(client, &path, first, at_once).await?;
        waiting(client, first, options).await?;
        let worker = fleet.errand.worker_pid(0);
        let before = memory::peak_mib(worker)?;
        let started = Instant::now();
        park(client, &path, options.tasks - first, at_once).await?;
        waiting(client, options.tasks, options).await?;
        let parked = started.elapsed();
        let held = held(client, options).await?;
        let grown = memory::peak_mib(worker)? - before;

        let prompts: Vec<Prompt> = bridge.taken().into_values().collect();
        ensure!(prompts.len() == options.tasks as usize, "the bridge has {} prompts", prompts.len());
        let started = Instant::now();
        let refused: Vec<String> = stream::iter(&prompts)
            .map(|prompt| call_back(&bridge, prompt))
            .buffer_unordered(at_once)
            .filter_map(|refused| async { refused })
            .collect()
            .await;
        let seconds = started.elapsed().as_secs_f64();
        let left = client.get("/jobs?state=live&limit=5").await;
        let left: Vec<String> = left.items().iter().map(ToString::to_string).collect();
        Ok(Report::new(format!("callbacks: {} tasks that wait, on one worker of {CONCURRENCY} slots", options.tasks))
            .figure("handed over to the bridge", f64::from(options.tasks - first) / parked.as_secs_f64(), "tasks/s")
            .figure("called back, each durable", f64::from(options.tasks) / seconds, "callbacks/s")
            .figure("the worker's memory has grown by", grown.max(0.0), "MiB")
            .promise("none of them holds a slot", &Vec::from_iter(held))
            .at_most("the worker's memory stays", grown, GROWTH)
            .promise("every callback is taken", &refused)
            .promise("every task has ended", &left))
    })
    .await
}

async fn park(client: &Client, path: &str, tasks: u32, at_once: usize) -> Result<()> {
    let asked = (0..tasks).map(|number| async move {
        let answer = client.post(path, &json!({"prompt": format!("prompt {number}")})).await;
        ensure!(answer.status == 202, "not taken in: {}", answer.text);
        Ok(())
    });
    stream::iter(asked).buffer_unordered(at_once).try_collect().await
}

async fn waiting(client: &Client, tasks: u32, options: &Options) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(options.patience_seconds) {
        let queues = client.get("/queues").await;
        let count: u64 = queues.items().iter().filter_map(|queue| queue["waiting"].as_u64()).sum();
        if count == u64::from(tasks) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("not all tasks wait in time")
}

/// How many slots are still held after a while; `None`: none. A worker tells of its slots with each renewal only.
async fn held(client: &Client, options: &Options) -> Result<Option<u64>> {
    let started = Instant::now();
    loop {
        let running = client.get("/workers").await.items()[0]["running"].as_u64().context("no worker")?;
        if running == 0 {
            return Ok(None);
        }
        if started.elapsed() > Duration::from_secs(options.patience_seconds) {
            return Ok(Some(running));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What was said against it.
async fn call_back(bridge: &Bridge, prompt: &Prompt) -> Option<String> {
    match bridge.call_back(prompt, done(&prompt.prompt)).await {
        Some((200, _)) => None,
        Some((status, body)) => Some(format!("{status} {body}")),
        None => Some("no answer".to_owned()),
    }
}
