//! The key of an installation that was given none.

use async_trait::async_trait;

use super::{
    SqlStore,
    dialect::{Dialect, SqlRow, SqlTx, params},
    statement,
};
use crate::port::{StoreError, store::SealingKey};

#[async_trait]
impl<D: Dialect> SealingKey for SqlStore<D> {
    async fn sealing_key(&self, fresh: Option<&str>) -> Result<Option<String>, StoreError> {
        let known = self.dialect.read(&statement::SEALING_KEY, params![]).await?;
        if let (None, Some(fresh)) = (known.first(), fresh) {
            let mut tx = self.dialect.begin().await?;
            tx.execute(&statement::KEEP_SEALING_KEY, params![fresh]).await?;
            let kept = tx.fetch(&statement::SEALING_KEY, params![]).await?;
            tx.commit().await?;
            return kept.first().map(|row| row.text("value")).transpose();
        }
        known.first().map(|row| row.text("value")).transpose()
    }
}
