//! The guard of design: owns an engine's processes.

use std::time::Duration;

/// A reading of the machine's monotonic clock (`CLOCK_MONOTONIC`), in nanoseconds: the same for all processes of the
/// machine, so that a worker and its guards mean the same instant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MonotonicInstant(u64);

impl MonotonicInstant {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
        Self(seconds * 1_000_000_000 + nanos)
    }

    /// Later by `duration`.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Becomes a guard if the process was started as one; then it does not return.
pub fn run_if_guard() {}
