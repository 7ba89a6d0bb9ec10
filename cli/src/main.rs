//! The `errand` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    errand_cli::main()
}
