//! The key of an installation that was given none.

use async_trait::async_trait;

use super::StoreError;

/// Keeps what seals secrets where the configuration names no key.
#[async_trait]
pub trait SealingKey: Send + Sync {
    /// The key that is kept. If there is none, `fresh` is kept and returned; of several that come at once, one is.
    async fn sealing_key(&self, fresh: Option<&str>) -> Result<Option<String>, StoreError>;
}
