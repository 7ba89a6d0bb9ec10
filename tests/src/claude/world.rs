//! What a case needs: a model's server, the program, and engines that run it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use errand_common::{
    config,
    domain::{Decision, EventType, NewEvent, SessionId, UsageReport},
};
use errand_worker::{
    engine::{self, Engine, Ledger, Link, Turn, TurnContext, TurnEnd, TurnFailure, trial::TrialLink},
    guard::MonotonicInstant,
};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::model::Model;
use crate::process;

/// How long what must happen may take.
const SOON: Duration = Duration::from_secs(30);

/// Which engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `claude_code_cli`
    Cli,
    /// `claude_agent_sdk`
    Sdk,
}

impl Kind {
    /// The type of the engine, which is also its name where it has no other.
    #[must_use]
    pub const fn engine_type(self) -> &'static str {
        match self {
            Self::Cli => "claude_code_cli",
            Self::Sdk => "claude_agent_sdk",
        }
    }
}

/// One case's world.
#[derive(Debug)]
pub struct World {
    /// The model's server.
    pub model: Model,
    folder: TempDir,
    guard: PathBuf,
}

impl World {
    /// With the program `binary`, and guards made of `guard`.
    ///
    /// # Panics
    /// If it can't be made.
    pub async fn new(binary: &Path, guard: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("errand-claude-").tempdir().expect("a folder");
        let model = Model::start().await;
        // What the operator's environment holds.
        let script = format!(
            "#!/bin/sh\nexport ANTHROPIC_BASE_URL={} ANTHROPIC_API_KEY=of-the-test CLAUDE_CODE_MAX_RETRIES=2\nexec {} \"$@\"\n",
            model.url(),
            binary.display()
        );
        let wrapper = folder.path().join("claude");
        fs::write(&wrapper, script).expect("written");
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("executable");
        Self { model, folder, guard: guard.to_owned() }
    }

    /// A path of the case's own.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An engine as the worker `worker` has it: with a home that no other worker sees.
    ///
    /// # Panics
    /// If it can't be made.
    #[must_use]
    pub fn engine(&self, kind: Kind, worker: &str) -> Arc<dyn Engine> {
        let settings = json!({
            "type": kind.engine_type(), "binary": self.path("claude"), "home": self.path(worker), "stop_grace_ms": 5_000,
        });
        let table = BTreeMap::from([("claude".to_owned(), serde_json::from_value(settings).expect("settings"))]);
        let engines = config::Engines { default: None, table };
        let config = config::Config { engines, ..config::Config::default() };
        engine::build(&config, self.guard.clone()).remove("claude").expect("the engine")
    }
}

/// A turn of a session.
#[must_use]
pub fn turn(prompt: &str) -> Turn {
    Turn { session_id: Some(SessionId::new()), ..engine::trial::turn(prompt) }
}

/// Decides by name.
#[must_use]
pub fn denying() -> Arc<TrialLink> {
    Arc::new(TrialLink::deciding(|_| Decision::Deny { message: "not today".to_owned() }))
}

/// Allows everything.
#[must_use]
pub fn allowing() -> Arc<TrialLink> {
    Arc::new(TrialLink::allowing())
}

/// A run under way.
pub struct Run {
    mark: String,
    events: mpsc::Receiver<NewEvent>,
    seen: Vec<NewEvent>,
    stop: CancellationToken,
    _lease: watch::Sender<MonotonicInstant>,
    ledger: Ledger,
    end: JoinHandle<Result<TurnEnd, TurnFailure>>,
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub end: Result<TurnEnd, TurnFailure>,
    /// Its events.
    pub events: Vec<NewEvent>,
    /// What it spent.
    pub usage: Option<UsageReport>,
}

impl Run {
    /// Starts a run.
    #[must_use]
    pub fn start(engine: Arc<dyn Engine>, turn: Turn, link: Arc<dyn Link>) -> Self {
        let (sender, events) = mpsc::channel(16);
        let (lease, must_end_by) = watch::channel(MonotonicInstant::now().plus(SOON * 2));
        let (stop, ledger, mark) = (CancellationToken::new(), Ledger::default(), turn.job_id.to_string());
        let context = TurnContext { events: sender, stop: stop.clone(), must_end_by, ledger: ledger.clone(), link };
        let end = tokio::spawn(async move { engine.run(turn, context).await });
        Self { mark, events, seen: Vec::new(), stop, _lease: lease, ledger, end }
    }

    /// Waits for an event of a kind.
    ///
    /// # Panics
    /// If none comes in time.
    pub async fn until(&mut self, kind: EventType) {
        let waited = tokio::time::timeout(SOON, async {
            while let Some(event) = self.events.recv().await {
                self.seen.push(event);
                if self.seen.last().is_some_and(|event| event.kind == kind) {
                    return true;
                }
            }
            false
        });
        assert_eq!(waited.await, Ok(true), "{kind:?} did not come: {:#?}", self.seen);
    }

    /// Tells it to stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Its processes.
    #[must_use]
    pub fn processes(&self) -> Vec<process::Process> {
        process::of_task(&self.mark)
    }

    /// Waits for its end, upon which none of its processes lives.
    ///
    /// # Panics
    /// If it does not end in time, or one lives.
    pub async fn ended(mut self) -> Ended {
        let drained = tokio::time::timeout(SOON, async {
            while let Some(event) = self.events.recv().await {
                self.seen.push(event);
            }
        });
        assert!(drained.await.is_ok(), "it does not end: {:#?}", self.seen);
        let end = self.end.await.expect("no panic");
        process::assert_gone(&self.mark, Instant::now(), Duration::ZERO).await;
        Ended { end, events: self.seen, usage: self.ledger.report() }
    }
}

/// Runs a turn to its end.
pub async fn run(engine: &Arc<dyn Engine>, turn: &Turn, link: &Arc<TrialLink>) -> Ended {
    let link: Arc<dyn Link> = Arc::<TrialLink>::clone(link);
    Run::start(Arc::clone(engine), turn.clone(), link).ended().await
}

impl Ended {
    /// Its text.
    ///
    /// # Panics
    /// If it failed.
    pub fn text(&self) -> &str {
        &self.end.as_ref().unwrap_or_else(|failure| panic!("{failure:?}\n{:#?}", self.events)).text
    }

    /// How it failed.
    ///
    /// # Panics
    /// If it did not.
    pub fn failure(&self) -> &TurnFailure {
        self.end.as_ref().expect_err("a failure")
    }

    /// What a viewer has in the end: text less what was retracted.
    #[must_use]
    pub fn viewed(&self) -> String {
        let mut text = String::new();
        for event in &self.events {
            match event.kind {
                EventType::Text => text.push_str(event.data["content"].as_str().unwrap_or_default()),
                EventType::TextRetracted => text.clear(),
                _ => {}
            }
        }
        text
    }

    /// Its events of a kind.
    #[must_use]
    pub fn of(&self, kind: EventType) -> Vec<&NewEvent> {
        self.events.iter().filter(|event| event.kind == kind).collect()
    }
}
