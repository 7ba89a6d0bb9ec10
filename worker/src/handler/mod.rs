//! What does the work of each kind.

pub(crate) mod asking;
pub(crate) mod http;
mod instance;
mod journal;
mod message;
mod provision;
mod recipient;
mod soul;
pub(crate) mod task;
mod webhook;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use errand_common::{
    backend::Backend,
    config,
    domain::{ApprovalId, FailureClass, Job, NewEvent, Receipt, Timestamp},
    port::store::{AgentWritten, Ask, Asked, Claimed, EffectReceipt, EngineState, Intended, NewEffect, WorkerInfo},
    wire,
};
use serde_json::Value;

use crate::{
    directory::Directory,
    engine::{EngineTable, Ledger},
    registry::Run,
    warm::{Place, Warm},
    writer::{Outbox, Unwritten, Writer},
};

/// What a handler brings home.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Completion {
    /// The job's result: an object.
    pub(crate) result: Value,
    /// What the assistant said, for the history of the job's session.
    pub(crate) message: Option<String>,
    /// What the job now waits for; the result is what is known by now.
    pub(crate) waits: Waits,
}

/// What a job waits for once its handler has come home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waits {
    /// Nothing: it is done.
    Nothing,
    /// A person's answer.
    Answer,
    /// A bridge's callback.
    Callback {
        /// Until then.
        until: Timestamp,
        /// How often the bridge is asked meanwhile.
        poll_every: Option<Duration>,
    },
}

impl Completion {
    /// An end with nothing to say.
    pub(crate) const fn new(result: Value) -> Self {
        Self { result, message: None, waits: Waits::Nothing }
    }
}

/// Why a handler brings nothing home.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum HandlerFailure {
    /// The attempt failed.
    Failed {
        /// Whether another may help.
        class: FailureClass,
        /// For programs.
        code: &'static str,
        /// For people.
        message: String,
        /// The destination said when to come again.
        retry_after: Option<Duration>,
    },
    /// Something was sent, and nobody knows what came of it. The destination does what comes twice under one key once, so
    /// another attempt clears it up; if there is none, the outcome stays unknown.
    InDoubt {
        /// For people.
        message: String,
    },
    /// The destination takes no calls now: nothing was sent.
    HeldBack {
        /// When it may take some.
        until: Timestamp,
        /// Why, in one word for the timeline.
        reason: &'static str,
    },
    /// This worker lacks what the job needs; another may have it.
    Missing(Missing),
}

/// Something a worker must have for a job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Missing {
    /// A handler for this kind.
    Kind(String),
    /// A handler for this kind that reads payloads of this version.
    Version {
        /// The kind.
        kind: String,
        /// The payload's version.
        version: u32,
    },
    /// The engine with this name.
    Engine(String),
}

impl Missing {
    /// Nobody here knows the job's kind.
    pub(crate) fn kind_of(job: &Job) -> Self {
        Self::Kind(job.kind.clone())
    }

    /// The job's payload is newer than its handler here.
    pub(crate) fn version_of(job: &Job) -> Self {
        Self::Version { kind: job.kind.clone(), version: job.payload_version }
    }

    /// One word for the timeline while the job waits.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Kind(_) => "unknown_kind",
            Self::Version { .. } => "unknown_version",
            Self::Engine(_) => "unknown_engine",
        }
    }

    /// For programs, when the job has waited long enough.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Kind(_) => "UNKNOWN_KIND",
            Self::Version { .. } => "UNKNOWN_VERSION",
            Self::Engine(_) => "UNKNOWN_ENGINE",
        }
    }

    /// For people, when the job has waited long enough.
    pub(crate) fn message(&self, waited: Duration) -> String {
        let seconds = waited.as_secs();
        match self {
            Self::Kind(kind) => {
                format!("no worker knows the kind {kind:?}; waited {seconds} s for one that does")
            }
            Self::Version { kind, version } => {
                format!(
                    "no worker reads version {version} of the kind {kind:?}; waited {seconds} s for one that does (update \
                     the workers)"
                )
            }
            Self::Engine(name) => {
                format!("no worker has the engine {name:?}; waited {seconds} s for one that has it (see [engines])")
            }
        }
    }

    /// Whether `worker` has it, for jobs of `queue`.
    pub(crate) fn is_at(&self, worker: &WorkerInfo, queue: &str) -> bool {
        let has_it = match self {
            Self::Kind(kind) => worker.kinds.contains_key(kind),
            Self::Version { kind, version } => worker.kinds.get(kind).is_some_and(|reads| reads >= version),
            Self::Engine(name) => worker.engines.iter().any(|engine| engine.name == *name),
        };
        has_it && worker.queues.iter().any(|name| name == queue)
    }
}

/// The link between a handler and its run.
pub(crate) struct RunContext {
    /// Truth, for what a handler must read.
    pub(crate) backend: Backend,
    /// Told when to stop, and until when the lease holds.
    pub(crate) run: Arc<Run>,
    writer: Writer,
    outbox: Arc<Outbox>,
    warm: Arc<Warm>,
}

impl RunContext {
    pub(crate) const fn new(
        backend: Backend,
        run: Arc<Run>,
        writer: Writer,
        outbox: Arc<Outbox>,
        warm: Arc<Warm>,
    ) -> Self {
        Self { backend, run, writer, outbox, warm }
    }

    /// Shows an event; waits while too many of this run's are on their way.
    pub(crate) async fn event(&self, event: NewEvent) {
        self.writer.event(&self.outbox, event).await;
    }

    /// Writes that something is about to be done outside, or finds what is known of it.
    pub(crate) async fn intend(&self, effect: NewEffect) -> Result<Intended, Unwritten> {
        self.writer.intend(&self.outbox, effect).await
    }

