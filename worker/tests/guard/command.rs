//! The `command` engine with real programs.

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use errand_common::{
    config,
    domain::{EventType, FailureClass, NewEvent, SessionId},
};
use errand_worker::{
    engine::{self, Availability, Engine, Ledger, Turn, TurnContext, TurnEnd, TurnFailure, code},
    guard::{self, MonotonicInstant},
};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    process::{SOON, alive, gone, running},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("output_streams_while_the_program_runs", output_streams_while_the_program_runs),
        trial("a_program_sees_only_the_environment_it_is_given", a_program_sees_only_the_environment_it_is_given),
        trial("a_program_runs_in_its_working_directory", a_program_runs_in_its_working_directory),
        trial("a_failure_keeps_status_and_complaints", a_failure_keeps_status_and_complaints),
        trial("a_program_that_cannot_start_says_what_to_do", a_program_that_cannot_start_says_what_to_do),
        trial("a_flood_is_stopped_at_its_limit", a_flood_is_stopped_at_its_limit),
        trial("bytes_that_are_not_text_are_replaced", bytes_that_are_not_text_are_replaced),
        trial("a_program_need_not_read_its_prompt", a_program_need_not_read_its_prompt),
        trial("a_stop_kills_the_children", a_stop_kills_the_children),
        trial("a_dropped_run_leaves_nothing", a_dropped_run_leaves_nothing),
        trial("a_lease_that_passes_kills_the_children", a_lease_that_passes_kills_the_children),
        trial("renewed_leases_reach_the_guard", renewed_leases_reach_the_guard),
        trial("engines_are_described_with_their_availability", engines_are_described_with_their_availability),
    ]
}

/// A shell that leaves children in other sessions and is deaf to SIGTERM.
const FAMILY: &str = "trap '' TERM; setsid sleep 1000 & (setsid sleep 1000 &) ; echo ready; sleep 1000";

fn engine(settings: &Value) -> Arc<dyn Engine> {
    let mut table = json!({ "type": "command" });
    table.as_object_mut().expect("an object").extend(settings.as_object().expect("an object").clone());
    let table = BTreeMap::from([("trial".to_owned(), serde_json::from_value(table).expect("a configuration"))]);
    let engines = config::Engines { default: None, table };
    engine::build(&config::Config { engines, ..config::Config::default() }, guard::default_program())
        .remove("trial")
        .expect("the engine")
}

fn shell(script: &str) -> Arc<dyn Engine> {
    engine(&json!({ "command": ["sh", "-c", script] }))
}

fn turn(prompt: &str) -> Turn {
    Turn { session_id: Some(SessionId::new()), attempt: 2, ..engine::trial::turn(prompt) }
}

/// A run under way.
struct Run {
    mark: String,
    events: mpsc::Receiver<NewEvent>,
    stop: CancellationToken,
    lease: watch::Sender<MonotonicInstant>,
    end: JoinHandle<Result<TurnEnd, TurnFailure>>,
}

fn start(engine: Arc<dyn Engine>, turn: Turn, lease: Duration) -> Run {
    let (sender, events) = mpsc::channel(16);
    let (lease, must_end_by) = watch::channel(MonotonicInstant::now().plus(lease));
    let stop = CancellationToken::new();
    let link = Arc::new(engine::trial::TrialLink::allowing());
    let context = TurnContext { events: sender, stop: stop.clone(), must_end_by, ledger: Ledger::default(), link };
    let mark = turn.job_id.to_string();
    Run { mark, events, stop, lease, end: tokio::spawn(async move { engine.run(turn, context).await }) }
}

impl Run {
    async fn heard(&mut self) -> String {
        let event = self.events.recv().await.expect("an event");
        assert_eq!(event.kind, EventType::Text);
        event.data["content"].as_str().expect("text").to_owned()
    }
}

