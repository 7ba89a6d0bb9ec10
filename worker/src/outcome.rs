//! From what happened in an attempt to what is written about it. Pure.

use std::time::Duration;

use errand_common::{
    domain::{
        Failure, FailureClass, Timestamp,
        retry::{Circumstances, Decision, after_failure, within_window},
    },
    port::store::{Claimed, Outcome},
};

use crate::handler::{Completion, HandlerFailure, Missing, Waits};

/// When it is decided, and how the dice fell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// Now.
    pub(crate) now: Timestamp,
    /// Uniform in `0.0..1.0`.
    pub(crate) dice: f64,
}

/// What a handler's own end means. What is [`HandlerFailure::Missing`] is for [`missing`] to decide.
pub(crate) fn of_handler(
    claimed: &Claimed,
    ended: Result<Completion, HandlerFailure>,
    moment: Moment,
) -> Result<Outcome, Missing> {
    match ended {
        Ok(Completion { result, waits: Waits::Answer, .. }) => Ok(Outcome::AwaitingAnswer { result }),
        Ok(Completion { waits: Waits::Callback { until, poll_every }, .. }) => {
            Ok(Outcome::AwaitingCallback { until, poll_every })
        }
        Ok(Completion { result, message, .. }) => Ok(Outcome::Completed { result, message }),
        Err(HandlerFailure::Missing(missing)) => Err(missing),
        Err(HandlerFailure::Failed { class, code, message, retry_after }) => {
            Ok(of_failure(claimed, failure(claimed, class, code, message), retry_after, moment))
        }
        Err(HandlerFailure::InDoubt { message }) => {
            let doubt = failure(claimed, FailureClass::Transient, "NO_ANSWER", message);
            Ok(match of_failure(claimed, doubt, None, moment) {
                Outcome::Failed { failure } => Outcome::Failed { failure: never_cleared_up(&failure) },
                retry => retry,
            })
        }
        Err(HandlerFailure::HeldBack { until, reason }) => Ok(held_back(claimed, until, reason, moment)),
    }
}

/// No attempt is left that could clear up what came of the last one.
fn never_cleared_up(failure: &Failure) -> Failure {
    let message = format!("{}; whether it was done is not known, and it is not sent again", failure.message);
    Failure { class: FailureClass::Ambiguous, code: "OUTCOME_UNKNOWN".to_owned(), message, attempt: failure.attempt }
}

/// Puts a job off until its destination may take calls. The longer a job has been there, the wider the time over which those
/// like it come back: a destination that opens is not stormed, and one that stays closed costs little.
fn held_back(claimed: &Claimed, until: Timestamp, reason: &str, moment: Moment) -> Outcome {
    const NARROWEST: Duration = Duration::from_millis(250);
    const WIDEST: Duration = Duration::from_secs(10);
    let spread = (moment.now.since(claimed.job.created_at) / 4).clamp(NARROWEST, WIDEST);
    let run_at = until.max(moment.now).plus(spread.mul_f64(moment.dice.clamp(0.0, 1.0)));
    Outcome::HeldBack { run_at, reason: reason.to_owned() }
}

/// What follows a failed attempt.
pub(crate) fn of_failure(
    claimed: &Claimed,
    failure: Failure,
    retry_after: Option<Duration>,
    moment: Moment,
) -> Outcome {
    let circumstances = Circumstances {
        policy: claimed.job.retry,
        deadline: claimed.job.deadline,
        retry_after,
        now: moment.now,
        dice: moment.dice,
    };
    let Some(window) = claimed.window else {
        return match after_failure(&failure, &circumstances) {
            Decision::Retry { run_at } => Outcome::Retry { failure, run_at },
            Decision::GiveUp => Outcome::Failed { failure },
        };
    };
    // A window that opens with the first send had not opened when this run was claimed.
    let left = claimed.window_ends_at.map_or(window.length, |end| end.since(moment.now));
    match within_window(&failure, left, &circumstances) {
        Decision::Retry { run_at } => Outcome::Retry { failure, run_at },
        Decision::GiveUp if left.is_zero() && failure.class.may_pass() => {
            Outcome::Failed { failure: in_vain(failure, window.length) }
        }
        Decision::GiveUp => Outcome::Failed { failure },
    }
}

/// The window is over, and the last attempt failed as those before it.
fn in_vain(failure: Failure, window: Duration) -> Failure {
    let time = match window.as_secs() {
        seconds if seconds >= 120 => format!("{} minutes", seconds / 60),
        seconds => format!("{seconds} seconds"),
    };
    let message =
        format!("Gateway unreachable after {time} (gateway coordination timeout). Last error: {}", failure.message);
    Failure { message, ..failure }
}

