//! What a database that came back from a backup needs.

use async_trait::async_trait;

use super::StoreError;

/// A database that came back from a backup.
#[async_trait]
pub trait Restore: Send + Sync {
    /// Gives the database a new epoch and returns it: positions that watchers remember from before mean nothing any more,
    /// as numbers are given a second time. Processes that are running keep the old one: start them afterwards.
    async fn renew_epoch(&self) -> Result<String, StoreError>;
}