async fn run(engine: Arc<dyn Engine>, prompt: &str) -> (Result<TurnEnd, TurnFailure>, String) {
    let mut run = start(engine, turn(prompt), SOON * 6);
    let mut said = String::new();
    while let Some(event) = run.events.recv().await {
        said.push_str(event.data["content"].as_str().expect("text"));
    }
    let end = run.end.await.expect("no panic");
    assert_eq!(alive(&run.mark), [], "nothing lives once the run has ended");
    (end, said)
}

async fn failure(engine: Arc<dyn Engine>) -> TurnFailure {
    run(engine, "hello").await.0.expect_err("a failure")
}

async fn output_streams_while_the_program_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let go = folder.path().join("go");
    let script = "cat; echo one; while [ ! -e \"$0\" ]; do sleep 0.01; done; echo two";
    let engine = engine(&json!({ "command": ["sh", "-c", script, go] }));
    let mut run = start(engine, turn("the prompt\n"), SOON * 6);
    let mut first = String::new();
    while !first.ends_with("one\n") {
        first.push_str(&run.heard().await);
    }
    assert_eq!(first, "the prompt\none\n");
    std::fs::write(&go, "").expect("the program's sign");
    assert_eq!(run.heard().await, "two\n");
    assert_eq!(run.end.await.expect("no panic").expect("success").text, "the prompt\none\ntwo\n");
}

async fn a_program_sees_only_the_environment_it_is_given() {
    let engine = engine(&json!({ "command": ["env"], "env": ["PATH", "NO_SUCH_VARIABLE"] }));
    let turn = turn("");
    let (job, session) = (turn.job_id, turn.session_id.expect("a session"));
    let run = start(engine, turn, SOON * 6);
    let text = run.end.await.expect("no panic").expect("success").text;
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let path = format!("PATH={}", std::env::var("PATH").expect("PATH"));
    let (job, session) = (format!("ERRAND_TASK_ID={job}"), format!("ERRAND_SESSION_ID={session}"));
    assert_eq!(lines, ["ERRAND_ATTEMPT=2", &session, &job, &path]);
}

async fn a_program_runs_in_its_working_directory() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().canonicalize().expect("a path");
    std::fs::write(folder.join("here"), "").expect("a file");
    let engine = engine(&json!({ "command": ["ls"], "cwd": folder }));
    assert_eq!(run(engine, "").await.0.expect("success").text, "here\n");
}

async fn a_failure_keeps_status_and_complaints() {
    let failed = failure(shell("echo partial; echo first >&2; echo 'bad thing' >&2; exit 3")).await;
    assert_eq!((failed.class, failed.code), (FailureClass::Fatal, code::EXECUTION_ERROR));
    assert_eq!(failed.message, "exited with status 3: first\nbad thing");
    assert_eq!(failure(shell("exit 4")).await.message, "exited with status 4");
    let killed = failure(shell("echo oh >&2; kill -KILL $$")).await;
    assert_eq!((killed.class, killed.message.as_str()), (FailureClass::Fatal, "was killed by signal 9: oh"));
    let loud = engine(&json!({ "command": ["sh", "-c", "seq 100000 >&2; exit 1"], "stderr_limit_kib": 1 }));
    let message = failure(loud).await.message;
    assert!(message.ends_with("99999\n100000") && message.len() < 1_100, "{message}");
}

async fn a_program_that_cannot_start_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").expect("a script");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("executable");
    for (settings, hint) in [
        (json!({ "command": ["no-such-program"] }), "was not found on the PATH"),
        (json!({ "command": ["/etc/passwd"] }), "not executable; try `chmod +x`"),
        (json!({ "command": ["true"], "cwd": "/no/such/folder" }), "/no/such/folder does not exist; create it"),
        (json!({ "command": [script] }), "the interpreter in its first line is missing"),
    ] {
        let failed = failure(engine(&settings)).await;
        assert_eq!((failed.class, failed.code), (FailureClass::Fatal, code::ENGINE_UNAVAILABLE), "{failed}");
        assert!(failed.message.contains(hint), "{failed}");
    }
}

