//! When a destination may be called: the decision, free of any clock or store. One [`Gate`] a destination.
//!
//! A gate is a limit of calls at once, a token bucket, a circuit breaker and a pause. What is closed says until when, so that
//! a job can be put off instead of waiting in a worker.

use std::{collections::VecDeque, time::Duration};

use uuid::Uuid;

use super::{Timestamp, job::text_enum};

/// What a destination may be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Calls at once; at least 1.
    pub concurrency: u32,
    /// Calls begun in a second, on average; `None`: as many as come.
    pub rate_per_second: Option<u32>,
    /// Calls begun at once after a rest, where there is a rate; at least 1.
    pub burst: u32,
    /// The breaker opens when so many of a hundred calls failed; 1 to 100.
    pub failure_percent: u32,
    /// It judges no fewer calls than these.
    pub min_calls: u32,
    /// It judges those that ended within this time: a whole number of seconds.
    pub window: Duration,
    /// How long it stays open.
    pub open: Duration,
    /// Calls let through at once after that, to see whether the destination is back; it closes after so many
    /// successes. At least 1.
    pub probes: u32,
    /// After this time a permit that nobody gave back is free again: its worker is gone. Longer than any call.
    pub permit: Duration,
    /// How long a call waits that found all permits taken.
    pub busy: Duration,
}

text_enum! {
    /// Why a gate is closed.
    Reason {
        /// As many calls are under way as may be.
        Busy = "destination_busy",
        /// As many calls were begun as may be.
        Rate = "destination_rate",
        /// Too many calls failed: the breaker is open.
        Open = "destination_failing",
        /// The destination asked for a pause.
        Paused = "destination_paused",
    }
}

text_enum! {
    /// What a call showed of its destination.
    Verdict {
        /// It does its work, even if it refused this call.
        Success = "success",
        /// It does not: no connection, no answer, an error of its own.
        Failure = "failure",
        /// Nothing.
        Neutral = "neutral",
    }
}

/// The right to make one call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Permit(pub Uuid);