    /// Asks a person, after all that was said before, whether calls may be made.
    pub(crate) async fn ask(&self, asks: Vec<Ask>, expires_at: Timestamp) -> Result<Asked, Unwritten> {
        self.writer.ask(&self.outbox, asks, expires_at).await
    }

    /// Asks these no more.
    pub(crate) async fn withdraw(&self, ids: Vec<ApprovalId>) -> Result<(), Unwritten> {
        self.writer.withdraw(&self.outbox, ids).await
    }

    /// The run waits for a person while it holds what this returns: see [`Warm::enter`].
    pub(crate) fn wait_for_person(&self, can_be_parked: bool) -> Option<Place> {
        self.warm.enter(&self.run, can_be_parked)
    }

    /// What the run spends.
    pub(crate) fn ledger(&self) -> &Ledger {
        self.outbox.ledger()
    }

    /// Keeps what the run's engine needs to go on, to be written with the run's end.
    pub(crate) fn checkpoint(&self, state: EngineState) {
        self.outbox.checkpoint(state);
    }

    /// Keeps what the run did to an agent of a gateway: it is written with the run's end, if that is a good one.
    pub(crate) fn wrote_agent(&self, written: AgentWritten) {
        self.outbox.wrote_agent(written);
    }

    /// Keeps what came of it: it is written with the run's next intent, or its end.
    pub(crate) fn receipt(&self, ordinal: u32, receipt: Receipt) {
        self.writer.receipt(&self.outbox, EffectReceipt { ordinal, receipt });
    }
}

/// What the job says about how long an attempt may take.
pub(crate) fn asked_limit(claimed: &Claimed) -> Option<Duration> {
    claimed.job.timeout_ms.and_then(|millis| u64::try_from(millis).ok()).map(Duration::from_millis)
}

/// Does the work of one kind. One value serves all runs of a worker.
#[async_trait]
pub(crate) trait Handler: Send + Sync {
    /// The highest version of its kind's payload that it reads: `VERSION` of the kind in [`errand_common::wire`].
    fn version(&self) -> u32;

    /// Bounds one attempt of a job that says nothing about it.
    fn default_timeout(&self) -> Duration;

    /// Bounds this attempt.
    fn time_limit(&self, claimed: &Claimed) -> Duration {
        asked_limit(claimed).unwrap_or_else(|| self.default_timeout())
    }

    /// Makes one attempt. After the run's stop token is cancelled it returns soon. Dropping its future leaves nothing
    /// running.
    async fn run(&self, claimed: &Claimed, context: &Arc<RunContext>) -> Result<Completion, HandlerFailure>;
}

/// Handlers by kind.
pub(crate) type HandlerTable = BTreeMap<String, Arc<dyn Handler>>;

/// All handlers of this version.
pub(crate) fn table(engines: Arc<EngineTable>, directory: &Arc<Directory>, config: &config::Config) -> HandlerTable {
    use wire::coordination::{ASK_USER, LEAD_MESSAGE, NOTICE, NUDGE, PROVISION, SOUL_READ, SOUL_WRITE};
    let courier = Arc::new(message::courier::Courier::new(config));
    let task: Arc<dyn Handler> = Arc::new(task::TaskHandler::new(engines, Arc::clone(directory), config));
    let http: Arc<dyn Handler> = Arc::new(http::HttpHandler::new(config));
    let message: Arc<dyn Handler> =
        Arc::new(message::MessageHandler::new(Arc::clone(directory), Arc::clone(&courier), config));
    let soul: Arc<dyn Handler> = Arc::new(soul::SoulHandler::new(Arc::clone(directory), config));
    let provision: Arc<dyn Handler> =
        Arc::new(provision::ProvisionHandler::new(Arc::clone(directory), courier, config));
    let instance: Arc<dyn Handler> = Arc::new(instance::InstanceTaskHandler::new(config));
    let poll: Arc<dyn Handler> = Arc::new(instance::poll::PollHandler::new(config));
    let mut table = BTreeMap::from([(wire::task::KIND, task), (wire::http::KIND, http), (PROVISION, provision)]);
    table.extend([(wire::instance::KIND, instance), (wire::instance::POLL, poll)]);
    let webhook: Arc<dyn Handler> = Arc::new(webhook::WebhookHandler::new(config));
    table.insert(wire::webhook::KIND, webhook);
    table.extend([NUDGE, ASK_USER, LEAD_MESSAGE, NOTICE].map(|kind| (kind, Arc::clone(&message))));
    table.extend([SOUL_READ, SOUL_WRITE].map(|kind| (kind, Arc::clone(&soul))));
    table.into_iter().map(|(kind, handler)| (kind.to_owned(), handler)).collect()
}

#[cfg(test)]
mod tests {
    use errand_common::domain::{Timestamp, WorkerId};

    use super::*;

    #[test]
    fn a_worker_that_never_takes_from_the_queue_helps_no_job_of_it() {
        let worker = WorkerInfo {
            id: WorkerId::new(),
            host: "h".into(),
            version: "0".into(),
            queues: vec!["gpu".into()],
            kinds: BTreeMap::from([("task".into(), 1)]),
            engines: vec![],
            concurrency: 1,
            running: 0,
            draining: false,
            drainable: true,
            started_at: Timestamp::default(),
            alive_until: Timestamp::default(),
        };
        let missing = Missing::Kind("task".into());
        assert!(missing.is_at(&worker, "gpu"));
        assert!(!missing.is_at(&worker, "default"));
        assert!(!Missing::Kind("teleport".into()).is_at(&worker, "gpu"));
        let version = |version| Missing::Version { kind: "task".into(), version };
        assert!(version(1).is_at(&worker, "gpu"));
        assert!(!version(2).is_at(&worker, "gpu"), "it reads version 1 only");
    }
}
