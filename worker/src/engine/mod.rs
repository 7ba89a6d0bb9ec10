//! What runs prompts. One trait, one file an engine.
//!
//! An engine turns a [`Turn`] into events and an end. It knows nothing of jobs' states, leases or stores: the task
//! handler writes its events under the fence, decides what follows a failure, and tells it to stop.

mod claude;
mod claude_api;
mod command;
mod echo;
mod ledger;
mod link;
mod openai_compatible;
mod openclaw;
mod parts;
pub(crate) mod places;
mod prices;
mod program;
mod server;
mod tail;
mod text;
mod toolbox;
pub mod trial;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use errand_common::{
    config,
    domain::{
        AttachmentContent, AttachmentRef, EventType, FailureClass, JobId, Message, NewEvent, SessionId, Timestamp, gate,
    },
    port::store::EngineState,
    wire::{engine::EngineInfo, task::TaskUser},
};
use futures::future::join_all;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use ledger::{Ledger, Spending};
pub use link::{Freely, Link, Passage};

/// What an engine can do beyond running a prompt to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Emits text while it works, not only at the end.
    pub streaming: bool,
    /// Takes more text into a live run.
    pub steer: bool,
    /// A later run can go on where an earlier one stopped.
    pub resume: bool,
    /// Asks before it uses tools.
    pub approvals: bool,
    /// Takes images and documents.
    pub attachments: bool,
    /// Is given the session's earlier messages.
    pub history: bool,
    /// Spends tokens and says how many: a run that dies leaves a record that its usage is unknown.
    pub metered: bool,
}

/// Whether an engine could run a prompt now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Availability {
    /// Yes.
    Available,
    /// No, and why, in words for the operator.
    Unavailable(String),
}

/// One prompt to run.
#[derive(Clone, Debug)]
pub struct Turn {
    /// The job; for the engine's own bookkeeping (`ERRAND_TASK_ID`).
    pub job_id: JobId,
    /// Whose it is.
    pub tenant: String,
    /// Who asked, if a user's token said so.
    pub user: Option<TaskUser>,
    /// The conversation.
    pub session_id: Option<SessionId>,
    /// Which attempt this is.
    pub attempt: u32,
    /// What to do.
    pub prompt: String,
    /// For the engine.
    pub system_prompt: Option<String>,
    /// Bounds the engine's rounds.
    pub max_turns: u32,
    /// Tools that need no approval.
    pub allowed_tools: Vec<String>,
    /// Earlier messages of the conversation, oldest first; without this prompt.
    pub history: Vec<Message>,
    /// What comes with the prompt.
    pub attachments: Vec<AttachmentRef>,
    /// The contents of all attachments, of this prompt and of the history, by their hash.
    pub contents: BTreeMap<String, AttachmentContent>,
    /// What this engine kept of the conversation when its last run in it ended or was parked.
    pub state: Option<EngineState>,
    /// What budgets leave for it, as this run begins; engines that can hold to a bound of their own are given it.
    pub remaining: Remaining,
}

/// What is left of the budgets that apply to a run; `None`: no budget bounds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Remaining {
    /// Tokens in and out.
    pub tokens: Option<u64>,
    /// Billionths of a US dollar.
    pub cost_nano_usd: Option<u64>,
}

/// How a turn ended well.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TurnEnd {
    /// What the assistant said, whole: what the history keeps. Equals the `text` events unless the engine retracted some.
    pub text: String,
    /// The model that answered, if the engine says and its usage doesn't.
    pub model: Option<String>,
}

/// How a turn ended badly.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct TurnFailure {
    /// Whether another attempt may help.
    pub class: FailureClass,
    /// For programs: `EXECUTION_ERROR`, `ENGINE_UNAVAILABLE`, …
    pub code: &'static str,
    /// One sentence for people; keeps no secret.
    pub message: String,
    /// The destination said when to come again.
    pub retry_after: Option<Duration>,
    /// The destination takes no calls now, and nothing was sent: no attempt is spent.
    pub held_back: Option<HeldBack>,
}

