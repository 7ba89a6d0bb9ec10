//! Parents and children: how a parent ends once its children have. Pure.

use serde_json::{Map, Value, json};

use super::{Change, JobState};

/// The children of one job, counted by state.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Children {
    /// Each state that any of them is in, with how many are.
    pub by_state: Vec<(JobState, u64)>,
}

impl Children {
    /// How many there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_state.iter().map(|(_, count)| count).sum()
    }

    fn count(&self, wanted: impl Fn(JobState) -> bool) -> u64 {
        self.by_state.iter().filter(|(state, _)| wanted(*state)).map(|(_, count)| count).sum()
    }

    /// How their parent ends: `completed` if all did, `failed` if none did anything, `partial` in between. `None` while one
    /// of them goes on, or there is none.
    #[must_use]
    pub fn verdict(&self) -> Option<Change> {
        if self.total() == 0 || self.count(|state| !state.is_terminal()) > 0 {
            return None;
        }
        if self.count(|state| state == JobState::Completed) == self.total() {
            return Some(Change::Complete);
        }
        let useful = self.count(|state| matches!(state, JobState::Completed | JobState::Partial));
        Some(if useful > 0 { Change::CompletePartly } else { Change::Fail })
    }

    /// What a parent has as its result: `{children: {total, by_state}}`.
    #[must_use]
    pub fn result(&self) -> Value {
        let by_state: Map<String, Value> =
            self.by_state.iter().map(|(state, count)| (state.as_str().to_owned(), (*count).into())).collect();
        json!({"children": {"total": self.total(), "by_state": by_state}})
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn children(by_state: &[(JobState, u64)]) -> Children {
        Children { by_state: by_state.to_vec() }
    }

    #[test]
    fn a_parent_ends_as_its_children_did() {
        use JobState::*;
        for (counts, expected) in [
            (vec![(Completed, 3)], Some(Change::Complete)),
            (vec![(Completed, 1), (Failed, 2)], Some(Change::CompletePartly)),
            (vec![(Partial, 1), (Failed, 2)], Some(Change::CompletePartly)),
            (vec![(Failed, 1), (Cancelled, 1), (Expired, 1)], Some(Change::Fail)),
            (vec![(Completed, 2), (Queued, 1)], None),
            (vec![], None),
        ] {
            assert_eq!(children(&counts).verdict(), expected, "{counts:?}");
        }
    }

    #[test]
    fn the_result_counts_by_state() {
        let result = children(&[(JobState::Completed, 2), (JobState::Failed, 1)]).result();
        assert_eq!(result, json!({"children": {"total": 3, "by_state": {"completed": 2, "failed": 1}}}));
    }

    proptest! {
        #[test]
        fn a_parent_outlives_its_children(states in prop::collection::vec((prop::sample::select(JobState::ALL), 1..5_u64), 1..6)) {
            let counted = children(&states);
            let all_ended = states.iter().all(|(state, _)| state.is_terminal());
            prop_assert_eq!(counted.verdict().is_some(), all_ended);
            if let Some(change) = counted.verdict() {
                prop_assert!(change.apply(JobState::AwaitingChildren).is_ok());
            }
        }
    }
}
