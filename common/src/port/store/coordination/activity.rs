//! The audit.

use async_trait::async_trait;

use crate::{
    domain::{
        ActivityId, AgentId, BoardId, Timestamp,
        coordination::{Activity, NewActivity},
    },
    port::store::StoreError,
};

/// Which lines.
#[derive(Clone, Debug)]
pub struct ActivityFilter {
    /// Whose.
    pub tenant: String,
    /// Of one board.
    pub board_id: Option<BoardId>,
    /// Of one actor.
    pub agent_id: Option<AgentId>,
    /// Older than this one.
    pub before: Option<ActivityId>,
    /// Younger than this one: oldest first then.
    pub after: Option<ActivityId>,
    /// How many.
    pub limit: u32,
}

/// The audit. Lines about jobs are written with what they tell.
#[async_trait]
pub trait Activities: Send + Sync {
    /// Lines, newest first, or oldest first after a given one.
    async fn activities(&self, filter: &ActivityFilter) -> Result<Vec<Activity>, StoreError>;

    /// Writes a line about something that is no job's doing.
    async fn tell(&self, tenant: &str, line: NewActivity, now: Timestamp) -> Result<(), StoreError>;
}
