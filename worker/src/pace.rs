//! How fast things are repeated: after an error, and from one commit to the next.

use std::{future::Future, time::Duration};

use errand_common::port::StoreError;

/// Longer and longer pauses while something is away; jittered, so that a fleet doesn't come back in step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(2);

    pub(crate) const fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// The next pause: between half of the step and the whole.
    pub(crate) fn pause(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(Self::LONGEST);
        step.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }

    /// It is back.
    pub(crate) const fn reset(&mut self) {
        self.next = Self::FIRST;
    }
}

/// Bounds a call to the store. When the time is up, whether it was done is not known, as with a connection that broke.
///
/// # Errors
/// The call's own, or that the store is unavailable.
pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(elapsed) => Err(StoreError::Unavailable(Box::new(elapsed))),
    }
}

/// How long to collect events before the next commit: `rest` while commits are quick, up to `busiest` when they are not,
/// so that a slow store gets fewer and larger commits.
pub(crate) fn collect_for(rest: Duration, busiest: Duration, last_commit: Duration) -> Duration {
    (last_commit * 2).clamp(rest, busiest.max(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_start_over() {
        let mut backoff = Backoff::new();
        let first = backoff.pause();
        assert!(first >= Backoff::FIRST / 2 && first <= Backoff::FIRST, "{first:?}");
        for _ in 0..20 {
            assert!(backoff.pause() <= Backoff::LONGEST);
        }
        assert!(backoff.pause() >= Backoff::LONGEST / 2);
        backoff.reset();
        assert!(backoff.pause() <= Backoff::FIRST);
    }

    #[test]
    fn a_slow_store_gets_fewer_commits_but_never_later_than_the_bound() {
        let (rest, busiest) = (Duration::from_millis(20), Duration::from_millis(200));
        assert_eq!(collect_for(rest, busiest, Duration::ZERO), rest);
        assert_eq!(collect_for(rest, busiest, Duration::from_millis(50)), Duration::from_millis(100));
        assert_eq!(collect_for(rest, busiest, Duration::from_secs(3)), busiest);
        assert_eq!(collect_for(busiest, rest, Duration::from_secs(3)), busiest, "absurd settings don't panic");
    }
}
