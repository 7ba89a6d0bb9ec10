//! Who may call: API keys.

use async_trait::async_trait;

use super::{IdempotencyRecord, StoreError, StoredAnswer};
use crate::domain::{ApiKeyId, Timestamp, job::text_enum};

text_enum! {
    /// What a credential may do.
    Scope {
        /// See jobs, sessions and streams.
        JobsRead = "jobs:read",
        /// Submit.
        JobsWrite = "jobs:write",
        /// Cancel.
        JobsCancel = "jobs:cancel",
        /// Decide on tool calls.
        Approve = "approve",
        /// Everything within the tenant, keys included.
        Admin = "admin",
        /// Operate the whole installation.
        Fleet = "fleet",
    }
}

/// A key to be kept.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// Whose it is.
    pub tenant: String,
    /// For people.
    pub name: String,
    /// First characters of the secret, to find it by.
    pub prefix: String,
    /// SHA-256 of the secret, in hex.
    pub hash: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
}

/// A key as kept: never the secret.
#[derive(Clone, PartialEq, Debug)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// Whose it is.
    pub tenant: String,
    /// For people.
    pub name: String,
    /// First characters of the secret.
    pub prefix: String,
    /// SHA-256 of the secret, in hex.
    pub hash: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Made.
    pub created_at: Timestamp,
    /// No longer valid since.
    pub revoked_at: Option<Timestamp>,
}

/// Who may call.
#[async_trait]
pub trait Access: Send + Sync {
    /// Keeps a key, and with it the answer to its `Idempotency-Key` (without the secret). `Some`: that key was used
    /// before, and nothing was made. A key with the same hash stays as it is (bootstrap keys are stored at each start).
    async fn create_key(
        &self,
        key: NewApiKey,
        idempotency: Option<IdempotencyRecord>,
        now: Timestamp,
    ) -> Result<Option<StoredAnswer>, StoreError>;

    /// The valid keys with this prefix, in any tenant.
    async fn keys_by_prefix(&self, prefix: &str) -> Result<Vec<ApiKey>, StoreError>;

    /// All keys of a tenant, newest first.
    async fn keys(&self, tenant: &str) -> Result<Vec<ApiKey>, StoreError>;

    /// Ends a key's validity. `false`: no such key in this tenant.
    async fn revoke_key(&self, tenant: &str, id: ApiKeyId, now: Timestamp) -> Result<bool, StoreError>;
}
