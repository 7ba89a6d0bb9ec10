//! What workers write. Everything here but `claim` carries a fence.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::{Consequences, EffectReceipt, EngineState, StoreError, Window, coordination::Provisioned};
use crate::domain::{
    AgentId, Failure, Fence, Job, JobId, Message, NewEvent, SessionId, Timestamp, UsageReport, WorkerId,
};

/// The fence is no longer the job's: another claim was made, the job was cancelled, or its lease was ended.
/// The holder must stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the claim is no longer valid")]
pub struct Stale;

/// A job in the hands of a worker.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The job, with its payload, as it is now.
    pub job: Job,
    /// To be shown with every write.
    pub fence: Fence,
    /// Since when it has only been snoozed; `None` if the last run did something.
    pub snoozed_since: Option<Timestamp>,
    /// When a run of it last ended without a word: its worker died, or lost the lease. What that run had done by then is
    /// not known.
    pub cut_off_at: Option<Timestamp>,
    /// A run of it was parked with what its engine needs to go on: what was said until then stands, and this run goes on from
    /// there.
    pub resumes: bool,
    /// Of a job of coordination: when its time to be delivered is over. `None`: it has none, or was not sent yet.
    pub window_ends_at: Option<Timestamp>,
    /// Of a job of coordination: how long it may be tried.
    pub window: Option<Window>,
}

/// What a claim brought.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Ours now, in the order asked for.
    pub claimed: Vec<Claimed>,
    /// Due, but workers died of them, or beside them, too often: to be claimed with [`Runs::claim_alone`] only.
    pub suspects: Vec<JobId>,
}

/// Events of a run.
#[derive(Clone, Debug)]
pub struct Append {
    /// Whose.
    pub fence: Fence,
    /// In order.
    pub events: Vec<NewEvent>,
}

/// How a run ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// Done.
    Completed {
        /// Becomes the job's `result` and the `completed` event's data: an object.
        result: Value,
        /// What the assistant said, for the history of its session.
        message: Option<String>,
    },
    /// Given up.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// Delivered, and waits for an answer without a holder. If that came before this, nothing is left to write: stale.
    AwaitingAnswer {
        /// What is known by now, as the job's `result` until the answer comes: an object.
        result: Value,
    },
    /// A bridge has it, and calls back. If that came before this, nothing is left to write: stale.
    AwaitingCallback {
        /// Until when it is waited for; then the job fails, class `timeout`.
        until: Timestamp,
        /// How often the bridge is asked meanwhile; `None`: never.
        poll_every: Option<Duration>,
    },
    /// To be tried again, as the next attempt.
    Retry {
        /// Why this attempt failed.
        failure: Failure,
        /// When the next is due.
        run_at: Timestamp,
    },
    /// Put off without spending an attempt.
    Snoozed {
        /// When it is due again.
        run_at: Timestamp,
        /// One word for the timeline: `unknown_kind`, …
        reason: String,
    },
    /// Put off without spending an attempt because its destination takes no calls now. Unlike [`Outcome::Snoozed`] it
    /// does not count as waiting for a worker that can run it.
    HeldBack {
        /// When it is due again.
        run_at: Timestamp,
        /// One word for the timeline: `destination_busy`, …
        reason: String,
    },
    /// Given back unharmed (drain): due at once, no attempt spent. A job that waits for a person waits on, as after
    /// [`super::Approvals::park`]; every other outcome withdraws what it asks.
    HandedBack {
        /// One word for the timeline: `drain`, …
        reason: String,
    },
}

/// The end of a run.
#[derive(Clone, Debug)]
pub struct Finish {
    /// Whose.
    pub fence: Fence,
    /// Last events, written before the one of the outcome.
    pub events: Vec<NewEvent>,
    /// Receipts of its effects that are not written yet.
    pub receipts: Vec<EffectReceipt>,
    /// How it ended.
    pub outcome: Outcome,
    /// What it spent. One record a claim: whoever writes it first.
    pub usage: Option<UsageReport>,
    /// What its engine needs to go on with the conversation.
    pub engine_state: Option<EngineState>,
    /// What it did to an agent, kept with its end.
    pub agent: Option<AgentWritten>,
}

