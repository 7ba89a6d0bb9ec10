//! Signals to a worker, over the bus.

use serde::{Deserialize, Serialize};

use crate::domain::JobId;

/// What a worker may be told. A lost signal is found out at the next renewal, of the lease or of the
/// registration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "signal", rename_all = "snake_case")]
pub enum Signal {
    /// The claim is no longer yours: stop the run, then release it.
    Stop {
        /// Which job.
        job_id: JobId,
        /// Under which claim.
        claim: i64,
    },
    /// Decisions were made about tool calls of this claim: read them.
    Decided {
        /// Which job.
        job_id: JobId,
        /// Under which claim.
        claim: i64,
    },
    /// Claim nothing more, end your runs or hand them back, and end.
    Drain,
}
