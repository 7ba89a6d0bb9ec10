//! Many tasks that stream at once on one worker, watched over WebSocket to the last word.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Args;
use errand_tests::{
    Client, Mode,
    fake_openai::{FakeOpenAi, Reply, Step},
    socket::Socket,
};
use futures::future::try_join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    cpu,
    fleet::{self, Fleet},
    memory,
    report::{Report, percentile},
    truth::{self, Job},
};

const ENGINE: &str = "model";
/// Jobs whose streams one socket watches; the relay's own limit is a little higher.
const PER_SOCKET: usize = 100;
/// How much longer than its stream a task may take in all before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is measured.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Tasks that stream at once
    #[arg(long, default_value_t = 1_000)]
    tasks: usize,
    /// Pieces of text of each in a second
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// How long each streams, in seconds
    #[arg(long, default_value_t = 20)]
    seconds: u32,
}

/// What one watcher saw.
#[derive(Default)]
struct Seen {
    /// How long each piece of text was on its way, in milliseconds.
    latencies: Vec<f64>,
    /// The text of each job.
    texts: HashMap<String, String>,
    /// Frames with text.
    frames: usize,
}

/// Streams so many tasks, and reads all of it.
///
/// # Errors
/// If the fleet can't be brought there, or something is lost.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let pause = Duration::from_secs(1) / options.rate.max(1);
    let pieces = (options.rate * options.seconds) as usize;
    let mut steps: Vec<Step> = (0..pieces).flat_map(|_| [Step::Stamp, Step::Pause(pause)]).collect();
    steps.extend([Step::Finish("stop"), Step::Usage(10, pieces as u64), Step::Done]);
    let fake = FakeOpenAi::always(Reply::Stream(steps)).await;
    let setup = fleet::setup(Mode::Cluster)?
        .engine(ENGINE, &fake.engine())
        .section("worker", &format!("concurrency = {}", options.tasks.max(1)))
        // All of them ask one server.
        .section("gates", &format!("concurrency = {}", options.tasks.max(1)));
    let report = Fleet::drill(setup, async |fleet| {
        let client = fleet.client().clone();
        let worker = fleet.errand.worker_pid(0);
        let before = cpu::seconds(worker)?;
        // Due together, once every watcher is there.
        let start = chrono::Utc::now() + chrono::TimeDelta::seconds(15);
        let submitted = submit(&client, options.tasks, &start.to_rfc3339()).await?;
        let watchers = submitted.chunks(PER_SOCKET).map(|jobs| tokio::spawn(watch(client.clone(), jobs.to_vec())));
        let began = Instant::now();
        let mut seen = Seen::default();
        for watched in try_join_all(watchers).await? {
            let watched = watched?;
            seen.latencies.extend(watched.latencies);
            seen.texts.extend(watched.texts);
            seen.frames += watched.frames;
        }
        let took = began.elapsed();
        let used = cpu::seconds(worker)? - before;
        let peak = memory::peak_mib(worker)?;
        let wrong = compare(&client, &submitted, &seen, pieces).await?;
        let at_once = most_at_once(&truth::jobs(&fleet.database).await?);
        let written = truth::texts(&fleet.database).await?;
        let mut committed: Vec<f64> = written.iter().flat_map(|(at, text)| latencies(text, *at)).collect();
        let title = format!(
            "tasks: {} stream at once on one worker, {} pieces of text a second each for {} s",
            options.tasks, options.rate, options.seconds
        );
        Ok(Report::new(title)
            .count("pieces of text seen", seen.latencies.len())
            .count("frames they came in", seen.frames)
            .count("most runs at once", at_once)
            .figure("from the first watcher to the last end", took.as_secs_f64(), "s")
            .figure("from the model to the worker's write: p50", percentile(&mut committed, 50.0), "ms")
            .figure("from the model to the worker's write: p99", percentile(&mut committed, 99.0), "ms")
            .figure("from the model to the watcher: p50", percentile(&mut seen.latencies, 50.0), "ms")
            .figure("from the model to the watcher: p99", percentile(&mut seen.latencies, 99.0), "ms")
            .figure("from the model to the watcher: longest", percentile(&mut seen.latencies, 100.0), "ms")
            .figure("CPU time of the worker", used, "s")
            .figure("CPU time of the worker a second of streaming", used / f64::from(options.seconds.max(1)), "s")
            .figure("peak memory of the worker", peak, "MiB")
            .promise("every task completes, and watchers, result and history have the same text, all of it", &wrong))
    })
    .await?;
    ensure!(fake.requests().len() >= options.tasks, "the model was asked {} times", fake.requests().len());
    Ok(report)
}

