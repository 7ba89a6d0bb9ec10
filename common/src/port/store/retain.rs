//! Retention: what is old goes, in bounded steps.

use async_trait::async_trait;

use super::StoreError;
use crate::domain::{JobId, Timestamp};

/// A place in the walk over finished jobs, oldest first: after this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passed {
    /// When it finished.
    pub finished_at: Timestamp,
    /// Which it is.
    pub id: JobId,
}

/// What one step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Rows that are gone.
    pub removed: u64,
    /// Where to go on; `None`: the walk is at its end. What has to stay is passed by, so that it holds up nothing.
    pub next: Option<Passed>,
}

/// Retention. Each step is one short transaction that touches at most `limit` jobs and `limit` events.
#[async_trait]
pub trait Retains: Send + Sync {
    /// Drops events of jobs that finished before `before`. A stream loses nothing but its beginning: a session's only up to
    /// the first event of a job that is not as old.
    async fn drop_events(&self, before: Timestamp, after: Option<Passed>, limit: u32) -> Result<Step, StoreError>;

    /// Deletes jobs that finished before `before`, with their effects, questions and dedup keys, once their events are gone and nothing
    /// refers to them: no retry, no child, no dedup key that still holds at `now`; and no child before its parent may go.
    /// Sessions, their messages and usage stay; an approval for a session ends with the job it was given in.
    async fn delete_jobs(
        &self,
        before: Timestamp,
        after: Option<Passed>,
        limit: u32,
        now: Timestamp,
    ) -> Result<Step, StoreError>;

    /// Drops contents of attachments that were last sent before `before` and that no task came with, up to `limit`. Returns how
    /// many.
    async fn drop_attachments(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;

    /// Drops events of boards that are older than `before`, up to `limit`. A stream loses nothing but its beginning. Returns how
    /// many.
    async fn drop_board_events(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;

    /// Drops lines of the audit that are older than `before`, up to `limit`. Returns how many.
    async fn drop_activities(&self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;
}
