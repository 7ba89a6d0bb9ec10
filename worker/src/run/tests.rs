//! The whole worker on a real store, with an engine that does what its prompt says.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use async_trait::async_trait;
use errand_common::{
    config,
    domain::{
        Event, EventType, FailureClass, Job, JobId, JobState, NewEvent, OnBusy, Priority, RetryPolicy, SessionId,
        Stream,
    },
    port::store::{CancelRequest, CancelResult, NewJob, NewTask, Submission, Submitted},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use self::faulty::Faulty;
use super::*;
use crate::engine::{Availability, Capabilities, Engine, Turn, TurnContext, TurnEnd, TurnFailure};

mod faulty;

const PATIENCE: Duration = Duration::from_secs(30);

/// Does what the first word of the prompt says.
#[derive(Default)]
struct Scripted {
    running: AtomicUsize,
    most_at_once: AtomicUsize,
    turns: AtomicUsize,
    gate: tokio::sync::Notify,
}

/// Counts a turn as running until it returns or is dropped.
struct Present<'a>(&'a AtomicUsize);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Engine for Scripted {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    async fn availability(&self) -> Availability {
        Availability::Available
    }

    async fn run(&self, turn: Turn, context: TurnContext) -> Result<TurnEnd, TurnFailure> {
        self.turns.fetch_add(1, Ordering::SeqCst);
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        let _present = Present(&self.running);
        let say = async |text: &str| {
            let event = NewEvent::new(EventType::Text, json!({ "content": text }));
            context.events.send(event).await.expect("the run listens to the end");
        };
        match turn.prompt.split(' ').next().unwrap_or_default() {
            "panic" => panic!("as told"),
            "flaky" if turn.attempt == 1 => Err(TurnFailure {
                class: FailureClass::Transient,
                code: "EXECUTION_ERROR",
                message: "try again".to_owned(),
                retry_after: None,
            }),
            "wait" => {
                say("waiting").await;
                context.stop.cancelled().await;
                Ok(TurnEnd::default())
            }
            "gate" => {
                say("before").await;
                self.gate.notified().await;
                say(" after").await;
                Ok(TurnEnd { text: "before after".to_owned(), ..TurnEnd::default() })
            }
            "hang" => std::future::pending().await,
            "flood" => {
                for number in 0..5_000 {
                    say(&format!("{number} ")).await;
                }
                Ok(TurnEnd { text: "flooded".to_owned(), ..TurnEnd::default() })
            }
            _ => {
                say(&turn.prompt).await;
                Ok(TurnEnd { text: turn.prompt, ..TurnEnd::default() })
            }
        }
    }
}

/// A worker on a database of its own.
struct Trial {
    /// What the test sees.
    backend: Backend,
    /// What the worker sees of the same store.
    faulty: Arc<Faulty>,
    config: Arc<Config>,
    engine: Arc<Scripted>,
    shutdown: CancellationToken,
    worker: Option<JoinHandle<Result<(), RunError>>>,
    _dir: tempfile::TempDir,
}

impl Trial {
    async fn start(set: impl FnOnce(&mut config::Worker)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = Config::default();
        config.worker.sweep_interval_ms = 50;
        set(&mut config.worker);
        let url = format!("sqlite://{}", dir.path().join("errand.db").display());
        let backend = Backend::open(&config, &url).await.expect("a database");
        let faulty = Arc::new(Faulty::new(backend.store.clone()));
        let mut trial = Self {
            backend,
            faulty,
            config: Arc::new(config),
            engine: Arc::default(),
            shutdown: CancellationToken::new(),
            worker: None,
            _dir: dir,
        };
        trial.start_worker(false);
        trial
    }

    fn start_worker(&mut self, sole_holder: bool) {
        self.shutdown = CancellationToken::new();
        let options = RunOptions {
            backend: Backend { store: self.faulty.clone(), ..self.backend.clone() },
            config: self.config.clone(),
            guard_program: PathBuf::new(),
            sole_holder,
            shutdown: self.shutdown.clone(),
        };
        let engine: Arc<dyn Engine> = self.engine.clone();
        let engines = EngineTable::from([("scripted".to_owned(), engine)]);
        self.worker = Some(tokio::spawn(run_with(options, engines)));
    }

    async fn stop(&mut self) -> Result<(), RunError> {
        self.shutdown.cancel();
        let worker = self.worker.take().expect("a running worker");
        tokio::time::timeout(PATIENCE, worker).await.expect("it drains in time").expect("it does not panic")
    }

