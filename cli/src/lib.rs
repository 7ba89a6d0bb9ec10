//! The `errand` program.

use std::process::ExitCode;

/// Placeholder of the program's entry.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