/// An answer at the gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entered {
    /// Go on, and leave with this.
    Open(Permit),
    /// Come again.
    Closed {
        /// Not before.
        until: Timestamp,
        /// Why.
        reason: Reason,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Breaker {
    Closed,
    Open { until: Timestamp },
    HalfOpen { successes: u32 },
}

#[derive(Clone, Copy, Debug)]
struct Held {
    permit: Permit,
    until: Timestamp,
    probe: bool,
}

/// Calls that ended in one second.
#[derive(Clone, Copy, Debug)]
struct Slice {
    second: i64,
    calls: u32,
    failures: u32,
}

/// One destination's gate.
#[derive(Clone, Debug)]
pub struct Gate {
    held: Vec<Held>,
    /// Thousandths of a token.
    tokens: u64,
    refilled_at: Timestamp,
    breaker: Breaker,
    window: VecDeque<Slice>,
    paused_until: Timestamp,
}

/// Of a token.
const WHOLE: u64 = 1_000;

impl Gate {
    /// A gate that nobody has passed.
    #[must_use]
    pub fn new(policy: &Policy, now: Timestamp) -> Self {
        Self {
            held: Vec::new(),
            tokens: u64::from(policy.burst.max(1)) * WHOLE,
            refilled_at: now,
            breaker: Breaker::Closed,
            window: VecDeque::new(),
            paused_until: Timestamp::default(),
        }
    }

    /// Asks to make a call; `permit` is what it is given if it may.
    pub fn enter(&mut self, policy: &Policy, permit: Permit, now: Timestamp) -> Entered {
        self.held.retain(|held| held.until > now);
        if self.paused_until > now {
            return Entered::Closed { until: self.paused_until, reason: Reason::Paused };
        }
        if let Breaker::Open { until } = self.breaker {
            if until > now {
                return Entered::Closed { until, reason: Reason::Open };
            }
            self.breaker = Breaker::HalfOpen { successes: 0 };
        }
        let probe = matches!(self.breaker, Breaker::HalfOpen { .. });
        if probe && count(self.held.iter().filter(|held| held.probe)) >= policy.probes.max(1) {
            return Entered::Closed { until: now.plus(policy.busy), reason: Reason::Open };
        }
        if count(self.held.iter()) >= policy.concurrency.max(1) {
            return Entered::Closed { until: now.plus(policy.busy), reason: Reason::Busy };
        }
        if let Some(rate) = policy.rate_per_second {
            self.refill(rate.max(1), policy.burst.max(1), now);
            if self.tokens < WHOLE {
                // A rate of one gives a thousandth of a token each millisecond.
                let millis = (WHOLE - self.tokens).div_ceil(u64::from(rate.max(1)));
                return Entered::Closed { until: now.plus(Duration::from_millis(millis)), reason: Reason::Rate };
            }
            self.tokens -= WHOLE;
        }
        self.held.push(Held { permit, until: now.plus(policy.permit), probe });
        Entered::Open(permit)
    }

    fn refill(&mut self, rate: u32, burst: u32, now: Timestamp) {
        let millis = u64::try_from(now.since(self.refilled_at).as_millis()).unwrap_or(u64::MAX);
        if millis > 0 {
            let full = u64::from(burst) * WHOLE;
            self.tokens = self.tokens.saturating_add(millis.saturating_mul(u64::from(rate))).min(full);
            self.refilled_at = now;
        }
    }

    /// The call is over. A permit that has expired meanwhile counts for the breaker all the same.
    pub fn leave(
        &mut self,
        policy: &Policy,
        permit: Permit,
        verdict: Verdict,
        pause_until: Option<Timestamp>,
        now: Timestamp,
    ) {
        let probe = self.held.iter().any(|held| held.permit == permit && held.probe);
        self.held.retain(|held| held.permit != permit && held.until > now);
        self.paused_until = self.paused_until.max(pause_until.unwrap_or_default());
        match (self.breaker, verdict) {
            (_, Verdict::Neutral) | (Breaker::Open { .. }, _) => {}
            (Breaker::Closed, _) => self.judge(policy, verdict == Verdict::Failure, now),
            // Calls that began before the breaker opened say nothing about now.
            (Breaker::HalfOpen { .. }, _) if !probe => {}
            (Breaker::HalfOpen { .. }, Verdict::Failure) => self.open(policy, now),
            (Breaker::HalfOpen { successes }, Verdict::Success) => {
                let successes = successes + 1;
                self.breaker =
                    if successes >= policy.probes.max(1) { Breaker::Closed } else { Breaker::HalfOpen { successes } };
            }
        }
    }

    fn judge(&mut self, policy: &Policy, failed: bool, now: Timestamp) {
        let second = now.micros().div_euclid(1_000_000);
        let seconds = i64::try_from(policy.window.as_secs().max(1)).unwrap_or(i64::MAX);
        self.window.retain(|slice| slice.second > second.saturating_sub(seconds));
        if self.window.back().is_none_or(|slice| slice.second < second) {
            self.window.push_back(Slice { second, calls: 0, failures: 0 });
        }
        if let Some(slice) = self.window.back_mut() {
            slice.calls = slice.calls.saturating_add(1);
            slice.failures = slice.failures.saturating_add(u32::from(failed));
        }
        let calls: u64 = self.window.iter().map(|slice| u64::from(slice.calls)).sum();
        let failures: u64 = self.window.iter().map(|slice| u64::from(slice.failures)).sum();
        if failed && calls >= u64::from(policy.min_calls) && failures * 100 >= calls * u64::from(policy.failure_percent)
        {
            self.open(policy, now);
        }
    }

    fn open(&mut self, policy: &Policy, now: Timestamp) {
        self.window.clear();
        self.breaker = Breaker::Open { until: now.plus(policy.open) };
    }

    /// Whether it holds nothing that a fresh gate would not, so that it need not be kept.
    #[must_use]
    pub fn is_idle(&self, policy: &Policy, now: Timestamp) -> bool {
        let second = now.micros().div_euclid(1_000_000);
        let seconds = i64::try_from(policy.window.as_secs().max(1)).unwrap_or(i64::MAX);
        let rested = policy.rate_per_second.is_none_or(|rate| {
            let mut gate = self.clone();
            gate.refill(rate.max(1), policy.burst.max(1), now);
            gate.tokens >= u64::from(policy.burst.max(1)) * WHOLE
        });
        rested
            && self.paused_until <= now
            && self.breaker == Breaker::Closed
            && self.held.iter().all(|held| held.until <= now)
            && self.window.iter().all(|slice| slice.second <= second.saturating_sub(seconds))
    }
}

fn count<'a>(held: impl Iterator<Item = &'a Held>) -> u32 {
    u32::try_from(held.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> Policy {
        Policy {
            concurrency: 3,
            rate_per_second: None,
            burst: 1,
            failure_percent: 50,
            min_calls: 4,
            window: Duration::from_secs(10),
            open: Duration::from_secs(5),
            probes: 2,
            permit: Duration::from_secs(60),
            busy: Duration::from_millis(100),
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_micros(1_000_000_000 + millis * 1_000)
    }

    fn enter(gate: &mut Gate, policy: &Policy, millis: i64) -> Result<Permit, Reason> {
        match gate.enter(policy, Permit(Uuid::new_v4()), at(millis)) {
            Entered::Open(permit) => Ok(permit),
            Entered::Closed { reason, until } => {
                assert!(until > at(millis), "a closed gate names a time to come");
                Err(reason)
            }
        }
    }

    fn call(gate: &mut Gate, policy: &Policy, verdict: Verdict, millis: i64) {
        let permit = enter(gate, policy, millis).expect("open");
        gate.leave(policy, permit, verdict, None, at(millis));
    }

    #[test]
    fn no_more_calls_at_once_than_allowed_and_lost_permits_come_back() {
        let policy = policy();
        let mut gate = Gate::new(&policy, at(0));
        let permits: Vec<_> = (0..3).map(|_| enter(&mut gate, &policy, 0).expect("open")).collect();
        assert_eq!(enter(&mut gate, &policy, 0), Err(Reason::Busy));
        gate.leave(&policy, permits[0], Verdict::Success, None, at(1));
        assert!(enter(&mut gate, &policy, 1).is_ok());
        assert_eq!(enter(&mut gate, &policy, 59_999), Err(Reason::Busy));
        assert!(enter(&mut gate, &policy, 60_000).is_ok(), "two permits were never given back");
    }

    #[test]
    fn a_bucket_allows_its_burst_and_then_its_rate() {
        let policy = Policy { concurrency: 1_000, rate_per_second: Some(10), burst: 5, ..policy() };
        let mut gate = Gate::new(&policy, at(0));
        let burst = (0..20).filter(|_| enter(&mut gate, &policy, 0).is_ok()).count();
        assert_eq!(burst, 5);
        assert_eq!(enter(&mut gate, &policy, 99), Err(Reason::Rate));
        let later = (100..=1_100).filter(|ms| enter(&mut gate, &policy, *ms).is_ok()).count();
        assert_eq!(later, 11, "one at 100 ms, and one each 100 ms after it");
    }

    #[test]
    fn the_breaker_opens_probes_and_closes() {
        let policy = policy();
        let mut gate = Gate::new(&policy, at(0));
        for (number, verdict) in [Verdict::Success, Verdict::Success, Verdict::Failure].into_iter().enumerate() {
            call(&mut gate, &policy, verdict, i64::try_from(number).expect("few"));
        }
        call(&mut gate, &policy, Verdict::Failure, 10);
        assert_eq!(enter(&mut gate, &policy, 11), Err(Reason::Open), "two of four failed");
        assert_eq!(enter(&mut gate, &policy, 5_009), Err(Reason::Open));
        let probes =
            [enter(&mut gate, &policy, 5_010), enter(&mut gate, &policy, 5_010)].map(|probe| probe.expect("a probe"));
        assert_eq!(enter(&mut gate, &policy, 5_010), Err(Reason::Open), "few are let through");
        gate.leave(&policy, probes[0], Verdict::Success, None, at(5_020));
        gate.leave(&policy, probes[1], Verdict::Success, None, at(5_021));
        for _ in 0..3 {
            enter(&mut gate, &policy, 5_022).expect("closed again");
        }
    }

    #[test]
    fn a_failing_probe_opens_it_again() {
        let policy = policy();
        let mut gate = Gate::new(&policy, at(0));
        for _ in 0..4 {
            call(&mut gate, &policy, Verdict::Failure, 0);
        }
        call(&mut gate, &policy, Verdict::Failure, 5_000);
        assert_eq!(enter(&mut gate, &policy, 5_001), Err(Reason::Open));
        assert_eq!(enter(&mut gate, &policy, 9_999), Err(Reason::Open));
        assert!(enter(&mut gate, &policy, 10_000).is_ok());
    }

    #[test]
    fn few_or_old_failures_don_t_open_it() {
        let policy = policy();
        let mut gate = Gate::new(&policy, at(0));
        for step in 0..50 {
            // Three failures within any ten seconds.
            call(&mut gate, &policy, Verdict::Failure, step * 3_400);
        }
        for _ in 0..100 {
            call(&mut gate, &policy, Verdict::Neutral, 200_000);
        }
        assert!(enter(&mut gate, &policy, 200_000).is_ok());
    }

    #[test]
    fn late_news_of_calls_before_the_breaker_opened_change_nothing() {
        let policy = policy();
        let mut gate = Gate::new(&policy, at(0));
        let old = enter(&mut gate, &policy, 0).expect("open");
        for _ in 0..4 {
            call(&mut gate, &policy, Verdict::Failure, 0);
        }
        let probe = enter(&mut gate, &policy, 5_000).expect("a probe");
        gate.leave(&policy, old, Verdict::Failure, None, at(5_001));
        gate.leave(&policy, probe, Verdict::Success, None, at(5_002));
        call(&mut gate, &policy, Verdict::Success, 5_003);
        for _ in 0..3 {
            enter(&mut gate, &policy, 5_004).expect("closed");
        }
    }

    #[test]
    fn a_pause_holds_everyone_back_and_never_shrinks() {
        let policy = policy();
        let mut gate = Gate::new(&policy, at(0));
        let permits: Vec<_> = (0..2).map(|_| enter(&mut gate, &policy, 0).expect("open")).collect();
        gate.leave(&policy, permits[0], Verdict::Success, Some(at(7_000)), at(1));
        gate.leave(&policy, permits[1], Verdict::Success, Some(at(3_000)), at(2));
        let closed = gate.enter(&policy, Permit(Uuid::nil()), at(3));
        assert_eq!(closed, Entered::Closed { until: at(7_000), reason: Reason::Paused });
        assert!(enter(&mut gate, &policy, 7_000).is_ok());
    }

    #[test]
    fn a_gate_is_idle_once_it_has_forgotten_everything() {
        let policy = Policy { rate_per_second: Some(1), ..policy() };
        let mut gate = Gate::new(&policy, at(0));
        assert!(gate.is_idle(&policy, at(0)));
        call(&mut gate, &policy, Verdict::Success, 0);
        assert!(!gate.is_idle(&policy, at(9_000)));
        assert!(gate.is_idle(&policy, at(12_000)));
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_at_once(
            steps in prop::collection::vec((0_u8..3, 0_i64..2_000), 1..200),
            concurrency in 1_u32..6,
        ) {
            let policy = Policy { concurrency, min_calls: 1_000, ..policy() };
            let mut gate = Gate::new(&policy, at(0));
            let (mut inside, mut now) = (Vec::new(), 0);
            for (step, wait) in steps {
                now += wait.min(50);
                if step < 2 {
                    inside.extend(enter(&mut gate, &policy, now));
                } else if let Some(permit) = inside.pop() {
                    gate.leave(&policy, permit, Verdict::Success, None, at(now));
                }
                prop_assert!(inside.len() <= concurrency as usize);
            }
        }
    }
}
