//! The queue: an index of what is due, for latency only.

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::{JobId, Priority, Timestamp};

/// A job that is due, or will be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ready {
    /// The job.
    pub id: JobId,
    /// Whose it is: within a priority, tenants take turns.
    pub tenant: String,
    /// Where it waits.
    pub queue: String,
    /// 0 is handed out first.
    pub priority: Priority,
    /// `None`: due now (state `queued`). `Some`: due then (state `scheduled` or `retrying`), to be promoted first.
    pub due_at: Option<Timestamp>,
}

/// What [`Queue::pop`] handed out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Popped {
    /// Ids to claim, best first.
    pub ready: Vec<JobId>,
    /// Ids whose time has come, to be promoted with [`super::store::Runs::promote`] before they can be claimed.
    pub due: Vec<JobId>,
    /// When the next delayed id of these queues comes due.
    pub next_due: Option<Timestamp>,
    /// Those of the queues whose index may lack jobs, because it is new or lost its content: until somebody has refilled
    /// it, the store must be asked too.
    pub incomplete: Vec<String>,
}

/// Names one refill of one queue's index.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refill {
    /// The queue.
    pub queue: String,
    /// Random: an index that lost its content in the meantime has forgotten it.
    pub token: String,
}

/// The queue could not be reached. Callers go on without it: the store knows what is due.
#[derive(Debug, thiserror::Error)]
#[error("queue unavailable: {0}")]
pub struct QueueError(pub String);

/// Hands job ids out by priority, then tenant in turn, then in the order they came. Queues take turns, and now and then the
/// lowest priority comes first, so that nothing starves.
///
/// Promises latency, not durability: it may lose everything without losing work, may hand an id out twice, and may
/// hand out ids of jobs that are no longer due. The claim in the store decides.
#[async_trait]
pub trait Queue: Send + Sync {
    /// Adds ids. An id that is already waiting stays once, where it was.
    async fn push(&self, entries: &[Ready]) -> Result<(), QueueError>;

    /// Takes out up to `limit` ids of `queues` that are due at `now`. Never waits.
    async fn pop(&self, queues: &[String], limit: usize, now: Timestamp) -> Result<Popped, QueueError>;

    /// Those of `queues` whose index may lack jobs; as [`Popped::incomplete`], for who does not pop.
    async fn incomplete(&self, queues: &[String]) -> Result<Vec<String>, QueueError>;

    /// Begins to refill the index of a queue: the caller pushes every queued job of it, then calls [`Queue::end_refill`].
    async fn begin_refill(&self, queue: &str) -> Result<Refill, QueueError>;

    /// The index of this queue holds every job that is due: [`Popped::incomplete`] names it no longer. `false`: it lost its
    /// content, or was declared incomplete, since the refill began; begin again.
    async fn end_refill(&self, refill: &Refill) -> Result<bool, QueueError>;

    /// Declares that the indexes of these queues lack jobs, as after a pause during which due jobs were dropped.
    async fn declare_incomplete(&self, queues: &[String]) -> Result<(), QueueError>;

    /// Returns when something was pushed that a `pop` of these queues may want, or when `timeout` has passed.
    /// May return early. A push between the last `pop` and this call wakes it.
    async fn wait(&self, queues: &[String], timeout: Duration);
}
