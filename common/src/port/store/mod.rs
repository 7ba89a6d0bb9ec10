//! The store: the only truth.
//!
//! Promises of every method:
//! * It is one transaction: all of it happened, or nothing. A future dropped half-way leaves no half state.
//! * State changes are exactly those of [`crate::domain::lifecycle`], each guarded on the state it starts from.
//! * Every change of a job's state appends an event in the same transaction; numbers in a stream are gap-free from 1.
//! * Writes of a run carry its [`crate::domain::Fence`]; a stale one is refused with [`Stale`] and changes nothing.
//! * Leases are set and judged by the database's own clock; every other time is an argument.
//! * Batches lock rows in a fixed order (keys, sessions, jobs, then parents, each by id; a job locked later than that belongs to
//!   a session, or waits for a job, locked before; then gateways, boards, agents; boards whose streams go on come last, by id)
//!   and give one result per entry. A question is changed under the lock of its job alone.
//! * Whoever ends a job also frees its successor, tells its parent and, if it was the last child, ends the parent; withdraws the
//!   question it asks; writes its line of the audit; and makes the deliveries that tell of it ([`Webhooks`]).
//!
//! What must be told to the rest of the fleet after the commit is returned as [`Consequences`];
//! [`crate::backend::Backend::dispatch`] tells it. If nobody does, the sweep finds it.

mod access;
mod approval;
mod attachment;
mod control;
pub mod coordination;
mod effect;
mod engine_state;
mod fleet;
mod instance;
mod preference;
mod read;
mod restore;
mod retain;
mod retry;
mod run;
mod sealing;
mod submit;
mod sweep;
mod usage;
mod webhook;

pub use access::{Access, ApiKey, NewApiKey, Scope};
pub use approval::{Approvals, Ask, Asked, Park, Parked, Ruled, Ruling, Verdict};
pub use attachment::Attachments;
pub use control::{Control, DrainAsked, PausedQueue};
pub use effect::{EffectReceipt, Effects, Intend, Intended, NewEffect};
pub use engine_state::{EngineState, EngineStates};
pub use fleet::{Fleet, WorkerInfo};
pub use instance::{Callback, Callbacks, InstanceChange, Instances, Received, Tickets};
pub use preference::Preferences;
pub use read::{JobFilter, QueueStats, Reads, SessionFilter, StreamState};
pub use restore::Restore;
pub use retain::{Passed, Retains, Step};
pub use retry::{Retried, Retries, Unsuccessful, UnsuccessfulFilter};
pub use run::{AgentWritten, Append, Claimed, Claims, Finish, Outcome, Release, Runs, Stale};
pub use sealing::SealingKey;
pub use submit::{
    BroadcastMessage, CancelRequest, CancelResult, Created, IdempotencyRecord, Interruption, NewBroadcast,
    NewCoordination, NewJob, NewTask, Refused, StoredAnswer, Submission, Submissions, Submitted, Window,
};
pub use sweep::{Due, LostRun, Queued, RescueScope, Sweeps, Unblocked};
pub use usage::{Spent, SpentBy, UsageFilter, UsageGroup, UsageReads, UsageSum};
pub use webhook::{Delivery, DeliveryFilter, NewWebhook, WebhookChange, Webhooks};

use crate::domain::{Event, JobId, JobState, WorkerId};

use super::Ready;

/// A store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database can't be reached or refuses to work now. Try again later; nothing happened.
    #[error("the database is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A row holds what no version of Errand writes.
    #[error("the database holds a value that can't be read: {0}")]
    Corrupt(String),
    /// The statement itself was refused: a defect of Errand.
    #[error("the database refused a statement")]
    Refused(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A run of a worker that is to be told something: to stop because its job is no longer its, or that a decision was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop {
    /// Who runs it.
    pub worker_id: WorkerId,
    /// What.
    pub job_id: JobId,
    /// Under which claim.
    pub claim: i64,
}

/// A job that has reached a terminal state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Its kind.
    pub kind: String,
    /// The state.
    pub outcome: JobState,
}

/// What a transaction means for the rest of the fleet. Telling it is latency; the sweep is truth.
#[derive(Clone, PartialEq, Debug, Default)]
#[must_use = "dispatch them, or the fleet learns late"]
pub struct Consequences {
    /// Committed events, for those who watch.
    pub events: Vec<Event>,
    /// Jobs that became due, or will.
    pub ready: Vec<Ready>,
    /// Runs that must stop.
    pub stops: Vec<Stop>,
    /// Runs about whose tool calls something was decided.
    pub decided: Vec<Stop>,
    /// Jobs that ended, to be counted.
    pub ended: Vec<Ended>,
}

impl Consequences {
    /// Adds those of another transaction.
    pub fn extend(&mut self, other: Self) {
        self.events.extend(other.events);
        self.ready.extend(other.ready);
        self.stops.extend(other.stops);
        self.decided.extend(other.decided);
        self.ended.extend(other.ended);
    }
}

/// All of the store.
pub trait Store:
    Submissions
    + Retries
    + Runs
    + Approvals
    + EngineStates
    + Attachments
    + UsageReads
    + Preferences
    + Sweeps
    + Retains
    + Reads
    + Access
    + Fleet
    + Effects
    + Control
    + Restore
    + SealingKey
    + Instances
    + Callbacks
    + Tickets
    + Webhooks
    + coordination::Coordination
{
}

impl<
    T: Submissions
        + Retries
        + Runs
        + Approvals
        + EngineStates
        + Attachments
        + UsageReads
        + Preferences
        + Sweeps
        + Retains
        + Reads
        + Access
        + Fleet
        + Effects
        + Control
        + Restore
        + SealingKey
        + Instances
        + Callbacks
        + Tickets
        + Webhooks
        + coordination::Coordination,
> Store for T
{
}