/// A failure of this attempt.
pub(crate) fn failure(claimed: &Claimed, class: FailureClass, code: &str, message: String) -> Failure {
    Failure { class, code: code.to_owned(), message, attempt: claimed.job.attempt }
}

/// The attempt ran longer than `limit`.
pub(crate) fn timed_out(claimed: &Claimed, limit: Duration) -> Failure {
    let message = format!("the attempt ran longer than its limit of {limit:?}");
    failure(claimed, FailureClass::Timeout, "TIMEOUT", message)
}

/// The worker stops in mid-run.
pub(crate) fn drained(claimed: &Claimed, rerun_is_forbidden: bool) -> Outcome {
    if rerun_is_forbidden {
        let message = "the worker stopped in mid-run, and the engine must not run again".to_owned();
        let failure = failure(claimed, FailureClass::Ambiguous, "OUTCOME_UNKNOWN", message);
        return Outcome::Failed { failure };
    }
    Outcome::HandedBack { reason: "drain".to_owned() }
}

/// How long a job waits for what this worker lacks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// In all.
    pub(crate) total: Duration,
    /// From one look to the next.
    pub(crate) step: Duration,
}

/// What follows when this worker lacks something: the job is put off, until its patience is over and no live worker has
/// the thing either.
pub(crate) fn missing(
    claimed: &Claimed,
    missing: &Missing,
    a_worker_has_it: bool,
    patience: Patience,
    now: Timestamp,
) -> Outcome {
    let waited = now.since(claimed.snoozed_since.unwrap_or(now));
    if waited >= patience.total && !a_worker_has_it {
        let failure = failure(claimed, FailureClass::Fatal, missing.code(), missing.message(waited));
        return Outcome::Failed { failure };
    }
    let left = patience.total.saturating_sub(waited);
    let pause = if left.is_zero() { patience.step } else { patience.step.min(left) };
    Outcome::Snoozed { run_at: now.plus(pause), reason: missing.reason().to_owned() }
}

#[cfg(test)]
mod tests {
    use errand_common::{
        domain::{RetryPolicy, gate},
        port::store::Window,
    };
    use serde_json::json;

    use super::*;
    use crate::execute::tests::claimed;

    const PATIENCE: Patience = Patience { total: Duration::from_secs(600), step: Duration::from_secs(5) };

    fn moment() -> Moment {
        Moment { now: Timestamp::from_micros(1_000_000_000), dice: 1.0 }
    }

    fn failing(class: FailureClass, retry_after: Option<Duration>) -> Result<Completion, HandlerFailure> {
        Err(HandlerFailure::Failed { class, code: "EXECUTION_ERROR", message: "no".into(), retry_after })
    }

    #[test]
    fn a_completion_is_written_as_it_is() {
        let completion = Completion { message: Some("hi".into()), ..Completion::new(json!({"summary": "hi"})) };
        let outcome = of_handler(&claimed(), Ok(completion), moment());
        assert_eq!(outcome, Ok(Outcome::Completed { result: json!({"summary": "hi"}), message: Some("hi".into()) }));
    }

    #[test]
    fn a_transient_failure_is_tried_again_after_its_backoff_and_the_last_one_is_kept() {
        let mut claimed = claimed();
        let Ok(Outcome::Retry { failure, run_at }) =
            of_handler(&claimed, failing(FailureClass::Transient, None), moment())
        else {
            panic!("attempt 1 of 3 is followed by another")
        };
        assert_eq!(run_at, moment().now.plus(Duration::from_secs(1)));
        assert_eq!((failure.attempt, failure.code.as_str()), (1, "EXECUTION_ERROR"));

        claimed.job.attempt = 3;
        let outcome = of_handler(&claimed, failing(FailureClass::Transient, None), moment());
        assert!(matches!(outcome, Ok(Outcome::Failed { failure }) if failure.attempt == 3));
    }

    #[test]
    fn the_destinations_own_wait_reaches_the_decision() {
        let wait = Duration::from_secs(7);
        let outcome = of_handler(&claimed(), failing(FailureClass::RateLimited, Some(wait)), moment());
        assert!(matches!(outcome, Ok(Outcome::Retry { run_at, .. }) if run_at == moment().now.plus(wait)));
    }

