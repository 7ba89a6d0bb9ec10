//! What a database that came back from a backup needs.

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    SqlStore,
    dialect::{Dialect, SqlTx, params},
    statement,
};
use crate::port::{StoreError, store::Restore};

#[async_trait]
impl<D: Dialect> Restore for SqlStore<D> {
    async fn renew_epoch(&self) -> Result<String, StoreError> {
        let epoch = Uuid::new_v4().simple().to_string();
        let mut tx = self.dialect.begin().await?;
        let renewed = tx.execute(&statement::RENEW_EPOCH, params![epoch.as_str()]).await?;
        if renewed != 1 {
            return Err(StoreError::Corrupt("meta has no epoch".to_owned()));
        }
        tx.commit().await?;
        Ok(epoch)
    }
}
