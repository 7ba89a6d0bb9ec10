//! Which workers live.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::domain::{Timestamp, WorkerId};
use crate::wire::engine::EngineInfo;

/// A worker as registered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Random per process start.
    pub id: WorkerId,
    /// Host name.
    pub host: String,
    /// Version of Errand.
    pub version: String,
    /// Queues it takes from.
    pub queues: Vec<String>,
    /// Kinds it has handlers for, each with the highest payload version that its handler reads.
    pub kinds: BTreeMap<String, u32>,
    /// Its engines with availability and capabilities, as `GET /agent/engines` shows them.
    pub engines: Vec<EngineInfo>,
    /// Jobs it may run at once.
    pub concurrency: u32,
    /// Jobs it runs now.
    pub running: u32,
    /// It claims nothing more and ends when its runs have.
    pub draining: bool,
    /// Whether an operator may drain it: its process does a worker's work alone.
    pub drainable: bool,
    /// Registered.
    pub started_at: Timestamp,
    /// Its registration lapses then, unless renewed.
    pub alive_until: Timestamp,
}

/// Which workers live. The times are the database's.
#[async_trait]
pub trait Fleet: Send + Sync {
    /// Registers a worker, or renews its registration for `lease`; `started_at` and `alive_until` of `info` are ignored.
    /// Returns whether it is to drain: because it says so, or was asked to since.
    async fn register_worker(&self, info: &WorkerInfo, lease: Duration) -> Result<bool, StoreError>;

    /// Says good-bye: what it still holds is handed back when its leases pass.
    async fn release_worker(&self, id: WorkerId) -> Result<(), StoreError>;

    /// Takes up a duty that one worker at a time does for all, or keeps it, for `term` from now. `false`: another worker has
    /// it, and its term is not over. A worker that says good-bye lays its duties down.
    async fn take_duty(&self, duty: &str, worker: WorkerId, term: Duration) -> Result<bool, StoreError>;

    /// Workers whose registration has not lapsed.
    async fn live_workers(&self) -> Result<Vec<WorkerInfo>, StoreError>;
}
