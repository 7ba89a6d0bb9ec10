//! API keys.

use std::sync::Arc;

use errand_common::{
    domain::ApiKeyId,
    port::{Store, StoreError},
    wire::credential,
};
use subtle::ConstantTimeEq;

use super::{Caller, Unverified};

/// API keys, as the store has them.
pub(super) struct Keys(Arc<dyn Store>);

impl Keys {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self(store)
    }

    /// Who calls with this key.
    pub(super) async fn verify(&self, key: &str) -> Result<Caller, Unverified> {
        let hash = credential::hash_key(key);
        let candidates = self.0.keys_by_prefix(credential::indexed_prefix(key)).await?;
        let found = candidates
            .into_iter()
            .filter(|key| key.revoked_at.is_none())
            .find(|key| bool::from(key.hash.as_bytes().ct_eq(hash.as_bytes())));
        found.map(Caller::key).ok_or(Unverified::refused("The API key is unknown or revoked"))
    }

    /// Whether a key has not been revoked.
    pub(super) async fn is_valid(&self, id: ApiKeyId, prefix: &str) -> Result<bool, StoreError> {
        let keys = self.0.keys_by_prefix(prefix).await?;
        Ok(keys.iter().any(|key| key.id == id && key.revoked_at.is_none()))
    }
}
