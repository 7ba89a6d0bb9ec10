//! What the sweeper asks. Takes no hint about what changed; every round is bounded by `limit` and idempotent.

use std::time::Duration;

use async_trait::async_trait;

use super::{Consequences, StoreError};
use crate::{
    domain::{Job, JobId, SessionId, Timestamp},
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

/// A queued job, and since when it has been due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Queued {
    /// What the queue is told.
    pub ready: Ready,
    /// Since when.
    pub run_at: Timestamp,
    /// Its queue is paused: nobody is to be told of it.
    pub is_paused: bool,
}

/// Due jobs as read from the store.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Due {
    /// Ids to claim, best first.
    pub ids: Vec<JobId>,
    /// The last tenant that this look reached, if there are more.
    pub last_tenant: Option<String>,
}

/// A run whose lease was ended from outside.
#[derive(Clone, Debug)]
pub struct LostRun {
    /// The job as that run held it, without its payload.
    pub job: Job,
    /// Which of its runs.
    pub claim: i64,
    /// Since when.
    pub claimed_at: Option<Timestamp>,
}

/// What one look at waiting sessions found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Unblocked {
    /// How many tasks it freed.
    pub freed: usize,
    /// Where the next look goes on; `None`: that was the last of them.
    pub next: Option<SessionId>,
}

/// What the sweeper asks, and what workers ask while the queue can't tell.
#[async_trait]
pub trait Sweeps: Send + Sync {
    /// Queued jobs by queue, tenant, priority and id, after `after`, or else from `queue` on, which may be empty: what a
    /// queue that lost everything must be told.
    async fn queued(&self, queue: &str, after: Option<&Ready>, limit: u32) -> Result<Vec<Queued>, StoreError>;

    /// Names of queues with queued jobs, in order, at most `limit`.
    async fn queue_names(&self, limit: u32) -> Result<Vec<String>, StoreError>;

    /// Some `limit` queued jobs of `queues`, for a worker that reads them without the queue: tenants in turn, those
    /// after `after_tenant`, of each the urgent first and of those the older. Which of several equals come is left to chance,
    /// so that workers who ask at the same time don't all get the same. Costs the same however many wait.
    async fn due(&self, queues: &[String], after_tenant: Option<&str>, limit: u32) -> Result<Due, StoreError>;

    /// Scheduled and retrying jobs due by `until`, soonest first.
    async fn upcoming(&self, until: Timestamp, limit: u32) -> Result<Vec<Ready>, StoreError>;

    /// Ends leases that have passed. A run whose worker is gone crashed: the next attempt is due at once, or the job
    /// fails if that was the last, or if it was the job's third crash (code `QUARANTINED`, with the workers it took along).
    /// A run whose worker lives, or said good-bye, is handed back: no attempt spent.
    /// Returns the runs whose leases it ended.
    async fn rescue(
        &self,
        scope: RescueScope,
        now: Timestamp,
        limit: u32,
    ) -> Result<(Vec<LostRun>, Consequences), StoreError>;

    /// Expires what was not started by its `expires_at` or `deadline`; fails, as `timeout`, what was started and is past its
    /// `deadline`, and cancels the children of those with any. Returns how many it expired or failed.
    async fn expire(&self, now: Timestamp, limit: u32) -> Result<(usize, Consequences), StoreError>;

    /// Looks at `limit` sessions with waiting tasks, after `after`, and frees the next task of those where nothing is in the
    /// way any more. Likewise successors under a dedup key whose predecessor has ended.
    async fn unblock(
        &self,
        after: Option<SessionId>,
        now: Timestamp,
        limit: u32,
    ) -> Result<(Unblocked, Consequences), StoreError>;

    /// Forgets idempotency keys whose time has passed and whose jobs are gone; puts the others off, so that they don't stand
    /// before those: to when their jobs may go, which are kept for `jobs_kept` after their end, and by an hour at least.
    /// Dedup keys go once their window is over and their job has ended. Returns how many it forgot.
    async fn forget_keys(&self, now: Timestamp, jobs_kept: Option<Duration>, limit: u32) -> Result<u64, StoreError>;
}
