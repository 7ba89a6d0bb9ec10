//! Boards. Their streams are read as all others are, by [`crate::port::store::Reads`].

use async_trait::async_trait;

use super::Removed;
use crate::{
    domain::{BoardId, GatewayId, Timestamp, coordination::Board},
    port::store::{IdempotencyRecord, StoreError, StoredAnswer},
};

/// A board to be made.
#[derive(Clone, Debug)]
pub struct NewBoard {
    /// Its id.
    pub id: BoardId,
    /// Whose it is.
    pub tenant: String,
    /// For people.
    pub name: String,
    /// Unique within the tenant.
    pub slug: String,
    /// Where its agents run.
    pub gateway_id: Option<GatewayId>,
}

/// What is to be changed; `None` stays.
#[derive(Clone, Default, Debug)]
pub struct BoardChange {
    /// For people.
    pub name: Option<String>,
    /// Unique within the tenant.
    pub slug: Option<String>,
    /// Where its agents run; `Some(None)`: nowhere. Agents it has already stay where they are.
    pub gateway_id: Option<Option<GatewayId>>,
}

/// Which boards.
#[derive(Clone, Debug)]
pub struct BoardFilter {
    /// Whose.
    pub tenant: String,
    /// Those of one gateway.
    pub gateway_id: Option<GatewayId>,
    /// Older than this one.
    pub before: Option<BoardId>,
    /// How many.
    pub limit: u32,
}

/// Why a board can't be as asked.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum BoardRefused {
    /// Another board of the tenant has it.
    #[error("another board has this slug")]
    SlugTaken,
    /// Agents of it run in the gateway it has.
    #[error("{0} agents of the board run in its gateway")]
    HasAgents(u64),
    /// The tenant has no such gateway.
    #[error("Board gateway_id is invalid")]
    GatewayUnknown,
    /// There is no such board.
    #[error("Board not found")]
    Unknown,
    /// The key was used before; this was the answer.
    #[error("the key was used before")]
    Replayed(Box<StoredAnswer>),
}

/// Boards.
#[async_trait]
pub trait Boards: Send + Sync {
    /// Makes one, and keeps the answer to its key.
    async fn create_board(
        &self,
        new: NewBoard,
        idempotency: Option<IdempotencyRecord>,
        now: Timestamp,
    ) -> Result<Result<(), BoardRefused>, StoreError>;

    /// One.
    async fn board(&self, tenant: &str, id: BoardId) -> Result<Option<Board>, StoreError>;

    /// Several, newest first.
    async fn boards(&self, filter: &BoardFilter) -> Result<Vec<Board>, StoreError>;

    /// Changes one.
    async fn change_board(
        &self,
        tenant: &str,
        id: BoardId,
        change: BoardChange,
        now: Timestamp,
    ) -> Result<Result<Board, BoardRefused>, StoreError>;

    /// Removes one that has no agents, with its memory, its questions (which are cancelled first, by the caller) and its stream.
    async fn remove_board(&self, tenant: &str, id: BoardId) -> Result<Removed, StoreError>;
}
