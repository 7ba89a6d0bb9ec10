//! What the sweeper asks. Takes no hint about what changed; every round is bounded by `limit` and idempotent.

use async_trait::async_trait;

use super::{Consequences, StoreError};
use crate::{
    domain::{JobId, Timestamp},
    port::Ready,
};

/// Which leases to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RescueScope {
    /// Those that have passed.
    Lapsed,
    /// All: only for who knows that no holder lives, because it holds the lock of an embedded database.
    All,
}

/// What the sweeper asks.
#[async_trait]
pub trait Sweeps: Send + Sync {
    /// Queued jobs in id order, after `after`: what a queue that lost everything must be told.
    async fn queued(&self, after: Option<JobId>, limit: u32) -> Result<Vec<Ready>, StoreError>;

    /// Scheduled and retrying jobs due by `until`, soonest first.
    async fn upcoming(&self, until: Timestamp, limit: u32) -> Result<Vec<Ready>, StoreError>;

    /// Ends leases that have passed. A run whose worker is gone crashed: the next attempt is due at once, or the job
    /// fails if that was the last. A run whose worker lives, or said good-bye, is handed back: no attempt spent.
    /// Returns how many leases it ended.
    async fn rescue(&self, scope: RescueScope, now: Timestamp, limit: u32)
    -> Result<(usize, Consequences), StoreError>;

    /// Expires what was not started by its `expires_at` or `deadline`; fails, as `timeout`, what was started and is past its
    /// `deadline`, and cancels the children of those with any. Returns how many it expired or failed.
    async fn expire(&self, now: Timestamp, limit: u32) -> Result<(usize, Consequences), StoreError>;

    /// Frees the next task of sessions where nothing is in the way any more, and successors under a dedup key whose
    /// predecessor has ended. Returns how many.
    async fn unblock(&self, now: Timestamp, limit: u32) -> Result<(usize, Consequences), StoreError>;

    /// Forgets idempotency and dedup keys whose time has passed and whose jobs have ended; puts off those whose jobs have not by an
    /// hour, so that they don't stand before the others. Returns how many it forgot.
    async fn forget_keys(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError>;
}
