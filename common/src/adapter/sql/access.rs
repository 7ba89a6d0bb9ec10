//! Who may call.

use async_trait::async_trait;

use super::{
    SqlStore,
    dialect::{Dialect, SqlRow, SqlTx, params},
    row, statement,
    submit::used_before,
};
use crate::{
    domain::{ApiKeyId, Timestamp},
    port::{
        StoreError,
        store::{Access, ApiKey, IdempotencyRecord, NewApiKey, Scope, StoredAnswer},
    },
};

#[async_trait]
impl<D: Dialect> Access for SqlStore<D> {
    async fn create_key(
        &self,
        key: NewApiKey,
        idempotency: Option<IdempotencyRecord>,
        now: Timestamp,
    ) -> Result<Option<StoredAnswer>, StoreError> {
        let mut tx = self.dialect.begin().await?;
        if let Some(answer) = used_before(&mut tx, idempotency.as_ref(), now).await? {
            return Ok(Some(answer));
        }
        let scopes: Vec<_> = key.scopes.iter().map(|scope| scope.as_str()).collect();
        let values = params![key.id.uuid(), key.tenant, key.name, key.prefix, key.hash, scopes.join(" "), now];
        tx.execute(&statement::INSERT_KEY, values).await?;
        tx.commit().await?;
        Ok(None)
    }

    async fn keys_by_prefix(&self, prefix: &str) -> Result<Vec<ApiKey>, StoreError> {
        self.dialect.read(&statement::KEYS_BY_PREFIX, params![prefix]).await?.iter().map(api_key).collect()
    }

    async fn keys(&self, tenant: &str) -> Result<Vec<ApiKey>, StoreError> {
        self.dialect.read(&statement::KEYS, params![tenant]).await?.iter().map(api_key).collect()
    }

    async fn revoke_key(&self, tenant: &str, id: ApiKeyId, now: Timestamp) -> Result<bool, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let revoked = tx.execute(&statement::REVOKE_KEY, params![tenant, id.uuid(), now]).await?;
        tx.commit().await?;
        Ok(revoked > 0)
    }
}

fn api_key(row: &impl SqlRow) -> Result<ApiKey, StoreError> {
    let scopes = row.text("scopes")?;
    Ok(ApiKey {
        id: row.uuid("id")?.into(),
        tenant: row.text("tenant")?,
        name: row.text("name")?,
        prefix: row.text("prefix")?,
        hash: row.text("hash")?,
        // A scope that a later version knows grants nothing here.
        scopes: scopes.split_whitespace().filter_map(|scope| scope.parse::<Scope>().ok()).collect(),
        created_at: row::at(row, "created_at")?,
        revoked_at: row.opt_int("revoked_at")?.map(Timestamp::from_micros),
    })
}
