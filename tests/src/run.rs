//! Runs one test body, bounded.

use std::time::Duration;

/// No test may take longer; one that does hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs the body to its end on a runtime of its own.
///
/// # Panics
/// If the body does, or if it takes longer than any test may.
pub fn run(body: impl Future<Output = ()>) {
    run_within(LIMIT, body);
}

/// As [`run`], for what takes longer than any test of ours: programs of others.
///
/// # Panics
/// If the body does, or if it takes longer than `limit`.
pub fn run_within(limit: Duration, body: impl Future<Output = ()>) {
    // Installed once a process; a second attempt only says that it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime for the test");
    runtime.block_on(async {
        tokio::time::timeout(limit, body).await.unwrap_or_else(|_| panic!("the test took longer than {limit:?}"));
    });
    // Servers of fakes may still hold connections; nothing of a finished test is worth waiting for.
    runtime.shutdown_background();
}
