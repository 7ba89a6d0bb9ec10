//! The payload of a `group`: a job that is done when the jobs it brought are. No worker runs it.

use serde::{Deserialize, Serialize};

/// The kind's name.
pub const KIND: &str = "group";
/// Of the payload's shape.
pub const VERSION: u32 = 1;

/// What is stored of a group. Its jobs are rows of their own, with `parent_id`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupPayload {
    /// How many jobs it brought.
    pub jobs: usize,
}