/// What a run did to an agent of a gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AgentWritten {
    /// The gateway has this `SOUL.md` now.
    Soul {
        /// Whose.
        agent_id: AgentId,
        /// What.
        content: String,
        /// SHA-256 of it, in hex.
        hash: String,
    },
    /// A provisioning ended.
    Provisioned {
        /// Whose.
        agent_id: AgentId,
        /// How.
        how: Provisioned,
    },
}

impl Finish {
    /// An end and nothing else.
    #[must_use]
    pub const fn new(fence: Fence, outcome: Outcome) -> Self {
        Self { fence, events: Vec::new(), receipts: Vec::new(), outcome, usage: None, engine_state: None, agent: None }
    }
}

impl From<Fence> for Release {
    fn from(fence: Fence) -> Self {
        Self { fence, usage: None, engine_state: None }
    }
}

/// What the holder of a job that was ended while it ran has left to say.
#[derive(Clone, Debug)]
pub struct Release {
    /// Whose.
    pub fence: Fence,
    /// What it spent.
    pub usage: Option<UsageReport>,
    /// What its engine needs to go on with the conversation.
    pub engine_state: Option<EngineState>,
}

/// What workers write.
#[async_trait]
pub trait Runs: Send + Sync {
    /// Promotes ids whose time has come (`scheduled` or `retrying`, `run_at` ≤ `now`) to `queued`, or, where their
    /// session is busy, does what their `onBusy` says. Those promoted are in the consequences' `ready`.
    async fn promote(&self, ids: &[JobId], now: Timestamp) -> Result<Consequences, StoreError>;

    /// Claims those of `ids` that are `queued` and not past `expires_at`: state, `claim` +1, lease, `started` event. Ids that
    /// can't be claimed are left out. Text that an earlier run of the same job showed is retracted by an event here; what it
    /// showed before it was parked with its engine's state stands.
    /// Suspects, jobs with [`crate::domain::poison::SUSPECT_CRASHES`] or more crashes, are not claimed but named.
    async fn claim(
        &self,
        worker: WorkerId,
        lease: Duration,
        ids: &[JobId],
        now: Timestamp,
    ) -> Result<(Claims, Consequences), StoreError>;

    /// As [`Runs::claim`], of one job that may be a suspect: nothing else runs on this worker.
    async fn claim_alone(
        &self,
        worker: WorkerId,
        lease: Duration,
        id: JobId,
        now: Timestamp,
    ) -> Result<(Option<Claimed>, Consequences), StoreError>;

    /// Moves the lease's end to `lease` from now, by the database's clock. One answer per fence: the new end, or
    /// [`Stale`]. Does not wait for a connection that other work holds.
    async fn renew(&self, lease: Duration, fences: &[Fence]) -> Result<Vec<Result<Timestamp, Stale>>, StoreError>;

    /// Appends events. One answer per entry.
    async fn append(
        &self,
        batch: Vec<Append>,
        now: Timestamp,
    ) -> Result<(Vec<Result<(), Stale>>, Consequences), StoreError>;

    /// Ends runs: last events, outcome, result, history and the session's next task, all in one transaction.
    /// One answer per entry.
    async fn finish(
        &self,
        batch: Vec<Finish>,
        now: Timestamp,
    ) -> Result<(Vec<Result<(), Stale>>, Consequences), StoreError>;

    /// The one write accepted under the claim of a job that was ended while it ran, once: its process tree is gone. Frees
    /// the session's next task. [`Stale`] if it was released before, or its run ended by itself.
    async fn release(&self, release: Release, now: Timestamp) -> Result<(Result<(), Stale>, Consequences), StoreError>;

    /// The last `limit` messages of a session, oldest first, without those that `job` itself brought.
    async fn history(&self, session: SessionId, job: JobId, limit: u32) -> Result<Vec<Message>, StoreError>;
}
