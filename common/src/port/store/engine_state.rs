//! What engines must find again to go on with a conversation.

use async_trait::async_trait;

use super::{Stale, StoreError};
use crate::domain::{Fence, SessionId};

/// What an engine keeps of a conversation, beyond its messages. Opaque to all but the engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineState {
    /// The engine, by its configured name.
    pub engine: String,
    /// The engine's own id of the conversation.
    pub engine_session: String,
    /// Its content: text of the engine's own making, empty before the first turn has ended.
    pub content: String,
}

/// What engines must find again.
#[async_trait]
pub trait EngineStates: Send + Sync {
    /// The state of a conversation's last run that ended, was parked or released on this engine.
    async fn engine_state(&self, session: SessionId, engine: &str) -> Result<Option<EngineState>, StoreError>;

    /// Keeps a state in mid-run: an engine's session id is kept before the first process starts. At a run's end it is written
    /// with the end.
    async fn keep_engine_state(&self, fence: Fence, state: EngineState) -> Result<Result<(), Stale>, StoreError>;
}
