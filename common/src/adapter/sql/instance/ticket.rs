//! Tickets that open one stream each.

use async_trait::async_trait;

use crate::{
    adapter::sql::{
        SqlStore,
        dialect::{Dialect, SqlRow, SqlTx, params},
        row,
        statement::instance as statement,
    },
    domain::Timestamp,
    port::{StoreError, store::Tickets},
};

#[async_trait]
impl<D: Dialect> Tickets for SqlStore<D> {
    async fn keep_ticket(&self, hash: &str, caller: &str, expires_at: Timestamp) -> Result<(), StoreError> {
        let mut tx = self.dialect.begin().await?;
        tx.execute(&statement::INSERT_TICKET, params![hash, caller, expires_at]).await?;
        tx.commit().await
    }

    async fn take_ticket(&self, hash: &str, now: Timestamp) -> Result<Option<String>, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let taken = tx.fetch(&statement::TAKE_TICKET, params![hash]).await?;
        tx.commit().await?;
        let Some(taken) = taken.first() else { return Ok(None) };
        Ok(if row::at(taken, "expires_at")? > now { Some(taken.text("caller")?) } else { None })
    }

    async fn drop_tickets(&self, now: Timestamp, limit: u32) -> Result<u64, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let dropped = tx.execute(&statement::DROP_TICKETS, params![now, limit]).await?;
        tx.commit().await?;
        Ok(dropped)
    }
}
