//! The state machine. Every change of a job's state in any store is one of these, guarded by [`Change::sources`].
//!
//! ```mermaid
//! stateDiagram-v2
//!     [*] --> scheduled
//!     [*] --> queued
//!     [*] --> blocked
//!     [*] --> awaiting_children
//!     scheduled --> queued
//!     scheduled --> blocked
//!     blocked --> queued
//!     queued --> running
//!     queued --> blocked
//!     running --> queued: hand-back, lost lease
//!     running --> scheduled: snooze
//!     running --> retrying
//!     retrying --> queued
//!     running --> awaiting_approval
//!     awaiting_approval --> running: warm
//!     awaiting_approval --> queued: parked
//! ```
//! Any non-terminal state may fail or be cancelled; `scheduled`, `queued` and `blocked` may expire;
//! `running` and `awaiting_*` may complete. A job that asks a person completes with the answer, which may come before anybody
//! knows that the question was delivered: from every state it can be in until then.

use super::JobState::{self, *};

/// Something that happens to a job.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Change {
    /// Its time has come, and its session is free.
    ComeDue,
    /// Its time has come, or it was due, but its session is busy.
    Block,
    /// Its session is free now.
    Unblock,
    /// A worker takes it.
    Claim,
    /// The holder gives it back unharmed, or its lease passed.
    HandBack,
    /// The holder puts it off without spending an attempt.
    Snooze,
    /// The attempt failed and another will follow.
    Retry,
    /// A tool call waits for a person.
    AwaitApproval,
    /// Decided while the process was kept warm.
    ResumeWarm,
    /// Decided, or lost its holder, after the process was let go.
    ResumeParked,
    /// A question waits.
    AwaitAnswer,
    /// A bridge has it.
    AwaitCallback,
    /// Children were made while it ran.
    AwaitChildren,
    /// Done.
    Complete,
    /// Done in part.
    CompletePartly,
    /// Done: whoever it asks has answered, a person or a bridge, wherever its delivery is.
    Answer,
    /// Given up.
    Fail,
    /// Stopped on request.
    Cancel,
    /// Not started in time.
    Expire,
}

/// A change that the job's state does not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a {from} job can't {change:?}")]
pub struct Illegal {
    /// The state it was in.
    pub from: JobState,
    /// What was asked.
    pub change: Change,
}

impl Change {
    /// Every change there is.
    pub const ALL: &'static [Self] = &[
        Self::ComeDue,
        Self::Block,
        Self::Unblock,
        Self::Claim,
        Self::HandBack,
        Self::Snooze,
        Self::Retry,
        Self::AwaitApproval,
        Self::ResumeWarm,
        Self::ResumeParked,
        Self::AwaitAnswer,
        Self::AwaitCallback,
        Self::AwaitChildren,
        Self::Complete,
        Self::CompletePartly,
        Self::Answer,
        Self::Fail,
        Self::Cancel,
        Self::Expire,
    ];

    /// The state it leads to.
    #[must_use]
    pub const fn target(self) -> JobState {
        match self {
            Self::ComeDue | Self::Unblock | Self::HandBack | Self::ResumeParked => Queued,
            Self::Block => Blocked,
            Self::Claim | Self::ResumeWarm => Running,
            Self::Snooze => Scheduled,
            Self::Retry => Retrying,
            Self::AwaitApproval => AwaitingApproval,
            Self::AwaitAnswer => AwaitingAnswer,
            Self::AwaitCallback => AwaitingCallback,
            Self::AwaitChildren => AwaitingChildren,
            Self::Complete | Self::Answer => Completed,
            Self::CompletePartly => Partial,
            Self::Fail => Failed,
            Self::Cancel => Cancelled,
            Self::Expire => Expired,
        }
    }

    /// The states it may start from. Stores put these into the guard of the statement that applies it.
    #[must_use]
    pub const fn sources(self) -> &'static [JobState] {
        const LIVE: &[JobState] = &[
            Scheduled,
            Queued,
            Blocked,
            AwaitingChildren,
            Running,
            Retrying,
            AwaitingApproval,
            AwaitingAnswer,
            AwaitingCallback,
        ];
        match self {
            Self::ComeDue => &[Scheduled, Retrying],
            Self::Block => &[Scheduled, Queued],
            Self::Unblock => &[Blocked],
            Self::Claim => &[Queued],
            Self::HandBack
            | Self::Snooze
            | Self::Retry
            | Self::AwaitApproval
            | Self::AwaitAnswer
            | Self::AwaitCallback
            | Self::AwaitChildren => &[Running],
            Self::ResumeWarm | Self::ResumeParked => &[AwaitingApproval],
            Self::Complete | Self::CompletePartly => &[Running, AwaitingAnswer, AwaitingCallback, AwaitingChildren],
            Self::Answer => &[Scheduled, Queued, Blocked, Running, Retrying, AwaitingAnswer, AwaitingCallback],
            Self::Fail | Self::Cancel => LIVE,
            Self::Expire => &[Scheduled, Queued, Blocked],
        }
    }

    /// The state after the change.
    ///
    /// # Errors
    /// [`Illegal`] if a job in `from` can't change so.
    pub fn apply(self, from: JobState) -> Result<JobState, Illegal> {
        if self.sources().contains(&from) { Ok(self.target()) } else { Err(Illegal { from, change: self }) }
    }
}

/// The states a job may be born in.
pub const BORN: &[JobState] = &[Scheduled, Queued, Blocked, AwaitingChildren];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The table of the contract, written down a second time and by hand.
    fn contract_allows(from: JobState, to: JobState) -> bool {
        match (from, to) {
            (from, _) if from.is_terminal() => false,
            (_, Failed | Cancelled) => true,
            (Scheduled, Queued | Blocked | Expired) => true,
            (Blocked, Queued | Expired) => true,
            (Queued, Running | Blocked | Expired) => true,
            (Running, Queued | Scheduled | Retrying | Completed | Partial) => true,
            (Running, AwaitingApproval | AwaitingAnswer | AwaitingCallback | AwaitingChildren) => true,
            (Retrying, Queued) => true,
            (AwaitingApproval, Running | Queued) => true,
            (AwaitingAnswer | AwaitingCallback | AwaitingChildren, Completed | Partial) => true,
            // Answered before it was known to be delivered.
            (Scheduled | Queued | Blocked | Retrying, Completed) => true,
            _ => false,
        }
    }

    #[test]
    fn the_changes_reach_exactly_what_the_contract_allows() {
        for &from in JobState::ALL {
            for &to in JobState::ALL {
                let reachable = Change::ALL.iter().any(|change| change.target() == to && change.apply(from).is_ok());
                assert_eq!(reachable, contract_allows(from, to), "{from} → {to}");
            }
        }
    }

    fn any_change() -> impl Strategy<Value = Change> {
        prop::sample::select(Change::ALL)
    }

    proptest! {
        #[test]
        fn terminal_is_final_in_every_history(
            born in prop::sample::select(BORN),
            changes in prop::collection::vec(any_change(), 0..60),
        ) {
            let mut state = born;
            let mut ended = None;
            for change in changes {
                match change.apply(state) {
                    Ok(next) => {
                        prop_assert!(ended.is_none(), "left {ended:?} by {change:?}");
                        prop_assert!(contract_allows(state, next));
                        state = next;
                    }
                    Err(illegal) => prop_assert_eq!(illegal, Illegal { from: state, change }),
                }
                if state.is_terminal() {
                    ended = Some(state);
                }
            }
        }
    }
}
