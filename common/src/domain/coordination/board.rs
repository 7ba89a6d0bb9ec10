//! A board: where a lead and its agents work together.

use crate::domain::{BoardId, GatewayId, Timestamp};

/// A board.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Board {
    /// Its id.
    pub id: BoardId,
    /// Whose it is.
    pub tenant: String,
    /// For people.
    pub name: String,
    /// For addresses; unique within the tenant.
    pub slug: String,
    /// Where its agents run.
    pub gateway_id: Option<GatewayId>,
    /// The last command in its chat was `/pause`: its agents were told to stop. Coordination goes on.
    pub paused: bool,
    /// Number of the last event of its stream.
    pub tail_seq: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}
