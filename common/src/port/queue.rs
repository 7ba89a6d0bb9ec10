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

    /// Returns when something was pushed that a `pop` of these queues may want, or when `timeout` has passed.
    /// May return early. A push between the last `pop` and this call wakes it.
    async fn wait(&self, queues: &[String], timeout: Duration);
}
