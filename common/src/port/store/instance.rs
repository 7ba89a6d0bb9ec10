//! Instances, what their bridges call back with, and tickets for streams.

use async_trait::async_trait;

use super::{Consequences, IdempotencyRecord, StoreError, StoredAnswer, coordination::Removed};
use crate::domain::{
    InstanceId, JobId, Timestamp,
    instance::{Instance, InstanceStatus, Said},
};

/// What is to be changed; `None` stays, `Some(None)` takes away.
#[derive(Clone, Default, Debug)]
pub struct InstanceChange {
    /// For people.
    pub name: Option<String>,
    /// Whose alone it is.
    pub user_id: Option<Option<String>>,
    /// Where its bridge is.
    pub server_host: Option<Option<String>>,
    /// Its bridge's port.
    pub host_port: Option<u16>,
    /// Whether it takes prompts.
    pub status: Option<InstanceStatus>,
    /// Signs the bodies of its callbacks; sealed.
    pub callback_secret: Option<Option<String>>,
    /// How often its bridge is asked.
    pub poll_seconds: Option<Option<u32>>,
}

/// Instances.
#[async_trait]
pub trait Instances: Send + Sync {
    /// Keeps an instance, and the answer to its key. `Some`: that key was used before, and nothing was made.
    async fn create_instance(
        &self,
        new: Instance,
        idempotency: Option<IdempotencyRecord>,
        now: Timestamp,
    ) -> Result<Option<StoredAnswer>, StoreError>;

    /// One.
    async fn instance(&self, tenant: &str, id: InstanceId) -> Result<Option<Instance>, StoreError>;

    /// Those of a tenant, newest first, before `before`; with `user_id` those alone that this user may use.
    async fn instances(
        &self,
        tenant: &str,
        user_id: Option<&str>,
        before: Option<InstanceId>,
        limit: u32,
    ) -> Result<Vec<Instance>, StoreError>;

    /// Changes one; what waits for its callback waits on. `None`: no such instance.
    async fn change_instance(
        &self,
        tenant: &str,
        id: InstanceId,
        change: InstanceChange,
        now: Timestamp,
    ) -> Result<Option<Instance>, StoreError>;

    /// Removes one that has no unfinished tasks. Its conversations stay.
    async fn remove_instance(&self, tenant: &str, id: InstanceId) -> Result<Removed, StoreError>;
}

/// What a bridge says of one dispatch. Who says so was verified.
#[derive(Clone, PartialEq, Debug)]
pub struct Callback {
    /// Whose job.
    pub tenant: String,
    /// Which.
    pub job_id: JobId,
    /// Which of its dispatches.
    pub ordinal: u32,
    /// What.
    pub said: Said,
}

/// What became of a callback.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// It counts.
    Accepted,
    /// It counted before: nothing happened.
    Repeated,
    /// The prompt was dispatched again under another key since: nothing happened.
    Superseded,
    /// The job had ended otherwise: nothing happened but a `late_callback` event, if it was the first.
    Late,
    /// There is no such dispatch.
    Unknown,
}

/// What bridges call back with.
#[async_trait]
pub trait Callbacks: Send + Sync {
    /// Takes callbacks. An outcome ends its job from any state it may be in: answer, message, usage, outcome and events in one
    /// transaction; a holder is told to stop, and its later write is stale. A piece becomes text. One answer per entry.
    async fn call_back(
        &self,
        batch: Vec<Callback>,
        now: Timestamp,
    ) -> Result<(Vec<Received>, Consequences), StoreError>;

    /// The instance of a job of this tenant, for what verifies its callbacks. `None`: no such job, or its instance is gone.
    async fn instance_of(&self, tenant: &str, job: JobId) -> Result<Option<Instance>, StoreError>;

    /// Fails, class `timeout`, what has waited for its callback long enough; `message` is for people. Returns how many.
    async fn expire_callbacks(
        &self,
        message: &str,
        now: Timestamp,
        limit: u32,
    ) -> Result<(usize, Consequences), StoreError>;

    /// Makes a job that asks the bridge, for each that waits for its callback and is to be asked about now; and says when it is to
    /// be asked about again. Returns how many.
    async fn poll_callbacks(&self, now: Timestamp, limit: u32) -> Result<(usize, Consequences), StoreError>;
}

/// Tickets that open one stream each.
#[async_trait]
pub trait Tickets: Send + Sync {
    /// Keeps a ticket: SHA-256 of it in hex, and whom it stands for, as JSON that the api alone reads.
    async fn keep_ticket(&self, hash: &str, caller: &str, expires_at: Timestamp) -> Result<(), StoreError>;

    /// Uses a ticket up. `None`: there is none, it was used, or its time is over.
    async fn take_ticket(&self, hash: &str, now: Timestamp) -> Result<Option<String>, StoreError>;

    /// Drops tickets whose time is over, at most `limit`. Returns how many.
    async fn drop_tickets(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError>;
}