/// The ids of the tasks with their sessions.
async fn submit(client: &Client, tasks: usize, run_at: &str) -> Result<Vec<(String, String)>> {
    const AT_ONCE: usize = 50;
    let mut submitted = Vec::with_capacity(tasks);
    while submitted.len() < tasks {
        let some = (tasks - submitted.len()).min(AT_ONCE);
        let bodies = (0..some).map(|_| async {
            let body = json!({"prompt": "stream", "engineType": ENGINE, "runAt": run_at, "maxAttempts": 1});
            let task = client.submit_task(&body).await;
            anyhow::Ok((task.id, task.session_id))
        });
        submitted.extend(try_join_all(bodies).await?);
    }
    Ok(submitted)
}

/// Reads the streams of these jobs to their ends.
async fn watch(client: Client, jobs: Vec<(String, String)>) -> Result<Seen> {
    let mut socket = Socket::open(&client).await;
    for (number, (id, _)) in jobs.iter().enumerate() {
        let subscription = json!({"type": "subscribe", "id": number, "stream": format!("job:{id}"), "types": TYPES});
        socket.send(&subscription).await;
    }
    let mut seen = Seen::default();
    let mut open = jobs.len();
    let deadline = Instant::now() + PATIENCE;
    while open > 0 {
        let frame = tokio::time::timeout_at(deadline, socket.frame()).await.context("the streams do not end")?;
        let now = chrono::Utc::now().timestamp_micros();
        match frame["type"].as_str() {
            Some("event") if frame["event_type"] == "text" => seen.take(&frame, now),
            Some("end") => open -= 1,
            Some("error") => anyhow::bail!("the relay says {frame}"),
            _ => {}
        }
    }
    Ok(seen)
}

/// What a watcher needs to know that a task has ended, and how.
const TYPES: &[&str] = &["text", "text_retracted", "completed", "error", "cancelled"];

impl Seen {
    fn take(&mut self, frame: &Value, now: i64) {
        let content = frame["content"].as_str().unwrap_or_default();
        self.latencies.extend(latencies(content, now));
        let job = frame["job_id"].as_str().unwrap_or_default().to_owned();
        *self.texts.entry(job).or_default() += content;
        self.frames += 1;
    }
}

/// How long before `now` each stamp of a text was sent, in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "milliseconds of a few minutes")]
fn latencies(text: &str, now: i64) -> impl Iterator<Item = f64> {
    text.split(' ').filter_map(|stamp| stamp.parse::<i64>().ok()).map(move |sent| (now - sent) as f64 / 1_000.0)
}

/// Most jobs that ran at the same instant.
fn most_at_once(jobs: &[Job]) -> usize {
    let mut changes: Vec<(i64, isize)> = Vec::new();
    for job in jobs {
        if let (Some(start), Some(end)) = (job.starts.last(), job.finished_at) {
            changes.extend([(start.at, 1), (end, -1)]);
        }
    }
    changes.sort_unstable();
    let running = changes.iter().scan(0, |running, (_, change)| {
        *running += change;
        Some(*running)
    });
    running.max().and_then(|most| usize::try_from(most).ok()).unwrap_or_default()
}

/// What speaks against the promise, task by task.
async fn compare(client: &Client, jobs: &[(String, String)], seen: &Seen, pieces: usize) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (id, session) in jobs {
        let job = client.job(id).await;
        let watched = seen.texts.get(id).map(String::as_str).unwrap_or_default();
        let result = job["result"]["summary"].as_str().unwrap_or_default();
        let messages = client.messages(session).await;
        let history = messages.iter().find(|message| message["role"] == "assistant");
        let history = history.and_then(|message| message["content"].as_str()).unwrap_or_default();
        if job["state"] != "completed" {
            wrong.push(format!("{id} is {}: {}", job["state"], job["failure"]));
        } else if watched != result || history != result || result.split_whitespace().count() != pieces {
            let words = |text: &str| text.split_whitespace().count();
            let [watched, result, history] = [watched, result, history].map(words);
            wrong.push(format!("{id}: {watched} pieces watched, {result} in the result, {history} in the history"));
        }
    }
    // Let the fleet come to rest before its processes are looked at.
    sleep(Duration::from_millis(200)).await;
    Ok(wrong)
}
