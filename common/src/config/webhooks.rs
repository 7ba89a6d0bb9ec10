//! `[webhooks]`: telling others outside.

use serde::{Deserialize, Serialize};

/// `[webhooks]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    /// Most endpoints of one tenant, beside those that jobs bring.
    pub max_endpoints: u32,
    /// Longest time one delivery may take, in seconds, from the connection to the head of the answer.
    pub call_seconds: u32,
    /// How long after each failed attempt the next one follows, in seconds, and up to a tenth of that later: eight attempts in all.
    /// A `Retry-After` makes the wait longer.
    pub retry_seconds: [u32; 7],
    /// An endpoint that has failed for so long, in seconds, is disabled by its next failure.
    pub disable_after_seconds: u32,
}

impl Default for Webhooks {
    fn default() -> Self {
        Self {
            max_endpoints: 16,
            call_seconds: 15,
            retry_seconds: [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000],
            disable_after_seconds: 432_000,
        }
    }
}
