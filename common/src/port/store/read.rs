//! What is shown. Every read by a client is scoped by tenant.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::StoreError;
use crate::domain::{
    AttachmentRef, Children, Event, InstanceId, Job, JobId, JobState, Message, Session, SessionId, Stream, Timestamp,
};

/// Which jobs to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Of this kind.
    pub kind: Option<String>,
    /// In one of these states; empty means any.
    pub states: Vec<JobState>,
    /// In this queue.
    pub queue: Option<String>,
    /// Of this session.
    pub session_id: Option<SessionId>,
    /// Children of this job.
    pub parent_id: Option<JobId>,
    /// Submitted by this user.
    pub user_id: Option<String>,
    /// Submitted at or after.
    pub since: Option<Timestamp>,
    /// Only those older than this one (the cursor).
    pub before: Option<JobId>,
    /// At most so many.
    pub limit: u32,
}

/// Which sessions to list, newest first.
#[derive(Clone, Debug, Default)]
pub struct SessionFilter {
    /// Opened by this user.
    pub user_id: Option<String>,
    /// With this instance.
    pub instance_id: Option<InstanceId>,
    /// Only those older than this one (the cursor).
    pub before: Option<SessionId>,
    /// At most so many.
    pub limit: u32,
}

/// Where a stream stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamState {
    /// Number of the oldest event kept; 1 if none was dropped.
    pub first_seq: i64,
    /// Number of the newest; 0 if none.
    pub tail_seq: i64,
    /// No more will come: the job has ended. A session's stream never ends.
    pub ended: bool,
}

/// One queue at a glance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueStats {
    /// Its name.
    pub queue: String,
    /// A non-terminal state.
    pub state: JobState,
    /// Jobs in it.
    pub count: i64,
    /// Since when the oldest of them has been due.
    pub oldest: Option<Timestamp>,
}

/// What is shown.
#[async_trait]
pub trait Reads: Send + Sync {
    /// One random value a database; a new one says that numbers start over.
    async fn epoch(&self) -> Result<String, StoreError>;

    /// Whether the database answers and has the schema this program needs.
    async fn ping(&self) -> Result<(), StoreError>;

    /// One job.
    async fn job(&self, tenant: &str, id: JobId) -> Result<Option<Job>, StoreError>;

    /// Jobs, newest first.
    async fn jobs(&self, tenant: &str, filter: &JobFilter) -> Result<Vec<Job>, StoreError>;

    /// The children of these jobs, counted by state; not scoped, for those who have read the parents. Jobs without children
    /// are left out.
    async fn children(&self, parents: &[JobId]) -> Result<BTreeMap<JobId, Children>, StoreError>;

    /// Where a stream of this tenant stands; `None`: no such stream.
    async fn stream(&self, tenant: &str, stream: Stream) -> Result<Option<StreamState>, StoreError>;

    /// Where streams stand, in one statement; not scoped, for relays that have checked the tenant before.
    /// Unknown ones are left out.
    async fn tails(&self, streams: &[Stream]) -> Result<Vec<(Stream, StreamState)>, StoreError>;

    /// Events with a number above `after`, in order; not scoped, as [`Reads::tails`].
    async fn events(&self, stream: Stream, after: i64, limit: u32) -> Result<Vec<Event>, StoreError>;

    /// The events of a job that are not its engine's talk: its transitions.
    async fn timeline(&self, id: JobId, limit: u32) -> Result<Vec<Event>, StoreError>;

    /// One session.
    async fn session(&self, tenant: &str, id: SessionId) -> Result<Option<Session>, StoreError>;

    /// Sessions, newest first.
    async fn sessions(&self, tenant: &str, filter: &SessionFilter) -> Result<Vec<Session>, StoreError>;

    /// Messages of a session with an ordinal above `after`, in order.
    async fn messages(&self, session: SessionId, after: i64, limit: u32) -> Result<Vec<Message>, StoreError>;

    /// What a session's messages say of the attachment with this hash (64 digits of hex); the last of them, if several name it. Not
    /// scoped, for those who have read the session. `None`: none of them names it.
    async fn session_attachment(&self, session: SessionId, hash: &str) -> Result<Option<AttachmentRef>, StoreError>;

    /// Counts of non-terminal jobs by queue and state; of one tenant, or of all.
    async fn queue_stats(&self, tenant: Option<&str>) -> Result<Vec<QueueStats>, StoreError>;
}
