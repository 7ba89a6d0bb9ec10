//! Waiting on state that can be observed, never for time to pass.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// How long a state may take to come about on a loaded machine. Reaching it is a failure, so it costs nothing to be
/// generous.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(20);

/// Looks until `probe` answers `Some`, for [`PATIENCE`] at most.
///
/// # Panics
/// If that doesn't happen in time; the message names `what`.
pub async fn until<T, F>(what: impl Display, probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    until_within(PATIENCE, what, probe).await
}

/// As [`until`], with a limit that is part of what is tested.
///
/// # Panics
/// If `probe` doesn't answer `Some` within `limit`.
pub async fn until_within<T, F>(limit: Duration, what: impl Display, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(seen) = probe().await {
            return seen;
        }
        assert!(started.elapsed() < limit, "waited {limit:?} in vain until {what}");
        tokio::time::sleep(PERIOD).await;
    }
}

/// Bounds one step.
///
/// # Panics
/// If `step` takes longer than [`PATIENCE`].
pub async fn bounded<T>(what: impl Display, step: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, step).await {
        Ok(done) => done,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}
