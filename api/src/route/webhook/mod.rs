//! Who outside is told, and what each was told.

pub(crate) mod delivery;
pub(crate) mod endpoint;
pub(crate) mod secret;

use crate::problem::Problem;

fn missing() -> Problem {
    Problem::not_found("Webhook endpoint")
}