async fn a_flood_is_stopped_at_its_limit() {
    let flood = engine(&json!({ "command": ["yes"], "output_limit_kib": 64 }));
    let (end, said) = run(flood, "").await;
    let failed = end.expect_err("over its limit");
    assert_eq!((failed.class, failed.code), (FailureClass::Fatal, code::OUTPUT_LIMIT));
    assert!(failed.message.contains("64 KiB"), "{failed}");
    assert!(said.len() <= 64 * 1024, "{}", said.len());
}

async fn bytes_that_are_not_text_are_replaced() {
    let (end, said) = run(shell(r"printf 'a\377b\000c\344\275'"), "").await;
    assert_eq!(said, "a\u{FFFD}b\u{FFFD}c\u{FFFD}");
    assert_eq!(end.expect("success").text, said);
}

async fn a_program_need_not_read_its_prompt() {
    let (end, _) = run(shell("echo done"), &"x".repeat(4_000_000)).await;
    assert_eq!(end.expect("success").text, "done\n");
}

async fn a_stop_kills_the_children() {
    let mut run = start(shell(FAMILY), turn(&"unread ".repeat(500_000)), SOON * 6);
    assert_eq!(run.heard().await, "ready\n");
    running(&run.mark, "sleep 1000", 3).await;
    run.stop.cancel();
    run.end.await.expect("no panic").expect_err("stopped");
    assert_eq!(alive(&run.mark), [], "nothing lives once the run has returned");
}

async fn a_dropped_run_leaves_nothing() {
    let run = start(shell(FAMILY), turn(""), SOON * 6);
    running(&run.mark, "sleep 1000", 3).await;
    run.end.abort();
    gone(&run.mark).await;
}

async fn a_lease_that_passes_kills_the_children() {
    let run = start(shell(FAMILY), turn(""), SOON * 6);
    running(&run.mark, "sleep 1000", 3).await;
    run.lease.send_replace(MonotonicInstant::now().plus(Duration::from_millis(100)));
    let failed = run.end.await.expect("no panic").expect_err("killed");
    assert_eq!(failed.class, FailureClass::Crash);
    assert!(failed.message.contains("lease"), "{failed}");
    assert_eq!(alive(&run.mark), []);
}

async fn renewed_leases_reach_the_guard() {
    let folder = tempfile::tempdir().expect("a folder");
    let go = folder.path().join("go");
    let script = "echo ready; while [ ! -e \"$0\" ]; do sleep 0.01; done; echo outlived";
    let engine = engine(&json!({ "command": ["sh", "-c", script, go] }));
    let first_lease = MonotonicInstant::now().plus(Duration::from_millis(1_500));
    let mut run = start(engine, turn(""), first_lease.remaining());
    assert_eq!(run.heard().await, "ready\n");
    run.lease.send_replace(MonotonicInstant::now().plus(SOON * 6));
    crate::process::until(|| first_lease.has_passed(), || "time stands still".to_owned()).await;
    std::fs::write(&go, "").expect("the program's sign");
    assert_eq!(run.end.await.expect("no panic").expect("success").text, "ready\noutlived\n");
}

async fn engines_are_described_with_their_availability() {
    let engines = json!({
        "default": "quick",
        "quick": { "type": "echo", "queue": "fast" },
        "there": { "type": "command", "command": ["sh"] },
        "missing": { "type": "command", "command": ["no-such-program"] },
    });
    let engines: config::Engines = serde_json::from_value(engines).expect("a configuration");
    let table = engine::build(
        &config::Config { engines: engines.clone(), ..config::Config::default() },
        guard::default_program(),
    );
    let described = engine::describe(&table, &engines).await;
    let seen: Vec<_> = described.iter().map(|info| (info.name.as_str(), info.available, info.queue.as_str())).collect();
    assert_eq!(seen, [("missing", false, "default"), ("quick", true, "fast"), ("there", true, "default")]);
    let reason = described[0].reason.as_deref().expect("a reason");
    assert!(reason.contains("no-such-program was not found"), "{reason}");
    assert_eq!(described[1].capabilities["streaming"], json!(true));
    let there = table["there"].availability().await;
    assert_eq!(there, Availability::Available);
}
