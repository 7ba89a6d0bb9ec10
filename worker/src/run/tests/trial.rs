//! A worker on a database of its own, with an engine that does what its prompt says.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use errand_common::{
    backend::Backend,
    config::{self, Config},
    domain::{
        Event, EventType, FailureClass, Job, JobId, JobState, NewEvent, OnBusy, Priority, RetryPolicy, SessionId,
        Stream,
    },
    port::store::{CancelRequest, CancelResult, Interruption, NewJob, NewTask, Submission, Submitted},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{
    super::{RunError, RunOptions, run_with},
    faulty::Faulty,
};
use crate::engine::{Availability, Capabilities, Engine, EngineTable, Turn, TurnContext, TurnEnd, TurnFailure};

const PATIENCE: Duration = Duration::from_secs(30);

/// Does what the first word of the prompt says.
#[derive(Default)]
pub(super) struct Scripted {
    pub(super) running: AtomicUsize,
    pub(super) most_at_once: AtomicUsize,
    pub(super) turns: AtomicUsize,
    pub(super) gate: tokio::sync::Notify,
    begun: Mutex<HashSet<JobId>>,
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
            "flaky" if turn.attempt == 1 => {
                Err(TurnFailure::new(FailureClass::Transient, "EXECUTION_ERROR", "try again"))
            }
            "wait" => {
                say("waiting").await;
                context.stop.cancelled().await;
                Ok(TurnEnd::default())
            }
            "gate" => {
                say("before").await;
                self.gate.notified().await;
                say(" after").await;
                Ok(TurnEnd { text: "before after".to_owned(), model: None })
            }
            // Its first run ends by being stopped.
            "second" if self.begun.lock().expect("no panic").insert(turn.job_id) => {
                context.stop.cancelled().await;
                Ok(TurnEnd::default())
            }
            "hang" => std::future::pending().await,
            "flood" => {
                for number in 0..5_000 {
                    say(&format!("{number} ")).await;
                }
                Ok(TurnEnd { text: "flooded".to_owned(), model: None })
            }
            _ => {
                say(&turn.prompt).await;
                Ok(TurnEnd { text: turn.prompt, model: None })
            }
        }
    }
}

/// A worker on a database of its own.
pub(super) struct Trial {
    /// What the test sees.
    pub(super) backend: Backend,
    /// What the worker sees of the same store.
    pub(super) faulty: Arc<Faulty>,
    config: Arc<Config>,
    pub(super) engine: Arc<Scripted>,
    shutdown: CancellationToken,
    pub(super) worker: Option<JoinHandle<Result<(), RunError>>>,
    _dir: tempfile::TempDir,
}

impl Trial {
    pub(super) fn lease(&self) -> Duration {
        Duration::from_secs(self.config.worker.lease_seconds.into())
    }

    pub(super) async fn start(set: impl FnOnce(&mut config::Worker)) -> Self {
        // A worker makes HTTP clients. Installed once a process; a second attempt only says that it is there already.
        let _ = rustls::crypto::ring::default_provider().install_default();
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

    pub(super) fn start_worker(&mut self, sole_holder: bool) {
        self.shutdown = CancellationToken::new();
        let options = RunOptions {
            health: Arc::default(),
            backend: Backend { store: self.faulty.clone(), ..self.backend.clone() },
            config: self.config.clone(),
            guard_program: PathBuf::new(),
            sole_holder,
            drainable: true,
            shutdown: self.shutdown.clone(),
        };
        let engine: Arc<dyn Engine> = self.engine.clone();
        let engines = EngineTable::from([("scripted".to_owned(), engine)]);
        self.worker = Some(tokio::spawn(run_with(options, engines)));
    }

    /// Stops the worker that was started last.
    pub(super) fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    pub(super) async fn stop(&mut self) -> Result<(), RunError> {
        self.shutdown.cancel();
        self.ends_by_itself().await
    }

    pub(super) async fn ends_by_itself(&mut self) -> Result<(), RunError> {
        let worker = self.worker.take().expect("a running worker");
        tokio::time::timeout(PATIENCE, worker).await.expect("it drains in time").expect("it does not panic")
    }

    pub(super) async fn submit(&self, job: NewJob) -> JobId {
        let id = job.id;
        let submission = Submission { jobs: vec![job], idempotency: None };
        let now = self.backend.clock.now();
        let (mut results, consequences) = self.backend.store.submit(vec![submission], now).await;
        let submitted = results.remove(0).expect("a database that works");
        assert!(matches!(submitted, Submitted::Done(ref jobs) if jobs[0].is_ok()), "{submitted:?}");
        self.backend.dispatch(consequences).await;
        id
    }

    pub(super) async fn cancel(&self, id: JobId) {
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

    pub(super) async fn until_engine(&self, what: &str, holds: impl Fn(&Scripted) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.engine) {
            assert!(Instant::now() < deadline, "waited for: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn job(&self, id: JobId) -> Job {
        self.backend.store.job("dev", id).await.expect("a database that works").expect("the job is there")
    }

    pub(super) async fn until(&self, id: JobId, what: &str, holds: impl Fn(&Job) -> bool) -> Job {
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

    pub(super) async fn ended(&self, id: JobId) -> Job {
        self.until(id, "the end", |job| job.state.is_terminal()).await
    }

    pub(super) async fn running(&self, id: JobId) -> Job {
        // The text is written, so the engine is at work.
        self.until(id, "text of a run", |job| job.state == JobState::Running && job.tail_seq >= 3).await
    }

    pub(super) async fn events(&self, id: JobId) -> Vec<Event> {
        self.backend.store.events(Stream::Job(id), 0, 10_000).await.expect("a database that works")
    }
}

pub(super) fn job(kind: &str, payload: Value) -> NewJob {
    NewJob {
        id: JobId::new(),
        tenant: "dev".to_owned(),
        kind: kind.to_owned(),
        queue: "default".to_owned(),
        priority: Priority::default(),
        payload,
        payload_version: 1,
        retry: RetryPolicy { base_ms: 1, ..RetryPolicy::TASK },
        timeout_ms: None,
        run_at: None,
        expires_at: None,
        deadline: None,
        metadata: None,
        retry_of: None,
        user_id: None,
        task: None,
        dedup: None,
        children: Vec::new(),
        coordination: None,
        webhook: None,
        trace: None,
    }
}

pub(super) fn task(prompt: &str) -> NewJob {
    job("task", json!({ "prompt": prompt, "engineType": "scripted" }))
}

pub(super) fn task_in(session: SessionId, prompt: &str) -> NewJob {
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
            attachments: vec![],
            metered: false,
            interruption: Interruption::Task,
            instance_id: None,
        }),
        ..task(prompt)
    }
}
