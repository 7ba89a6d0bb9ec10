//! What tenants choose for themselves.

use async_trait::async_trait;

use super::StoreError;
use crate::domain::Timestamp;

/// What tenants choose for themselves.
#[async_trait]
pub trait Preferences: Send + Sync {
    /// The engine of a tenant's tasks that name none, if the tenant chose one.
    async fn default_engine(&self, tenant: &str) -> Result<Option<String>, StoreError>;

    /// Chooses it.
    async fn choose_engine(&self, tenant: &str, engine: &str, now: Timestamp) -> Result<(), StoreError>;
}
