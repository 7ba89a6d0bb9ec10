//! Signals to a worker, over the bus.

use serde::{Deserialize, Serialize};

use crate::domain::JobId;

/// What a worker may be told. A lost signal is found out at the next renewal.
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
}
