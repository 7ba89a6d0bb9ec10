//! How soon an approval, given through one api, reaches the process that waits for it, and who watches at the other api.
//!
//! The engine is `claude_agent_sdk`, on this very program as a stand-in for Claude Code and a model's server of our own.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Args;
use errand_tests::{
    Client, Mode,
    claude::model::{Model, prompt},
    socket::Socket,
};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    fleet::{self, Fleet},
    report::{Report, percentile},
    truth::{self, Decision, Job},
};

/// Set in the environment of the program that stands in for Claude Code, which is this one.
pub(crate) const PLAYS_CLAUDE: &str = "BENCHES_PLAY_CLAUDE";

const ENGINE: &str = "claude_agent_sdk";
/// How long one task may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Approvals in all
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    approvals: u32,
    /// Tasks at once
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    at_once: u32,
}

/// One approval, seen from outside.
struct Seen {
    job: Uuid,
    /// How long the request took that gave it, in milliseconds.
    request_ms: f64,
    /// When the watcher had the process's next frame, in microseconds since 1970.
    watched_at: i64,
}

/// Has each of so many tasks ask, and approves.
///
/// # Errors
/// If the fleet can't be brought there, or a task does not ask.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let model = Model::start().await;
    let folder = tempfile::Builder::new().prefix("errand-approvals-").tempdir()?;
    let home = folder.path().join("home").display().to_string();
    let program = std::env::current_exe()?.display().to_string();
    let engine = format!(
        "type = {ENGINE:?}\nbinary = {program:?}\nhome = {home:?}\nenv = [\"PATH\", \"ANTHROPIC_BASE_URL\", {PLAYS_CLAUDE:?}]"
    );
    let setup = fleet::setup(Mode::Cluster)?
        .apis(2)
        .workers(2)
        .engine(ENGINE, &engine)
        // All of them may wait on one worker, with their processes.
        .section("worker", &format!("max_warm = {}", options.at_once))
        .variable("ANTHROPIC_BASE_URL", &model.url())
        .variable(PLAYS_CLAUDE, "1");
    Fleet::drill(setup, async |fleet| {
        let apis = [fleet.errand.client_of(0), fleet.errand.client_of(1)];
        let tasks = (0..options.approvals).map(|number| {
            let (watching, deciding) = (&apis[number as usize % 2], &apis[(number as usize + 1) % 2]);
            let file = folder.path().join(number.to_string());
            async move { tokio::time::timeout(PATIENCE, one(watching, deciding, &file)).await.context("a task hangs")? }
        });
        let seen: Vec<Seen> = stream::iter(tasks).buffer_unordered(options.at_once as usize).try_collect().await?;
        let jobs = truth::when_all_ended(&fleet.database, PATIENCE).await?;
        let decisions = truth::decisions(&fleet.database).await?;
        let ran: Vec<usize> =
            (0..options.approvals).map(|number| times(&folder.path().join(number.to_string()))).collect();
        report(options, &seen, &decisions, &jobs, &ran)
    })
    .await
}

/// One task: it asks, is approved through another api than its watcher's, and uses its tool.
async fn one(watching: &Client, deciding: &Client, file: &Path) -> Result<Seen> {
    let tool = json!({"name": "Bash", "input": {"command": format!("echo again >> {}", file.display())}});
    let prompt = prompt("use it", &json!([{"text": ["Let me see."], "tool": tool}, {"text": ["Done."]}]));
    let task = watching.submit_task(&json!({"prompt": prompt, "engineType": ENGINE})).await;
    let mut socket = Socket::open(watching).await;
    socket.send(&json!({"type": "subscribe", "id": 1, "stream": format!("job:{}", task.id)})).await;
    until(&mut socket, &["approval_required"]).await?;
    let asked = Instant::now();
    let answer = deciding.post(&format!("/agent/tasks/{}/approve", task.id), &json!({"approved": true})).await;
    let request_ms = asked.elapsed().as_secs_f64() * 1_000.0;
    ensure!(answer.status == 200, "the approval is refused: {}", answer.text);
    until(&mut socket, &["approval_resolved"]).await?;
    until(&mut socket, &["tool_use", "tool_result", "text"]).await?;
    let watched_at = truth::now();
    until(&mut socket, &["completed"]).await?;
    Ok(Seen { job: task.id.parse()?, request_ms, watched_at })
}

/// Reads to the first event of one of these types.
async fn until(socket: &mut Socket, types: &[&str]) -> Result<()> {
    loop {
        let frame = socket.frame().await;
        let kind = frame["event_type"].as_str().unwrap_or_default();
        if types.contains(&kind) {
            return Ok(());
        }
        ensure!(!["error", "cancelled", "completed"].contains(&kind), "the task ends instead: {frame}");
    }
}

/// How often a task's tool ran.
fn times(file: &Path) -> usize {
    fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

fn report(options: &Options, seen: &[Seen], decisions: &[Decision], jobs: &[Job], ran: &[usize]) -> Result<Report> {
    let decisions: HashMap<Uuid, &Decision> = decisions.iter().map(|decision| (decision.job, decision)).collect();
    let (mut requests, mut frames, mut watched) = (Vec::new(), Vec::new(), Vec::new());
    for one in seen {
        let decision = decisions.get(&one.job).with_context(|| format!("no decision about job {}", one.job))?;
        requests.push(one.request_ms);
        frames.push(truth::seconds(decision.decided_at, decision.next_frame_at) * 1_000.0);
        watched.push(truth::seconds(decision.decided_at, one.watched_at) * 1_000.0);
    }
    let workers: std::collections::BTreeSet<_> =
        jobs.iter().flat_map(|job| &job.starts).map(|start| &start.worker).collect();
    let mut report = Report::new(format!(
        "approval: {} of them, {} at once, each given through the api that its watcher does not use",
        options.approvals, options.at_once
    ))
    .count("workers that asked", workers.len());
    for (name, values) in [
        ("the request that gives it", &mut requests),
        ("from the decision to the process's next frame", &mut frames),
        ("from the decision to the watcher's socket", &mut watched),
    ] {
        for (which, percent) in [("p50", 50.0), ("p99", 99.0), ("longest", 100.0)] {
            report = report.figure(format!("{name}: {which}"), percentile(values, percent), "ms");
        }
    }
    let wrong: Vec<String> = ran.iter().filter(|times| **times != 1).map(|times| format!("{times} times")).collect();
    let again: Vec<String> = jobs.iter().filter(|job| job.starts.len() != 1).map(Job::told).collect();
    Ok(report
        .promise("each tool ran once", &wrong)
        .promise("every task completes, once", &truth::not_completed_once(jobs))
        .promise("no attempt is spent", &truth::spent_attempts(jobs))
        .promise("each goes on with the process that asked", &again))
}
