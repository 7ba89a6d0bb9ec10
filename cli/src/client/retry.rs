//! When to ask again.

use std::time::Duration;

/// Asked so often in all.
const ATTEMPTS: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// Nothing listens there.
    Refused,
    /// No connection came about for another reason: no such host, no way there, TLS.
    Unreachable,
    /// The connection broke, or nothing came in time.
    Lost,
    /// The server refused.
    Problem { passing: bool, retry_after: Option<Duration> },
    /// Asking again would be the same.
    Final,
}

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Wait(Duration),
    GiveUp,
}

/// Every request may be repeated: reads by nature, writes by their `Idempotency-Key`. A server that was never there is
/// not waited for; one that went away in between may come back.
pub(super) fn after(trouble: &Trouble, attempt: u32) -> Step {
    let wait = match *trouble {
        Trouble::Refused | Trouble::Unreachable if attempt == 1 => return Step::GiveUp,
        Trouble::Refused | Trouble::Unreachable | Trouble::Lost => backoff(attempt),
        Trouble::Problem { passing: true, retry_after } => retry_after.unwrap_or_else(|| backoff(attempt)),
        Trouble::Problem { passing: false, .. } | Trouble::Final => return Step::GiveUp,
    };
    if attempt >= ATTEMPTS || wait > LONGEST_WAIT { Step::GiveUp } else { Step::Wait(wait) }
}

/// The wait after the `attempt`-th failure in a row, from 1: doubles, up to a bound.
pub(crate) fn backoff(attempt: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_was_never_there_is_not_waited_for_and_one_that_left_is() {
        assert_eq!(after(&Trouble::Refused, 1), Step::GiveUp);
        assert_eq!(after(&Trouble::Unreachable, 1), Step::GiveUp);
        assert_eq!(after(&Trouble::Refused, 2), Step::Wait(Duration::from_millis(400)));
        assert_eq!(after(&Trouble::Lost, 1), Step::Wait(Duration::from_millis(200)));
        assert_eq!(after(&Trouble::Lost, ATTEMPTS), Step::GiveUp);
    }

    #[test]
    fn the_servers_own_wait_wins_unless_it_is_long() {
        let busy = |seconds| Trouble::Problem { passing: true, retry_after: Some(Duration::from_secs(seconds)) };
        assert_eq!(after(&busy(1), 1), Step::Wait(Duration::from_secs(1)));
        assert_eq!(after(&busy(60), 1), Step::GiveUp);
        assert_eq!(after(&Trouble::Problem { passing: false, retry_after: None }, 1), Step::GiveUp);
    }

    #[test]
    fn waits_double_up_to_a_bound() {
        let waits: Vec<_> = (1..=7).map(|attempt| backoff(attempt).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(backoff(u32::MAX), LONGEST_WAIT);
    }
}
