//! What operators order: queues that hand nothing out, and workers that stop.

use async_trait::async_trait;

use super::StoreError;
use crate::domain::{Timestamp, WorkerId};

/// A queue that hands nothing out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PausedQueue {
    /// Its name.
    pub queue: String,
    /// For whom; `None`: for everyone.
    pub tenant: Option<String>,
    /// Since when.
    pub paused_at: Timestamp,
}

/// What became of the wish that a worker drains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DrainAsked {
    /// It will: told by a signal at once, by its next registration at the latest.
    Asked,
    /// It can't be drained alone: its process does more than a worker's work.
    NotDrainable,
    /// No such worker lives.
    Unknown,
}

/// What operators order. Each is idempotent.
#[async_trait]
pub trait Control: Send + Sync {
    /// From the next claim on, jobs of this queue are left where they are: those of `tenant`, or all. What runs goes on.
    async fn pause(&self, queue: &str, tenant: Option<&str>, now: Timestamp) -> Result<(), StoreError>;

    /// Takes such an order back. One for a tenant and one for everyone are two: each is taken back by itself.
    async fn resume(&self, queue: &str, tenant: Option<&str>) -> Result<(), StoreError>;

    /// The queues that hand nothing out to this tenant, with those paused for everyone.
    async fn paused(&self, tenant: &str) -> Result<Vec<PausedQueue>, StoreError>;

    /// Asks a worker to drain and end. Telling it is the caller's; the worker's next registration finds it out.
    async fn ask_drain(&self, worker: WorkerId) -> Result<DrainAsked, StoreError>;
}
