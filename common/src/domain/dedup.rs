//! What a submission under a dedup key comes to. Pure: takes what stands under the key, and the clock, as arguments.

use std::time::Duration;

use super::{JobId, JobState, Timestamp, job::text_enum};

text_enum! {
    /// How submissions under one key are deduplicated. Each is judged by its own mode, against the last job that was made
    /// under the key.
    DedupMode {
        /// While the last job has not ended, further submissions fall to it.
        Drop = "drop",
        /// For `ttl` from its submission, further submissions fall to the last job, whatever becomes of it; then no longer.
        Throttle = "throttle",
        /// The job starts `ttl` after the last submission: each replaces what the one before brought, and keeps its id.
        Debounce = "debounce",
        /// While one is active, one successor waits for its end; further submissions replace what the successor brings.
        KeepLastIfActive = "keep_last_if_active",
    }
}

impl DedupMode {
    /// It needs a `ttl`, and the others must not have one.
    #[must_use]
    pub const fn has_ttl(self) -> bool {
        matches!(self, Self::Throttle | Self::Debounce)
    }

    /// It may replace what an earlier submission brought, or make a job wait for another.
    #[must_use]
    pub const fn touches_others(self) -> bool {
        matches!(self, Self::Debounce | Self::KeepLastIfActive)
    }
}

/// A key, and what it means. Keys are told apart by tenant and kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dedup {
    /// The client's own.
    pub key: String,
    /// What becomes of further submissions.
    pub mode: DedupMode,
    /// For the modes that have one, else zero.
    pub ttl: Duration,
}

impl Dedup {
    /// Until when further submissions fall to a job that is submitted now, whatever becomes of it.
    #[must_use]
    pub fn keep_until(&self, now: Timestamp) -> Timestamp {
        if self.mode == DedupMode::Throttle { now.plus(self.ttl) } else { now }
    }
}

/// The last job made under a key, as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Its id.
    pub id: JobId,
    /// Its state.
    pub state: JobState,
    /// A worker has taken it at least once.
    pub claimed: bool,
    /// When it is due.
    pub run_at: Timestamp,
    /// See [`Dedup::keep_until`].
    pub keep_until: Timestamp,
    /// Made as a successor: the job it waits for, or waited for when it ended, and whether that one still goes on.
    pub waits_for: Option<(JobId, bool)>,
}

/// What becomes of a submission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A job of its own.
    New,
    /// A job of its own, which waits until this one has ended.
    Succeed(JobId),
    /// None: the last job stands for it.
    FallTo,
    /// None: the last job takes over what it brings.
    Replace,
}

