//! Retries in bulk.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{Consequences, IdempotencyRecord, NewJob, StoreError, submit::StoredAnswer};
use crate::domain::{FailureClass, Job, JobId, JobState, Timestamp};

/// Which jobs that ended badly to look at, newest first.
#[derive(Clone, Debug, Default)]
pub struct UnsuccessfulFilter {
    /// Of this kind.
    pub kind: Option<String>,
    /// In one of these states; empty means any.
    pub states: Vec<JobState>,
    /// In this queue.
    pub queue: Option<String>,
    /// Submitted by this user.
    pub user_id: Option<String>,
    /// Submitted at or after.
    pub since: Option<Timestamp>,
    /// Only those older than this one.
    pub before: Option<JobId>,
    /// At most so many.
    pub limit: u32,
}

/// A job that ended badly, without what is large.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsuccessful {
    /// The job.
    pub id: JobId,
    /// Of its failure.
    pub class: Option<FailureClass>,
    /// Of its failure.
    pub code: Option<String>,
    /// A job repeats it, whatever became of that one.
    pub retried: bool,
    /// How long its payload is, in characters.
    pub payload_chars: i64,
}

/// What became of a bulk retry.
#[derive(Clone, PartialEq, Debug)]
pub enum Retried {
    /// Durable: these of the new jobs. The originals of the others were retried meanwhile.
    Done(BTreeSet<JobId>),
    /// The key was used before for the same request.
    Replayed(StoredAnswer),
    /// The key was used before for another request.
    Mismatch,
}

/// Retries in bulk.
#[async_trait]
pub trait Retries: Send + Sync {
    /// Failed, partial, cancelled and expired jobs, newest first. Children are left to their parents.
    async fn unsuccessful(&self, tenant: &str, filter: &UnsuccessfulFilter) -> Result<Vec<Unsuccessful>, StoreError>;

    /// These jobs, whole; unknown ones are left out.
    async fn jobs_by_id(&self, tenant: &str, ids: &[JobId]) -> Result<Vec<Job>, StoreError>;

    /// Makes jobs that repeat others (`retry_of`), in one transaction, but for those whose original has a retry by now. Bulk
    /// retries of one tenant take turns, so that no two of them repeat the same job.
    async fn submit_retries(
        &self,
        tenant: &str,
        jobs: Vec<NewJob>,
        idempotency: Option<IdempotencyRecord>,
        now: Timestamp,
    ) -> Result<(Retried, Consequences), StoreError>;
}