/// A destination that takes no calls now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldBack {
    /// When it may take some.
    pub until: Timestamp,
    /// Why it takes none.
    pub reason: gate::Reason,
}

/// The link between a run and its engine.
pub struct TurnContext {
    /// Where events go, in order. Bounded: an engine that floods waits here.
    pub events: mpsc::Sender<NewEvent>,
    /// Cancelled when the turn must stop: the engine returns soon, with everything it started gone.
    pub stop: CancellationToken,
    /// The instant by which everything must be gone, unless the lease is renewed: engines with processes hand it to
    /// their guard, which follows its changes.
    pub must_end_by: watch::Receiver<crate::guard::MonotonicInstant>,
    /// What it spends.
    pub ledger: Ledger,
    /// What it may ask of its run.
    pub link: Arc<dyn Link>,
}

/// An engine, by the name it is configured with. One value serves all runs of a worker.
#[async_trait]
pub trait Engine: Send + Sync {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Whether it could run a prompt now. Cheap: no paid call.
    async fn availability(&self) -> Availability;

    /// Runs one turn to its end. When this returns, or its future is dropped, nothing that it started runs on (dropping
    /// may take the guard up to a second).
    ///
    /// # Errors
    /// [`TurnFailure`], with a class that says whether another attempt may help. After `stop` any result will do: it is
    /// not looked at.
    async fn run(&self, turn: Turn, context: TurnContext) -> Result<TurnEnd, TurnFailure>;
}

/// Codes of failures that engines have in common, for programs.
pub mod code {
    /// The run went wrong.
    pub const EXECUTION_ERROR: &str = "EXECUTION_ERROR";
    /// The engine is missing, misconfigured or can't be reached.
    pub const ENGINE_UNAVAILABLE: &str = "ENGINE_UNAVAILABLE";
    /// More output than its limit allows.
    pub const OUTPUT_LIMIT: &str = "OUTPUT_LIMIT";
    /// The engine's credentials were refused.
    pub const ENGINE_AUTH: &str = "ENGINE_AUTH";
    /// The engine's server asks to slow down.
    pub const RATE_LIMITED: &str = "RATE_LIMITED";
    /// The account behind the engine's credentials has nothing left to spend.
    pub const QUOTA_EXHAUSTED: &str = "QUOTA_EXHAUSTED";
    /// The budgets that apply to the task leave nothing to spend.
    pub const BUDGET_EXCEEDED: &str = "BUDGET_EXCEEDED";
    /// The engine's server does not accept the request.
    pub const INVALID_REQUEST: &str = "INVALID_REQUEST";
    /// The engine's server withheld the answer.
    pub const CONTENT_FILTERED: &str = "CONTENT_FILTERED";
    /// The turn did not end within the requests to the model that it may make.
    pub const MAX_TURNS: &str = "MAX_TURNS";
    /// A wait for the engine's server was in vain.
    pub const ENGINE_TIMEOUT: &str = "ENGINE_TIMEOUT";
}

impl TurnFailure {
    /// A failure without a time to come again.
    #[must_use]
    pub fn new(class: FailureClass, code: &'static str, message: impl Into<String>) -> Self {
        Self { class, code, message: message.into(), retry_after: None, held_back: None }
    }

    /// The destination takes no calls now.
    pub(crate) fn held_back(until: Timestamp, reason: gate::Reason) -> Self {
        let failure =
            Self::new(FailureClass::Transient, code::ENGINE_UNAVAILABLE, "the destination takes no calls now");
        Self { held_back: Some(HeldBack { until, reason }), ..failure }
    }

    /// The lease passed and nobody renewed it: whoever holds the job now runs it again.
    fn lease_over() -> Self {
        let message = "was stopped because its lease could not be renewed in time";
        Self::new(FailureClass::Crash, code::EXECUTION_ERROR, message)
    }

    /// What a run that was told to stop returns; nobody looks at it.
    pub(crate) fn stopped() -> Self {
        Self::new(FailureClass::Cancelled, code::EXECUTION_ERROR, "stopped")
    }
}

