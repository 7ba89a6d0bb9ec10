//! What whole fleets promise whose engines run Claude Code: from a client's request to the program's process, and back.
//!
//! Each takes a program, the stand-in or the real one. In a cluster there are two apis and two workers, each worker with a
//! home that the other does not see, as on machines of their own.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    model::{Model, TOKENS, prompt, said},
    world::Kind,
};
use crate::{
    Client, Errand, Mode, Setup, Task, process,
    sse::{self, Sse},
    wait,
};

/// After a worker was killed or a task cancelled, nothing of its program may live longer.
const GONE: Duration = Duration::from_secs(6);

/// A fleet with the engine, and its model.
#[derive(Debug)]
pub struct Fleet {
    /// What runs.
    pub errand: Errand,
    /// The model's server.
    pub model: Model,
    /// The workers' ids by their numbers, as of the start; empty where one process is everything.
    workers: Vec<String>,
}

impl Fleet {
    /// Starts it, with these settings of the workers beside a short lease.
    pub async fn start(setup: Setup, program: &Path, kind: Kind, worker: &str) -> Self {
        let model = Model::start().await;
        let name = kind.engine_type();
        let engine = format!("type = {name:?}\nbinary = {:?}\nhome = \"home\"", program.display().to_string());
        let mut setup = setup
            .section("worker", &format!("lease_seconds = 3\n{worker}"))
            .engine(name, &engine)
            .default_engine(name)
            .variable("ANTHROPIC_BASE_URL", &model.url())
            .variable("ANTHROPIC_API_KEY", "of-the-test");
        if setup.mode() == Mode::Cluster {
            setup = setup.apis(2).workers_taking_from(&["default,worker-0", "default,worker-1"]);
            let home = format!("ERRAND_ENGINES__{}__HOME", name.to_uppercase());
            for number in 0..2 {
                setup = setup.variable_of_worker(number, &home, &format!("home-of-worker-{number}"));
            }
        }
        let errand = setup.start().await;
        let workers = match errand.setup().mode() {
            Mode::Cluster => vec![worker_of(&errand, "worker-0").await, worker_of(&errand, "worker-1").await],
            Mode::Embedded | Mode::DevOnPostgres => Vec::new(),
        };
        Self { errand, model, workers }
    }

    /// A client of the first api.
    #[must_use]
    pub fn client(&self) -> &Client {
        self.errand.client()
    }

    /// Submits a prompt.
    ///
    /// # Panics
    /// If it is not accepted, or not in that session.
    pub async fn submit(&self, prompt: &str, session: Option<&Task>, allowed: &[&str]) -> Task {
        let session = session.map(|task| task.session_id.clone());
        let body = json!({"prompt": prompt, "sessionId": session, "allowedTools": allowed});
        let task = self.client().submit_task(&body).await;
        assert!(session.is_none_or(|session| session == task.session_id), "another session: {task:?}");
        task
    }

    /// A command that asks, and leaves a trace.
    fn mark(&self) -> Value {
        let command = format!("echo again >> {}", self.errand.directory().join("ran").display());
        json!({"name": "Bash", "input": {"command": command, "description": "mark"}})
    }

    /// How often that command ran.
    fn ran(&self) -> usize {
        fs::read_to_string(self.errand.directory().join("ran")).map_or(0, |text| text.lines().count())
    }

    /// The numbers of the workers that ran a task, first to last.
    async fn runs(&self, task: &Task) -> Vec<usize> {
        let timeline = self.client().timeline(&task.id).await;
        let started = timeline.iter().filter(|event| event["type"] == "started");
        let number = |event: &Value| self.workers.iter().position(|id| event["worker_id"] == id.as_str());
        started.map(|event| number(event).unwrap_or_else(|| panic!("who ran it? {event:#}"))).collect()
    }

    /// The number of the worker that runs a task.
    ///
    /// # Panics
    /// If none does.
    pub async fn runner(&self, task: &Task) -> usize {
        *self.runs(task).await.last().expect("it was started")
    }

    /// Waits until a tool call of the task waits for a person.
    async fn asked(&self, task: &Task) {
        self.client().wait_for_state(&task.id, "awaiting_approval").await;
    }

