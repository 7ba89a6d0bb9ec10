//! Whether a failed attempt is followed by another, and when. Pure: takes the clock and the dice as arguments.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Failure, FailureClass, Timestamp};

/// How often and how fast an attempt is repeated. Fixed when the job is submitted and kept with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts in all, the first included.
    pub max_attempts: u32,
    /// Longest wait before the second attempt, in milliseconds; doubles with each further one.
    pub base_ms: u64,
    /// The wait never exceeds this, in milliseconds.
    pub cap_ms: u64,
}

impl RetryPolicy {
    /// What a `task` gets if the client says nothing.
    pub const TASK: Self = Self { max_attempts: 3, base_ms: 1_000, cap_ms: 60_000 };

    /// What an `http` job gets if the client says nothing.
    pub const HTTP: Self = Self { max_attempts: 8, base_ms: 1_000, cap_ms: 60_000 };

    /// What messages to agents get: they are tried until their window ends.
    pub const MESSAGE: Self = Self { max_attempts: 1_000_000, base_ms: 500, cap_ms: 5_000 };

    /// The wait before the attempt after `attempt`: full jitter, that is anything from nothing to the
    /// doubled base under the cap. `dice` is uniform in `0.0..1.0`.
    #[must_use]
    pub fn backoff(&self, attempt: u32, dice: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(32);
        let ceiling = self.base_ms.saturating_mul(1_u64 << doublings).min(self.cap_ms);
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let millis = (ceiling as f64 * dice.clamp(0.0, 1.0)) as u64;
        Duration::from_millis(millis)
    }
}

/// What follows a failed attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Another attempt, not before `run_at`.
    Retry {
        /// When it is due.
        run_at: Timestamp,
    },
    /// The job failed.
    GiveUp,
}

/// What is known when an attempt has failed.
#[derive(Clone, Copy, Debug)]
pub struct Circumstances {
    /// The job's policy.
    pub policy: RetryPolicy,
    /// The job ends by then, whatever happens.
    pub deadline: Option<Timestamp>,
    /// The destination said when to come again.
    pub retry_after: Option<Duration>,
    /// Now.
    pub now: Timestamp,
    /// Uniform in `0.0..1.0`.
    pub dice: f64,
}

/// Decides what follows `failure`.
///
/// Only `transient`, `rate_limited` and `crash` are worth another attempt: the rest would fail again, or must not be
/// repeated. A crash is due at once; a destination's own `retry_after` wins over the backoff.
#[must_use]
pub fn after_failure(failure: &Failure, circumstances: &Circumstances) -> Decision {
    let worth_it = matches!(failure.class, FailureClass::Transient | FailureClass::RateLimited | FailureClass::Crash);
    if !worth_it || failure.attempt >= circumstances.policy.max_attempts {
        return Decision::GiveUp;
    }
    let wait = match failure.class {
        FailureClass::Crash => Duration::ZERO,
        _ => circumstances
            .retry_after
            .unwrap_or_else(|| circumstances.policy.backoff(failure.attempt, circumstances.dice)),
    };
    let run_at = circumstances.now.plus(wait);
    if circumstances.deadline.is_some_and(|deadline| run_at >= deadline) {
        return Decision::GiveUp;
    }
    Decision::Retry { run_at }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failure(class: FailureClass, attempt: u32) -> Failure {
        Failure { class, code: "X".into(), message: "x".into(), attempt }
    }

    fn circumstances() -> Circumstances {
        Circumstances {
            policy: RetryPolicy::TASK,
            deadline: None,
            retry_after: None,
            now: Timestamp::from_micros(1_000_000),
            dice: 1.0,
        }
    }

    #[test]
    fn only_what_may_pass_by_itself_is_tried_again() {
        for &class in FailureClass::ALL {
            let retried = matches!(after_failure(&failure(class, 1), &circumstances()), Decision::Retry { .. });
            let expected = [FailureClass::Transient, FailureClass::RateLimited, FailureClass::Crash].contains(&class);
            assert_eq!(retried, expected, "{class}");
        }
    }

    #[test]
    fn the_last_attempt_is_the_last() {
        assert_eq!(after_failure(&failure(FailureClass::Transient, 3), &circumstances()), Decision::GiveUp);
    }

    #[test]
    fn a_crash_is_due_at_once() {
        let decision = after_failure(&failure(FailureClass::Crash, 1), &circumstances());
        assert_eq!(decision, Decision::Retry { run_at: circumstances().now });
    }

    #[test]
    fn the_destinations_own_wait_wins() {
        let asked = Circumstances { retry_after: Some(Duration::from_secs(7)), ..circumstances() };
        let decision = after_failure(&failure(FailureClass::RateLimited, 1), &asked);
        assert_eq!(decision, Decision::Retry { run_at: asked.now.plus(Duration::from_secs(7)) });
    }

    #[test]
    fn a_retry_that_would_miss_the_deadline_is_not_made() {
        let late =
            Circumstances { deadline: Some(circumstances().now.plus(Duration::from_millis(10))), ..circumstances() };
        assert_eq!(after_failure(&failure(FailureClass::Transient, 1), &late), Decision::GiveUp);
    }

    proptest! {
        #[test]
        fn backoff_never_exceeds_its_cap(attempt in 1_u32..1000, dice in 0.0..1.0_f64, base in 0_u64..1 << 40, cap in 0_u64..1 << 40) {
            let policy = RetryPolicy { max_attempts: u32::MAX, base_ms: base, cap_ms: cap };
            prop_assert!(policy.backoff(attempt, dice) <= Duration::from_millis(cap));
        }
    }
}
