//! What operators order.

use async_trait::async_trait;

use super::{
    SqlStore,
    dialect::{Dialect, SqlRow, SqlTx, params},
    row, statement,
};
use crate::{
    domain::{Timestamp, WorkerId},
    port::{
        StoreError,
        store::{Control, DrainAsked, PausedQueue},
    },
};

/// Stands for all tenants: no tenant's name is empty.
const EVERYONE: &str = "";

#[async_trait]
impl<D: Dialect> Control for SqlStore<D> {
    async fn pause(&self, queue: &str, tenant: Option<&str>, now: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.dialect.begin().await?;
        tx.execute(&statement::PAUSE, params![queue, tenant.unwrap_or(EVERYONE), now]).await?;
        tx.commit().await
    }

    async fn resume(&self, queue: &str, tenant: Option<&str>) -> Result<(), StoreError> {
        let mut tx = self.dialect.begin().await?;
        tx.execute(&statement::RESUME, params![queue, tenant.unwrap_or(EVERYONE)]).await?;
        tx.commit().await
    }

    async fn paused(&self, tenant: &str) -> Result<Vec<PausedQueue>, StoreError> {
        let rows = self.dialect.read(&statement::PAUSED, params![tenant]).await?;
        rows.iter()
            .map(|row| {
                Ok(PausedQueue {
                    queue: row.text("queue")?,
                    tenant: Some(row.text("tenant")?).filter(|tenant| tenant != EVERYONE),
                    paused_at: row::at(row, "paused_at")?,
                })
            })
            .collect()
    }

    async fn ask_drain(&self, worker: WorkerId) -> Result<DrainAsked, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let rows = tx.fetch(&statement::ASK_DRAIN, params![worker.uuid()]).await?;
        tx.commit().await?;
        match rows.first().map(|row| row.int("drainable")).transpose()? {
            None => Ok(DrainAsked::Unknown),
            Some(0) => Ok(DrainAsked::NotDrainable),
            Some(_) => Ok(DrainAsked::Asked),
        }
    }
}