    #[test]
    fn doubt_is_tried_again_and_stays_doubt_when_no_attempt_is_left() {
        let doubt = || Err(HandlerFailure::InDoubt { message: "no answer came".into() });
        let mut claimed = claimed();
        assert!(matches!(of_handler(&claimed, doubt(), moment()), Ok(Outcome::Retry { .. })));
        claimed.job.attempt = 3;
        let Ok(Outcome::Failed { failure }) = of_handler(&claimed, doubt(), moment()) else {
            panic!("the last attempt")
        };
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Ambiguous, "OUTCOME_UNKNOWN"));
    }

    /// A job with a window of 45 s, of which so much is left; `None`: it opens with this run's first send.
    fn windowed(left: Option<Duration>) -> Claimed {
        let window = Window { length: Duration::from_secs(45), from_send: true };
        let mut claimed =
            Claimed { window: Some(window), window_ends_at: left.map(|left| moment().now.plus(left)), ..claimed() };
        claimed.job.retry = RetryPolicy::MESSAGE;
        claimed
    }

    #[test]
    fn within_its_window_a_job_is_tried_on_and_then_fails_with_its_last_words() {
        let mut claimed = windowed(None);
        for attempt in [1, 2, 30] {
            claimed.job.attempt = attempt;
            let outcome = of_handler(&claimed, failing(FailureClass::Transient, None), moment());
            assert!(matches!(outcome, Ok(Outcome::Retry { .. })), "{outcome:?}");
        }
        let over = windowed(Some(Duration::ZERO));
        let Ok(Outcome::Failed { failure }) = of_handler(&over, failing(FailureClass::Transient, None), moment())
        else {
            panic!("its time is over")
        };
        let expected = "Gateway unreachable after 45 seconds (gateway coordination timeout). Last error: no";
        assert_eq!((failure.class, failure.message.as_str()), (FailureClass::Transient, expected));
        // What no other attempt helps fails at once, in its own words.
        let claimed = windowed(Some(Duration::from_secs(9)));
        let Ok(Outcome::Failed { failure }) = of_handler(&claimed, failing(FailureClass::Auth, None), moment()) else {
            panic!("another attempt does not help")
        };
        assert_eq!(failure.message, "no");
    }

    #[test]
    fn a_longer_window_is_told_in_minutes() {
        let mut over = windowed(Some(Duration::ZERO));
        over.window = Some(Window { length: Duration::from_secs(600), from_send: false });
        let Ok(Outcome::Failed { failure }) = of_handler(&over, failing(FailureClass::Transient, None), moment())
        else {
            panic!("its time is over")
        };
        assert!(failure.message.starts_with("Gateway unreachable after 10 minutes ("), "{}", failure.message);
    }

    #[test]
    fn those_who_are_held_back_come_again_apart_from_each_other() {
        let (claimed, now) = (claimed(), moment().now);
        let until = now.plus(Duration::from_secs(5));
        let run_at = |dice| {
            let held = Err(HandlerFailure::HeldBack { until, reason: gate::Reason::Open.as_str() });
            match of_handler(&claimed, held, Moment { now, dice }) {
                Ok(Outcome::HeldBack { run_at, reason }) => {
                    assert_eq!(reason, "destination_failing");
                    run_at
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(run_at(0.0), until);
        assert_eq!(run_at(1.0), until.plus(Duration::from_secs(10)), "it is old: the spread is at its widest");
    }

    #[test]
    fn an_attempt_that_ran_too_long_fails_as_timeout() {
        let claimed = claimed();
        let failure = timed_out(&claimed, Duration::from_secs(30));
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Timeout, "TIMEOUT"));
        assert!(failure.message.contains("30s"), "{}", failure.message);
        assert!(matches!(of_failure(&claimed, failure, None, moment()), Outcome::Failed { .. }));
    }

    #[test]
    fn draining_hands_back_unless_the_outcome_would_be_unknown() {
        assert_eq!(drained(&claimed(), false), Outcome::HandedBack { reason: "drain".into() });
        let Outcome::Failed { failure } = drained(&claimed(), true) else { panic!("must not run again") };
        assert_eq!(failure.class, FailureClass::Ambiguous);
    }

    #[test]
    fn what_no_worker_knows_waits_and_then_fails() {
        let kind = Missing::Kind("teleport".into());
        let mut claimed = claimed();
        let now = moment().now;

        let first = missing(&claimed, &kind, false, PATIENCE, now);
        assert_eq!(first, Outcome::Snoozed { run_at: now.plus(PATIENCE.step), reason: "unknown_kind".into() });

        claimed.snoozed_since = Some(now.minus(Duration::from_secs(598)));
        let near = missing(&claimed, &kind, false, PATIENCE, now);
        assert_eq!(
            near,
            Outcome::Snoozed { run_at: now.plus(Duration::from_secs(2)), reason: "unknown_kind".into() },
            "the last look is at the end of its patience"
        );

        claimed.snoozed_since = Some(now.minus(PATIENCE.total));
        let Outcome::Failed { failure } = missing(&claimed, &kind, false, PATIENCE, now) else {
            panic!("its patience is over")
        };
        assert_eq!(failure.code, "UNKNOWN_KIND");
        let elsewhere = missing(&claimed, &kind, true, PATIENCE, now);
        assert!(matches!(elsewhere, Outcome::Snoozed { .. }), "a live worker knows it");
    }
}
