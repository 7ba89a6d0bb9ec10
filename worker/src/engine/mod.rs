//! What runs prompts. One trait, one file an engine.
//!
//! An engine turns a [`Turn`] into events and an end. It knows nothing of jobs' states, leases or stores: the task
//! handler writes its events under the fence, decides what follows a failure, and tells it to stop.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use errand_common::domain::{FailureClass, JobId, Message, NewEvent, SessionId};
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

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
}

/// How a turn ended well.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TurnEnd {
    /// What the assistant said, whole: what the history keeps. Equals the `text` events unless the engine retracted some.
    pub text: String,
    /// Tokens in, if the engine says.
    pub input_tokens: Option<u64>,
    /// Tokens out, if the engine says.
    pub output_tokens: Option<u64>,
    /// Cost in US dollars, if the engine says.
    pub cost_usd: Option<f64>,
    /// The model that answered, if the engine says.
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
}

/// The link between a run and its engine.
pub struct TurnContext {
    /// Where events go, in order. Bounded: an engine that floods waits here.
    pub events: mpsc::Sender<NewEvent>,
    /// Cancelled when the turn must stop: the engine returns soon, with everything it started gone.
    pub stop: CancellationToken,
    /// The instant by which everything must be gone, unless the lease is renewed: engines with processes pass it to
    /// their guard, and again whenever it changes.
    pub must_end_by: watch::Receiver<crate::guard::MonotonicInstant>,
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

/// The engines of a worker, by name.
pub type EngineTable = std::collections::BTreeMap<String, Arc<dyn Engine>>;

/// Makes the engines of a configuration.
#[must_use]
pub fn build(_engines: &errand_common::config::Engines, _guard_program: std::path::PathBuf) -> EngineTable {
    EngineTable::new()
}

/// Says what each engine is and whether it could run a prompt now.
pub async fn describe(
    _table: &EngineTable,
    _engines: &errand_common::config::Engines,
) -> Vec<errand_common::wire::engine::EngineInfo> {
    Vec::new()
}