    async fn submit(&self, job: NewJob) -> JobId {
        let id = job.id;
        let submission = Submission { jobs: vec![job], idempotency: None };
        let now = self.backend.clock.now();
        let (mut results, consequences) = self.backend.store.submit(vec![submission], now).await;
        let submitted = results.remove(0).expect("a database that works");
        assert!(matches!(submitted, Submitted::Done(ref jobs) if jobs[0].is_ok()), "{submitted:?}");
        self.backend.dispatch(consequences).await;
        id
    }

    async fn cancel(&self, id: JobId) {
        let request = CancelRequest {
            tenant: "dev".to_owned(),
            id,
            code: "USER_CANCEL".to_owned(),
            message: "cancelled".to_owned(),
            now: self.backend.clock.now(),
        };
        let (result, consequences) =
            self.backend.store.cancel(request).await.expect("a database that works").expect("the job is there");
        assert!(matches!(result, CancelResult::Cancelled(_)));
        self.backend.dispatch(consequences).await;
    }

    async fn until_engine(&self, what: &str, holds: impl Fn(&Scripted) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.engine) {
            assert!(Instant::now() < deadline, "waited for: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn job(&self, id: JobId) -> Job {
        self.backend.store.job("dev", id).await.expect("a database that works").expect("the job is there")
    }

    async fn until(&self, id: JobId, what: &str, holds: impl Fn(&Job) -> bool) -> Job {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let job = self.job(id).await;
            if holds(&job) {
                return job;
            }
            assert!(Instant::now() < deadline, "waited for: {what}; is {job:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn ended(&self, id: JobId) -> Job {
        self.until(id, "the end", |job| job.state.is_terminal()).await
    }

    async fn running(&self, id: JobId) -> Job {
        // The text is written, so the engine is at work.
        self.until(id, "text of a run", |job| job.state == JobState::Running && job.tail_seq >= 3).await
    }

    async fn events(&self, id: JobId) -> Vec<Event> {
        self.backend.store.events(Stream::Job(id), 0, 10_000).await.expect("a database that works")
    }
}

fn job(kind: &str, payload: Value) -> NewJob {
    NewJob {
        id: JobId::new(),
        tenant: "dev".to_owned(),
        kind: kind.to_owned(),
        queue: "default".to_owned(),
        priority: Priority::default(),
        payload,
        retry: RetryPolicy { base_ms: 1, ..RetryPolicy::TASK },
        timeout_ms: None,
        run_at: None,
        expires_at: None,
        deadline: None,
        metadata: None,
        retry_of: None,
        task: None,
    }
}

fn task(prompt: &str) -> NewJob {
    job("task", json!({ "prompt": prompt, "engineType": "scripted" }))
}

fn task_in(session: SessionId, prompt: &str) -> NewJob {
    NewJob {
        task: Some(NewTask {
            session_id: Some(session),
            fresh: session,
            engine: "scripted".to_owned(),
            system_prompt: None,
            prompt: prompt.to_owned(),
            title: prompt.to_owned(),
            voice_mode: false,
            on_busy: OnBusy::Enqueue,
        }),
        ..task(prompt)
    }
}

fn code(job: &Job) -> Option<&str> {
    job.failure.as_ref().map(|failure| failure.code.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_to_its_end_and_the_worker_stops_gracefully() {
    let mut trial = Trial::start(|_| {}).await;
    let job = trial.ended(trial.submit(task("hello")).await).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 1));
    assert_eq!(job.result.as_ref().map(|result| result["summary"].clone()), Some(json!("hello")));
    let kinds: Vec<_> = trial.events(job.id).await.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventType::Queued, EventType::Started, EventType::Text, EventType::Completed]);
    assert_eq!(trial.backend.store.live_workers().await.expect("workers").len(), 1);
    trial.stop().await.expect("a graceful end");
    assert!(trial.backend.store.live_workers().await.expect("workers").is_empty(), "it said good-bye");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_fails_its_job_with_its_words_and_nothing_else() {
    let mut trial = Trial::start(|_| {}).await;
    let (bad, good) = (trial.submit(task("panic")).await, trial.submit(task("fine")).await);
    let bad = trial.ended(bad).await;
    assert_eq!((bad.state, code(&bad)), (JobState::Failed, Some("PANIC")));
    assert!(bad.failure.as_ref().is_some_and(|failure| failure.message.contains("as told")));
    assert_eq!(trial.ended(good).await.state, JobState::Completed);
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_cannot_be_read_fails_its_job_with_a_reason() {
    let mut trial = Trial::start(|_| {}).await;
    let job = trial.ended(trial.submit(job("task", json!({ "prompt": 7 }))).await).await;
    assert_eq!((job.state, code(&job)), (JobState::Failed, Some("INVALID_PAYLOAD")));
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_worker_knows_is_put_off_and_fails_when_its_time_is_up() {
    let mut trial = Trial::start(|worker| worker.unknown_kind_seconds = 1).await;
    let kind = trial.submit(job("teleport", json!({}))).await;
    let engine = trial.submit(job("task", json!({ "prompt": "x", "engineType": "absent" }))).await;
    trial.until(kind, "the snooze", |job| job.state == JobState::Scheduled).await;
    let (kind, engine) = (trial.ended(kind).await, trial.ended(engine).await);
    assert_eq!((code(&kind), kind.attempt), (Some("UNKNOWN_KIND"), 1));
    assert_eq!((code(&engine), engine.attempt), (Some("UNKNOWN_ENGINE"), 1));
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transient_failure_is_tried_again_as_the_next_attempt() {
    let mut trial = Trial::start(|_| {}).await;
    let job = trial.ended(trial.submit(task("flaky")).await).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 2));
    assert!(trial.events(job.id).await.iter().any(|event| event.kind == EventType::Retrying));
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_takes_too_long_is_stopped_and_fails() {
    let mut trial = Trial::start(|worker| worker.stop_grace_ms = 10).await;
    let job = trial.ended(trial.submit(NewJob { timeout_ms: Some(50), ..task("hang") }).await).await;
    assert_eq!((job.state, code(&job)), (JobState::Failed, Some("TIMEOUT")));
    assert_eq!(trial.engine.running.load(Ordering::SeqCst), 0, "the engine was dropped");
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_running_task_stops_it_and_frees_its_session() {
    let mut trial = Trial::start(|_| {}).await;
    let session = SessionId::new();
    let first = trial.submit(task_in(session, "wait")).await;
    let second = trial.submit(task_in(session, "after")).await;
    trial.running(first).await;
    assert_eq!(trial.job(second).await.state, JobState::Blocked);
    let cancelled = Instant::now();
    trial.cancel(first).await;
    assert_eq!(trial.ended(second).await.state, JobState::Completed);
    assert!(cancelled.elapsed() < trial.lease() / 2, "freed by the release, not by the lease");
    assert_eq!(trial.job(first).await.state, JobState::Cancelled);
    assert_eq!(trial.engine.running.load(Ordering::SeqCst), 0);
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_hands_a_long_run_back_without_spending_an_attempt() {
    let mut trial = Trial::start(|worker| worker.drain_seconds = 0).await;
    let id = trial.submit(task("wait")).await;
    trial.running(id).await;
    trial.stop().await.expect("a graceful end");
    let job = trial.job(id).await;
    assert_eq!((job.state, job.attempt), (JobState::Queued, 1));
    assert_eq!(trial.engine.running.load(Ordering::SeqCst), 0);

    trial.start_worker(false);
    trial.until(id, "the next run", |job| job.state == JobState::Running).await;
    assert_eq!(trial.job(id).await.attempt, 1);
    trial.cancel(id).await;
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_lets_a_short_run_finish() {
    let mut trial = Trial::start(|_| {}).await;
    let id = trial.submit(task("flood")).await;
    trial.until(id, "the start", |job| job.state != JobState::Queued).await;
    trial.stop().await.expect("a graceful end");
    assert_eq!(trial.job(id).await.state, JobState::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_the_sole_holder_starts_the_next_attempt_without_waiting_for_the_lease() {
    let mut trial = Trial::start(|_| {}).await;
    let id = trial.submit(task("wait")).await;
    trial.running(id).await;
    trial.worker.take().expect("a worker").abort();
    let crashed = Instant::now();
    trial.start_worker(true);
    trial.until(id, "attempt 2", |job| job.state == JobState::Running && job.attempt == 2).await;
    assert!(crashed.elapsed() < trial.lease() / 2);
    trial.cancel(id).await;
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_text_arrives_whole_and_in_order_in_few_events() {
    let mut trial = Trial::start(|worker| worker.event_buffer_kib = 1).await;
    let job = trial.ended(trial.submit(task("flood")).await).await;
    assert_eq!(job.state, JobState::Completed);
    let events = trial.events(job.id).await;
    let text: String = events
        .iter()
        .filter(|event| event.kind == EventType::Text)
        .filter_map(|event| event.data["content"].as_str())
        .collect();
    let expected: String = (0..5_000).map(|number| format!("{number} ")).collect();
    assert_eq!(text, expected);
    assert!(events.len() < 500, "{} events for 5,000 deltas", events.len());
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_all_complete_once_and_never_more_at_a_time_than_allowed() {
    let mut trial = Trial::start(|worker| worker.concurrency = 8).await;
    let mut ids = Vec::new();
    for number in 0..200 {
        ids.push(trial.submit(task(&format!("task {number}"))).await);
    }
    for id in ids {
        let job = trial.ended(id).await;
        assert_eq!((job.state, job.attempt), (JobState::Completed, 1));
    }
    assert_eq!(trial.engine.turns.load(Ordering::SeqCst), 200);
    assert!(trial.engine.most_at_once.load(Ordering::SeqCst) <= 8);
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_the_queue_forgot_are_found_by_the_sweep() {
    let mut trial = Trial::start(|_| {}).await;
    let submission = Submission { jobs: vec![task("unheard")], idempotency: None };
    let id = submission.jobs[0].id;
    // Nobody is told: as if the process had died between the commit and the push.
    let (results, _untold) = trial.backend.store.submit(vec![submission], trial.backend.clock.now()).await;
    assert!(results[0].is_ok());
    assert_eq!(trial.ended(id).await.state, JobState::Completed);
    trial.stop().await.expect("a graceful end");
}

impl Trial {
    fn lease(&self) -> Duration {
        Duration::from_secs(self.config.worker.lease_seconds.into())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_cannot_be_written_is_kept_until_the_store_is_back() {
    let mut trial = Trial::start(|_| {}).await;
    let id = trial.submit(task("gate")).await;
    trial.running(id).await;
    trial.faulty.set_away(true);
    trial.engine.gate.notify_one();
    trial.until_engine("the end of the turn", |engine| engine.running.load(Ordering::SeqCst) == 0).await;
    assert_eq!(trial.job(id).await.state, JobState::Running, "its end is not written yet");
    trial.faulty.set_away(false);
    let job = trial.ended(id).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 1));
    let events = trial.events(id).await;
    let texts: Vec<_> = events.iter().filter_map(|event| event.data["content"].as_str()).collect();
    assert_eq!(texts, ["before", " after"]);
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_lease_cannot_be_renewed_is_stopped_before_its_end_and_runs_again_unharmed() {
    let mut trial = Trial::start(|worker| worker.lease_seconds = 2).await;
    let id = trial.submit(task("gate")).await;
    let written = trial.running(id).await.tail_seq;
    trial.faulty.set_away(true);
    let away = Instant::now();
    trial.until_engine("the stop", |engine| engine.running.load(Ordering::SeqCst) == 0).await;
    assert!(away.elapsed() < trial.lease(), "stopped before the lease can have passed");
    assert_eq!(trial.job(id).await.tail_seq, written, "nothing more was written");
    trial.faulty.set_away(false);
    trial.engine.gate.notify_one();
    let job = trial.ended(id).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 1), "no attempt was spent");
    assert_eq!(trial.engine.turns.load(Ordering::SeqCst), 2);
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_outlives_many_leases_while_they_are_renewed() {
    let mut trial = Trial::start(|worker| worker.lease_seconds = 2).await;
    let id = trial.submit(task("gate")).await;
    let first = trial.running(id).await.lease_until;
    trial.until(id, "a third renewal", |job| job.lease_until > first.map(|at| at.plus(trial.lease() * 2))).await;
    trial.engine.gate.notify_one();
    assert_eq!(trial.ended(id).await.attempt, 1);
    assert_eq!(trial.engine.turns.load(Ordering::SeqCst), 1);
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_whose_signal_was_lost_is_found_by_the_next_renewal() {
    let mut trial = Trial::start(|worker| worker.lease_seconds = 3).await;
    let id = trial.submit(task("wait")).await;
    trial.running(id).await;
    let request = CancelRequest {
        tenant: "dev".to_owned(),
        id,
        code: "USER_CANCEL".to_owned(),
        message: "cancelled".to_owned(),
        now: trial.backend.clock.now(),
    };
    let _unsent = trial.backend.store.cancel(request).await.expect("a database that works");
    trial.until_engine("the stop", |engine| engine.running.load(Ordering::SeqCst) == 0).await;
    trial.until(id, "the release", |job| job.lease_until.is_none()).await;
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_in_time_even_if_the_store_is_away() {
    let mut trial = Trial::start(|worker| (worker.lease_seconds, worker.drain_seconds) = (2, 0)).await;
    let id = trial.submit(task("wait")).await;
    trial.running(id).await;
    trial.faulty.set_away(true);
    trial.stop().await.expect("a graceful end, though its runs could not be handed back");
    assert_eq!(trial.engine.running.load(Ordering::SeqCst), 0);
    assert_eq!(trial.job(id).await.state, JobState::Running, "its lease will pass");
}