    /// Waits until no worker holds the waiting task, and its program is gone.
    ///
    /// # Panics
    /// If it does not wait any more, or a process of it is left.
    pub async fn parked(&self, task: &Task) {
        wait::until("it is parked", || async {
            let job = self.client().job(&task.id).await;
            assert_eq!(job["state"], "awaiting_approval", "{job:#}");
            job["lease_until"].is_null().then_some(())
        })
        .await;
        assert_eq!(process::of_task(&task.id), []);
    }

    /// Approves through the second api.
    async fn approve(&self, task: &Task) {
        let path = format!("/agent/tasks/{}/approve", task.id);
        let answer = self.errand.client_of(1).post(&path, &json!({"approved": true})).await;
        assert_eq!((answer.status, &answer.body["message"]), (200, &json!("Command approved")), "{answer:?}");
    }

    /// Kills a worker while it runs a task; nothing of its program survives.
    ///
    /// # Panics
    /// If something does.
    pub async fn kill(&mut self, number: usize, task: &Task) {
        let killed = Instant::now();
        self.errand.kill9_worker(number);
        process::assert_gone(&task.id, killed, GONE).await;
    }

    /// The task completed in this attempt with this text: in its result, in the history, and before its watchers.
    async fn completed(&self, task: &Task, text: &str, attempt: u32) {
        let job = self.client().wait_for_completion(&task.id).await;
        assert_eq!((&job["result"]["summary"], &job["attempt"]), (&json!(text), &json!(attempt)), "{job:#}");
        let messages = self.client().messages(&task.session_id).await;
        assert_eq!(messages.last().expect("messages")["content"], text);
        let frames = self.client().events(&task.id).await;
        sse::assert_gap_free(&frames, 1);
        assert_eq!(sse::visible_text(&frames), text, "{frames:#?}");
        process::assert_gone(&task.id, Instant::now(), GONE).await;
    }

