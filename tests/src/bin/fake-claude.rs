//! Stands in for Claude Code: see `errand_tests::claude::program`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // A second attempt would only say that it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let end = runtime.block_on(errand_tests::claude::program::main());
    end.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}
