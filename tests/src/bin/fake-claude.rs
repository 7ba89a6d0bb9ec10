//! Stands in for Claude Code: see `errand_tests::claude::program`.

use std::process::ExitCode;

fn main() -> ExitCode {
    errand_tests::claude::program::main()
}
