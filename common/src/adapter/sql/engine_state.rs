//! What engines must find again.

use async_trait::async_trait;

use super::{
    SqlStore,
    dialect::{Dialect, SqlRow, SqlTx, params},
    statement,
    unit::Unit,
};
use crate::{
    domain::{Fence, SessionId, Timestamp},
    port::{
        StoreError,
        store::{EngineState, EngineStates, Stale},
    },
};

#[async_trait]
impl<D: Dialect> EngineStates for SqlStore<D> {
    async fn engine_state(&self, session: SessionId, engine: &str) -> Result<Option<EngineState>, StoreError> {
        let rows = self.dialect.read(&statement::ENGINE_STATE, params![session.uuid(), engine]).await?;
        rows.first()
            .map(|row| {
                Ok(EngineState {
                    engine: row.text("engine")?,
                    engine_session: row.text("engine_session")?,
                    content: row.text("content")?,
                })
            })
            .transpose()
    }

    async fn keep_engine_state(&self, fence: Fence, state: EngineState) -> Result<Result<(), Stale>, StoreError> {
        // It has no event, so no time of its own.
        let (mut unit, rows) = self.hold([fence], Timestamp::default()).await?;
        if !rows.values().any(|row| row.accepts(&fence)) {
            return Ok(Err(Stale));
        }
        keep(&mut unit, &fence, state).await?;
        drop(unit.commit().await?);
        Ok(Ok(()))
    }
}

/// Keeps the state of a run, whose fence was accepted: so no later run of the session has begun, and nothing newer is lost. A
/// job without a session has no conversation to go on with.
pub(super) async fn keep<D: Dialect>(unit: &mut Unit<D>, fence: &Fence, state: EngineState) -> Result<(), StoreError> {
    let Some(session) = fence.session_id else { return Ok(()) };
    let EngineState { engine, engine_session, content } = state;
    let values = params![session.uuid(), engine, engine_session, content];
    unit.tx.execute(&statement::SAVE_ENGINE_STATE, values).await.map(drop)
}
