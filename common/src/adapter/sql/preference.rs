//! What tenants choose for themselves.

use async_trait::async_trait;

use super::{
    SqlStore,
    dialect::{Dialect, SqlRow, SqlTx, params},
    statement,
};
use crate::{
    domain::Timestamp,
    port::{StoreError, store::Preferences},
};

const DEFAULT_ENGINE: &str = "default_engine";

#[async_trait]
impl<D: Dialect> Preferences for SqlStore<D> {
    async fn default_engine(&self, tenant: &str) -> Result<Option<String>, StoreError> {
        let rows = self.dialect.read(&statement::PREFERENCE, params![tenant, DEFAULT_ENGINE]).await?;
        rows.first().map(|row| row.text("value")).transpose()
    }

    async fn choose_engine(&self, tenant: &str, engine: &str, now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.dialect.begin().await?;
        tx.execute(&statement::SAVE_PREFERENCE, params![tenant, DEFAULT_ENGINE, engine, now]).await?;
        tx.commit().await
    }
}