    /// What was said in a session.
    async fn history(&self, task: &Task) -> Vec<String> {
        let messages = self.client().messages(&task.session_id).await;
        messages.iter().map(|message| message["content"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

/// The id of the worker that takes from a queue.
async fn worker_of(errand: &Errand, queue: &str) -> String {
    wait::until(format!("the worker of {queue} is registered"), || async {
        let workers = errand.client().get("/workers").await;
        let takes =
            |worker: &&Value| worker["queues"].as_array().is_some_and(|queues| queues.iter().any(|one| one == queue));
        workers.items().iter().find(takes).and_then(|worker| worker["id"].as_str()).map(str::to_owned)
    })
    .await
}

/// The processes of a task that are the program itself.
fn programs(task: &Task) -> Vec<process::Process> {
    let is_program = |process: &process::Process| {
        process.command.contains("--output-format") && !process.command.starts_with("errand")
    };
    process::of_task(&task.id).into_iter().filter(is_program).collect()
}

/// How often a request's messages hold these words.
fn count(request: &Value, words: &str) -> usize {
    request["messages"].to_string().matches(words).count()
}

/// Two tasks of one session: text and reasoning are streamed, the second knows the first, and what both cost is summed.
///
/// # Panics
/// If it is not so.
pub async fn tasks_of_a_session_run(setup: Setup, program: &Path, kind: Kind) {
    let fleet = Fleet::start(setup, program, kind, "").await;
    let client = fleet.client();
    wait::until("the engine is announced", || async {
        let engines = client.get("/agent/engines").await.body["engines"].clone();
        let engine = engines
            .as_array()?
            .iter()
            .find(|engine| engine["name"] == kind.engine_type() && engine["available"] == true)?;
        (engine["capabilities"]["approvals"] == (kind == Kind::Sdk)).then_some(())
    })
    .await;

    let remember = prompt("the word is plum", &json!([{"thinking": "hm", "text": ["I shall ", "remember."]}]));
    let first = fleet.submit(&remember, None, &[]).await;
    fleet.completed(&first, "I shall remember.", 1).await;
    let frames = client.events(&first.id).await;
    assert!(frames.iter().any(|frame| frame.kind() == "thinking" && frame.data["content"] == "hm"), "{frames:#?}");
    let result = client.job(&first.id).await["result"].clone();
    assert_eq!((&result["tokensUsed"], &result["model"]), (&json!(TOKENS.0 + TOKENS.1), &json!("claude-opus-5-5")));
    assert_eq!(result["costUsd"], 0.0002, "{result}");

    let ask = prompt("which word?", &json!([{"text": ["plum"]}]));
    let second = fleet.submit(&ask, Some(&first), &[]).await;
    fleet.completed(&second, "plum", 1).await;
    assert_eq!(said(&fleet.model.last(), "I shall remember."), 1);
    assert_eq!(fleet.history(&first).await, [remember, "I shall remember.".to_owned(), ask, "plum".to_owned()]);
    let total = client.get("/agent/usage").await.body["total"].clone();
    assert_eq!(
        (&total["records"], &total["unknown"], &total["unpriced"]),
        (&json!(2), &json!(0), &json!(0)),
        "{total}"
    );
    assert_eq!(
        (&total["inputTokens"], &total["outputTokens"]),
        (&json!(2 * TOKENS.0), &json!(2 * TOKENS.1)),
        "{total}"
    );
    fleet.errand.finish().await;
}

/// An approval that is asked on a worker and given through the other api reaches the process that waits.
///
/// # Panics
/// If it is not so.
pub async fn an_approval_through_another_api_reaches_the_warm_process(setup: Setup, program: &Path) {
    // Nobody looks for decisions in this time: what comes sooner came by signal.
    let fleet = Fleet::start(setup, program, Kind::Sdk, "poll_interval_ms = 60000").await;
    let mut took = Vec::new();
    for round in 1..=4 {
        let script = json!([{"text": ["Let me see."], "tool": fleet.mark()}, {"text": ["Done."]}]);
        let task = fleet.submit(&prompt("use it", &script), None, &[]).await;
        let mut stream = Sse::of_job(fleet.client(), &task.id).await;
        stream.take_until(|frame| frame.kind() == "approval_required").await;
        let waiting = programs(&task);
        assert_eq!(waiting.len(), 1, "{waiting:#?}");
        assert_eq!(fleet.ran(), round - 1, "it waits");
        let decided = Instant::now();
        fleet.approve(&task).await;
        stream.take_until(|frame| frame.kind() == "tool_result").await;
        took.push(decided.elapsed());
        let living = programs(&task);
        assert!(living.iter().all(|process| waiting.contains(process)), "another process: {living:#?}, {waiting:#?}");
        fleet.completed(&task, "Let me see.\n\nDone.", 1).await;
        assert_eq!((fleet.runs(&task).await.len(), fleet.ran()), (1, round), "one run, and the tool ran once");
    }
    println!("from the approval at one api to the tool's result at the other: {took:?}");
    fleet.errand.finish().await;
}

/// Parked, its worker killed, then approved: the conversation goes on with the other worker, and the tool runs once.
///
/// # Panics
/// If it is not so.
pub async fn a_parked_task_whose_worker_is_killed_goes_on_with_the_other(setup: Setup, program: &Path) {
    let mut fleet = Fleet::start(setup, program, Kind::Sdk, "approval_warm_seconds = 0").await;
    // Asked to go on, the model asks again.
    let script = json!([{"text": ["Let me see."], "tool": fleet.mark()}, {"tool": fleet.mark()}, {"text": ["Done."]}]);
    let asks = prompt("use it", &script);
    let task = fleet.submit(&asks, None, &[]).await;
    fleet.asked(&task).await;
    fleet.parked(&task).await;
    let first = fleet.runner(&task).await;
    fleet.kill(first, &task).await;
    assert_eq!(fleet.ran(), 0);
    fleet.approve(&task).await;
    fleet.completed(&task, "Let me see.\n\nDone.", 1).await;
    assert_eq!((fleet.runs(&task).await, fleet.ran()), (vec![first, 1 - first], 1));
    let timeline = fleet.client().timeline(&task.id).await;
    assert_eq!(timeline.iter().filter(|event| event["type"] == "approval_required").count(), 1, "{timeline:#?}");
    assert_eq!(fleet.model.asked(&asks), 3, "its turn was gone on with, not done again");
    fleet.errand.finish().await;
}

/// A worker dies while its process waits, and the approval is given: the turn is done again elsewhere, asks the same, and finds
/// the decision; the tool runs once.
///
/// # Panics
/// If it is not so.
pub async fn a_warm_task_whose_worker_is_killed_finds_its_decision(setup: Setup, program: &Path) {
    let mut fleet = Fleet::start(setup, program, Kind::Sdk, "").await;
    let step = json!({"text": ["Let me see."], "tool": fleet.mark()});
    let task = fleet.submit(&prompt("use it", &json!([step, step, {"text": ["Done."]}])), None, &[]).await;
    fleet.asked(&task).await;
    let first = fleet.runner(&task).await;
    fleet.kill(first, &task).await;
    fleet.approve(&task).await;
    fleet.completed(&task, "Let me see.\n\nDone.", 1).await;
    assert_eq!((fleet.runs(&task).await, fleet.ran()), (vec![first, 1 - first], 1));
    fleet.errand.finish().await;
}

/// A worker dies in mid-turn: the conversation goes on with the other, nothing said twice.
///
/// # Panics
/// If it is not so.
pub async fn a_killed_turn_goes_on_with_the_other_worker(setup: Setup, program: &Path, kind: Kind) {
    let mut fleet = Fleet::start(setup, program, kind, "").await;
    let remember = prompt("the word is plum", &json!([{"text": ["I shall remember."]}]));
    let before = fleet.submit(&remember, None, &[]).await;
    fleet.completed(&before, "I shall remember.", 1).await;
    let tell =
        prompt("a long story", &json!([{"text": ["Once upon"], "stall": true}, {"text": ["Once upon ", "a time."]}]));
    let task = fleet.submit(&tell, Some(&before), &[]).await;
    fleet.client().wait_for_text(&task.id, "Once upon").await;
    let first = fleet.runner(&task).await;
    fleet.kill(first, &task).await;
    fleet.completed(&task, "Once upon a time.", 2).await;
    assert_eq!(fleet.runs(&task).await, [first, 1 - first]);
    let heard = fleet.model.last();
    assert_eq!((count(&heard, "the word is plum"), count(&heard, "a long story")), (1, 1), "{heard}");
    assert_eq!((said(&heard, "I shall remember."), said(&heard, "Once upon")), (1, 0), "{heard}");
    let history = [remember, "I shall remember.".to_owned(), tell, "Once upon a time.".to_owned()];
    assert_eq!(fleet.history(&task).await, history);
    fleet.errand.finish().await;
}

/// A task that is cancelled while the model speaks leaves no process, and the next turn knows what was said.
///
/// # Panics
/// If it is not so.
pub async fn a_cancelled_turn_leaves_nothing_but_what_it_said(setup: Setup, program: &Path, kind: Kind) {
    let fleet = Fleet::start(setup, program, kind, "").await;
    let client = fleet.client();
    let tell = prompt("a long story", &json!([{"text": ["Once upon"], "stall": true}]));
    let task = fleet.submit(&tell, None, &[]).await;
    client.wait_for_text(&task.id, "Once upon").await;
    assert!(process::of_task(&task.id).len() > 1, "the guard and the program");
    let cancelled = Instant::now();
    assert_eq!(client.delete(&format!("/agent/tasks/{}", task.id)).await.status, 200);
    process::assert_gone(&task.id, cancelled, GONE).await;
    println!("gone {:?} after the request", cancelled.elapsed());

    let go_on = prompt("go on", &json!([{"text": ["a time"]}]));
    let next = fleet.submit(&go_on, Some(&task), &[]).await;
    fleet.completed(&next, "a time", 1).await;
    let heard = fleet.model.last();
    assert_eq!((count(&heard, "a long story"), said(&heard, "Once upon")), (1, 1), "{heard}");
    let history = [tell, "Once upon\n[interrupted]".to_owned(), go_on, "a time".to_owned()];
    assert_eq!(fleet.history(&task).await, history);
    fleet.errand.finish().await;
}

/// A task that is cancelled while a tool works takes the tool along, and the session goes on.
///
/// # Panics
/// If it is not so.
pub async fn a_cancelled_tool_is_gone(setup: Setup, program: &Path, kind: Kind) {
    let fleet = Fleet::start(setup, program, kind, "").await;
    let tool = json!({"name": "Bash", "input": {"command": "tail -f /dev/null", "description": "wait"}});
    let task = fleet.submit(&prompt("wait", &json!([{"tool": tool}])), None, &["Bash"]).await;
    wait::until("the tool works", || async {
        let processes = process::of_task(&task.id);
        processes.iter().any(|process| process.command.starts_with("tail -f /dev/null")).then_some(())
    })
    .await;
    let cancelled = Instant::now();
    assert_eq!(fleet.client().delete(&format!("/agent/tasks/{}", task.id)).await.status, 200);
    process::assert_gone(&task.id, cancelled, GONE).await;
    let next = fleet.submit(&prompt("go on", &json!([{"text": ["Well."]}])), Some(&task), &[]).await;
    fleet.completed(&next, "Well.", 1).await;
    fleet.errand.finish().await;
}