impl TurnContext {
    /// Sends an event that carries text.
    ///
    /// # Errors
    /// The run is over and nobody listens: as good as a stop.
    async fn say(&self, kind: EventType, content: &str) -> Result<(), TurnFailure> {
        self.emit(NewEvent::new(kind, json!({ "content": content }))).await
    }

    /// Sends an event.
    ///
    /// # Errors
    /// As [`TurnContext::say`].
    async fn emit(&self, event: NewEvent) -> Result<(), TurnFailure> {
        self.events.send(event).await.map_err(|_| TurnFailure::stopped())
    }

    /// Does the work, unless the turn is told to stop: then the work is dropped.
    async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T, TurnFailure>>) -> Result<T, TurnFailure> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(TurnFailure::stopped()),
            done = work => done,
        }
    }

    /// Tells those who watch that all text of the turn so far is void but for `kept`, which is said again. Does no harm where
    /// no text was said.
    ///
    /// # Errors
    /// As [`TurnContext::say`].
    async fn retract(&self, kept: &str) -> Result<(), TurnFailure> {
        self.emit(NewEvent::new(EventType::TextRetracted, json!({}))).await?;
        if kept.is_empty() { Ok(()) } else { self.say(EventType::Text, kept).await }
    }
}

/// Makes the engines of a configuration. `guard_program` is what guards are made of:
/// [`crate::guard::default_program`] as a rule.
#[must_use]
pub fn build(config: &config::Config, guard_program: PathBuf) -> EngineTable {
    let guard_program: Arc<std::path::Path> = guard_program.into();
    let prices = prices::PriceTable::new(&config.prices);
    let make = |(name, engine): (&String, &config::Engine)| {
        let engine: Arc<dyn Engine> = match engine {
            config::Engine::Echo(echo) => Arc::new(echo::Echo::new(echo)),
            config::Engine::Command(command) => {
                Arc::new(command::Command::new(name, command, Arc::clone(&guard_program)))
            }
            config::Engine::OpenaiCompatible(server) => {
                let guard_program = Arc::clone(&guard_program);
                Arc::new(openai_compatible::OpenAiCompatible::new(name, server, prices.clone(), guard_program))
            }
            config::Engine::ClaudeApi(server) => {
                let guard_program = Arc::clone(&guard_program);
                Arc::new(claude_api::ClaudeApi::new(name, server, prices.clone(), guard_program))
            }
            config::Engine::Openclaw(agent) => Arc::new(openclaw::OpenClaw::new(agent)),
            config::Engine::ClaudeCodeCli(program) => {
                Arc::new(claude::ClaudeCode::new(name, program, claude::Asking::Never, Arc::clone(&guard_program)))
            }
            config::Engine::ClaudeAgentSdk(program) => {
                Arc::new(claude::ClaudeCode::new(name, program, claude::Asking::Approvals, Arc::clone(&guard_program)))
            }
        };
        (name.clone(), engine)
    };
    config.engines.table.iter().map(make).collect()
}

/// What `GET /agent/engines` shows of a worker's engines, sorted by name. Asks all of them at once whether they could
/// run; takes a few seconds at most.
pub async fn describe(table: &EngineTable, engines: &config::Engines) -> Vec<EngineInfo> {
    let described = engines.table.iter().filter_map(|(name, configured)| {
        let engine = table.get(name)?;
        Some(async move {
            let reason = match engine.availability().await {
                Availability::Available => None,
                Availability::Unavailable(reason) => Some(reason),
            };
            EngineInfo {
                name: name.clone(),
                engine_type: configured.type_name().to_owned(),
                available: reason.is_none(),
                reason,
                queue: configured.queue().to_owned(),
                capabilities: json!(engine.capabilities()),
            }
        })
    });
    join_all(described).await
}

/// The engines of a worker, by name.
pub type EngineTable = BTreeMap<String, Arc<dyn Engine>>;
