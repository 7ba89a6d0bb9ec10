//! Retention of what is left on boards and in the audit.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::{
    adapter::sql::{
        SqlStore,
        dialect::{Dialect, SqlRow, SqlTx, params},
        row,
        statement::coordination as statement,
    },
    domain::Timestamp,
    port::StoreError,
};

impl<D: Dialect> SqlStore<D> {
    pub(in crate::adapter::sql) async fn drop_old_board_events(
        &self,
        before: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let found = self.dialect.read(&statement::BOARDS_WITH_OLD_EVENTS, params![before, limit]).await?;
        let boards: BTreeSet<Uuid> = found.iter().map(|row| row.uuid("board_id")).collect::<Result<_, _>>()?;
        if boards.is_empty() {
            return Ok(0);
        }
        let (mut tx, mut dropped) = (self.dialect.begin().await?, 0);
        for board in boards {
            let left = u64::from(limit).saturating_sub(dropped);
            if left == 0 {
                break;
            }
            let first = tx.fetch(&statement::FIRST_BOARD_EVENTS, params![board, left]).await?;
            let mut stays = 0;
            for row in first {
                if row::at(&row, "ts")? >= before {
                    break;
                }
                stays = row.int("seq")? + 1;
            }
            dropped += tx.execute(&statement::DROP_BOARD_EVENTS, params![board, stays]).await?;
        }
        tx.commit().await?;
        Ok(dropped)
    }

    pub(in crate::adapter::sql) async fn drop_old_activities(
        &self,
        before: Timestamp,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let first = first_id_of(before);
        if self.dialect.read(&statement::OLD_ACTIVITY, params![first]).await?.is_empty() {
            return Ok(0);
        }
        let mut tx = self.dialect.begin().await?;
        let dropped = tx.execute(&statement::DROP_ACTIVITIES, params![first, limit]).await?;
        tx.commit().await?;
        Ok(dropped)
    }
}

/// Every id that was made before that time is smaller: a UUIDv7 begins with its milliseconds.
fn first_id_of(at: Timestamp) -> Uuid {
    let millis = u128::try_from(at.micros() / 1_000).unwrap_or(0) & 0xFFFF_FFFF_FFFF;
    Uuid::from_u128(millis << 80)
}