/// Judges a submission.
#[must_use]
pub fn judge(mode: DedupMode, last: Option<&Standing>, now: Timestamp) -> Verdict {
    let Some(last) = last else { return Verdict::New };
    let live = !last.state.is_terminal();
    match mode {
        DedupMode::Drop if live => Verdict::FallTo,
        DedupMode::Throttle if now < last.keep_until => Verdict::FallTo,
        DedupMode::Debounce if last.state == JobState::Scheduled && !last.claimed && last.run_at > now => {
            Verdict::Replace
        }
        DedupMode::KeepLastIfActive => match last.waits_for {
            Some((_, true)) if live => Verdict::Replace,
            // Or it waits for nobody any more, and is as good as freed.
            _ if live => Verdict::Succeed(last.id),
            // A successor that ended before its turn leaves the one that it waited for.
            Some((first, true)) => Verdict::Succeed(first),
            _ => Verdict::New,
        },
        DedupMode::Drop | DedupMode::Throttle | DedupMode::Debounce => Verdict::New,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000);
    const LATER: Timestamp = Timestamp::from_micros(2_000_000);

    fn last(state: JobState) -> Standing {
        Standing { id: JobId::new(), state, claimed: false, run_at: NOW, keep_until: NOW, waits_for: None }
    }

    #[test]
    fn the_first_under_a_key_is_always_made() {
        for &mode in DedupMode::ALL {
            assert_eq!(judge(mode, None, NOW), Verdict::New);
        }
    }

    #[test]
    fn a_throttled_key_looks_at_its_window_alone() {
        for &state in JobState::ALL {
            let open = Standing { keep_until: NOW, ..last(state) };
            let closed = Standing { keep_until: LATER, ..last(state) };
            assert_eq!(judge(DedupMode::Throttle, Some(&open), NOW), Verdict::New, "{state}");
            assert_eq!(judge(DedupMode::Throttle, Some(&closed), NOW), Verdict::FallTo, "{state}");
        }
    }

    #[test]
    fn what_is_due_or_was_started_is_debounced_no_more() {
        let waiting = Standing { run_at: LATER, ..last(JobState::Scheduled) };
        let judged = |standing| judge(DedupMode::Debounce, Some(&standing), NOW);
        assert_eq!(judged(waiting), Verdict::Replace);
        assert_eq!(judged(Standing { run_at: NOW, ..waiting }), Verdict::New);
        assert_eq!(judged(Standing { claimed: true, ..waiting }), Verdict::New);
        assert_eq!(judged(Standing { state: JobState::Queued, ..waiting }), Verdict::New);
    }

    #[test]
    fn one_successor_waits_for_the_active_one() {
        let judged = |standing: Standing| judge(DedupMode::KeepLastIfActive, Some(&standing), NOW);
        let active = last(JobState::Running);
        assert_eq!(judged(active), Verdict::Succeed(active.id));
        let successor = Standing { waits_for: Some((active.id, true)), ..last(JobState::Blocked) };
        assert_eq!(judged(successor), Verdict::Replace);
        assert_eq!(judged(Standing { state: JobState::Cancelled, ..successor }), Verdict::Succeed(active.id));
        assert_eq!(
            judged(Standing { waits_for: Some((active.id, false)), ..successor }),
            Verdict::Succeed(successor.id)
        );
        let orphan = Standing { waits_for: Some((active.id, false)), ..successor };
        assert_eq!(judged(Standing { state: JobState::Cancelled, ..orphan }), Verdict::New);
        assert_eq!(judged(last(JobState::Completed)), Verdict::New);
    }

    fn any_standing() -> impl Strategy<Value = Standing> {
        let state = prop::sample::select(JobState::ALL);
        (state, any::<bool>(), 0..3_000_000_i64, 0..3_000_000_i64, prop::option::of(any::<bool>())).prop_map(
            |(state, claimed, run_at, keep_until, first)| Standing {
                id: JobId::new(),
                state,
                claimed,
                run_at: Timestamp::from_micros(run_at),
                keep_until: Timestamp::from_micros(keep_until),
                waits_for: first.map(|goes_on| (JobId::new(), goes_on)),
            },
        )
    }

    proptest! {
        #[test]
        fn what_has_ended_is_never_replaced_and_never_waited_for(mode in prop::sample::select(DedupMode::ALL), standing in any_standing()) {
            let verdict = judge(mode, Some(&standing), NOW);
            if standing.state.is_terminal() {
                prop_assert_ne!(verdict, Verdict::Replace);
                prop_assert_ne!(verdict, Verdict::Succeed(standing.id));
            }
            if standing.claimed && standing.state != JobState::Blocked && standing.waits_for.is_none() {
                prop_assert_ne!(verdict, Verdict::Replace, "nobody's input changes once a worker has seen it");
            }
            prop_assert!(mode.touches_others() || !matches!(verdict, Verdict::Replace | Verdict::Succeed(_)));
        }

        #[test]
        fn while_a_key_is_busy_there_is_never_a_second_of_its_own(standing in any_standing()) {
            prop_assume!(!standing.state.is_terminal());
            prop_assert_eq!(judge(DedupMode::Drop, Some(&standing), NOW), Verdict::FallTo);
            prop_assert_ne!(judge(DedupMode::KeepLastIfActive, Some(&standing), NOW), Verdict::New);
        }
    }
}
