//! The program under test: the same code as the shipped `errand`.
//!
//! It is built again here because cargo tells a test where a binary lies (`CARGO_BIN_EXE_…`) only for binaries of the
//! test's own package.

use std::process::ExitCode;

fn main() -> ExitCode {
    errand_cli::main()
}
