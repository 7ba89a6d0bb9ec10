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

    /// What a webhook's deliveries get. Their waits are `webhooks.retry_seconds`, of which there is one less than attempts.
    pub const WEBHOOK: Self = Self { max_attempts: 8, base_ms: 5_000, cap_ms: 36_000_000 };

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

impl FailureClass {
    /// Whether another attempt may help.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::Transient | Self::RateLimited | Self::Crash)
    }
}

/// Decides what follows `failure`.
///
/// Only `transient`, `rate_limited` and `crash` are worth another attempt: the rest would fail again, or must not be
/// repeated. A crash is due at once; a destination's own `retry_after` wins over the backoff.
#[must_use]
pub fn after_failure(failure: &Failure, circumstances: &Circumstances) -> Decision {
    if !failure.class.may_pass() || failure.attempt >= circumstances.policy.max_attempts {
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

/// How far a wait within a window may differ from its nominal length.
const WINDOW_JITTER: f64 = 0.15;

/// Decides what follows `failure` of a job that is tried within a window, of which `left` is left: the wait doubles with each
/// attempt under its cap, and the last one ends with the window, so that one more attempt is made then.
///
/// Worth another attempt is what [`after_failure`] finds worth it.
#[must_use]
pub fn within_window(failure: &Failure, left: Duration, circumstances: &Circumstances) -> Decision {
    if !failure.class.may_pass() || left.is_zero() {
        return Decision::GiveUp;
    }
    let policy = RetryPolicy { max_attempts: u32::MAX, ..circumstances.policy };
    let nominal = policy.backoff(failure.attempt, 1.0).min(left);
    let jitter = 1.0 + WINDOW_JITTER * (2.0 * circumstances.dice.clamp(0.0, 1.0) - 1.0);
    let wait = match failure.class {
        FailureClass::Crash => Duration::ZERO,
        _ => nominal.mul_f64(jitter).max(circumstances.retry_after.unwrap_or_default()).min(left),
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
    fn within_a_window_waits_double_to_their_cap_and_end_with_it() {
        let whole = Duration::from_secs(45);
        let wait = |attempt, left, dice| {
            let circumstances = Circumstances { policy: RetryPolicy::MESSAGE, dice, ..circumstances() };
            match within_window(&failure(FailureClass::Transient, attempt), left, &circumstances) {
                Decision::Retry { run_at } => Some(run_at.since(circumstances.now)),
                Decision::GiveUp => None,
            }
        };
        let nominal = [500, 1_000, 2_000, 4_000, 5_000, 5_000].map(Duration::from_millis);
        for (attempt, nominal) in (1..).zip(nominal) {
            assert_eq!(wait(attempt, whole, 0.5), Some(nominal));
            assert_eq!(wait(attempt, whole, 0.0), Some(nominal.mul_f64(0.85)));
            assert_eq!(wait(attempt, whole, 1.0), Some(nominal.mul_f64(1.15)));
        }
        let little = Duration::from_millis(300);
        assert_eq!(wait(9, little, 1.0), Some(little), "one more, when it ends");
        assert_eq!(wait(9, Duration::ZERO, 1.0), None);
        let circumstances = Circumstances { policy: RetryPolicy::MESSAGE, ..circumstances() };
        assert_eq!(within_window(&failure(FailureClass::Auth, 1), whole, &circumstances), Decision::GiveUp);
        let crash = within_window(&failure(FailureClass::Crash, 7), whole, &circumstances);
        assert_eq!(crash, Decision::Retry { run_at: circumstances.now });
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
