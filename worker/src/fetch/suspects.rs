//! Jobs that must run alone, as one worker remembers them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use errand_common::domain::JobId;

/// Most that are remembered. The others are told of again, to this worker or another.
const REMEMBERED: usize = 64;

/// Which jobs to claim alone, one after the other.
#[derive(Debug)]
pub(super) struct Suspects {
    waiting: VecDeque<JobId>,
    /// Until then it has given up: its other runs did not make room in time.
    resting_until: Option<Instant>,
}

impl Suspects {
    pub(super) const fn new() -> Self {
        Self { waiting: VecDeque::new(), resting_until: None }
    }

    /// Remembers them, unless it rests.
    pub(super) fn remember(&mut self, ids: Vec<JobId>, now: Instant) {
        if self.resting_until.is_some_and(|until| now < until) {
            return;
        }
        for id in ids {
            if self.waiting.len() < REMEMBERED && !self.waiting.contains(&id) {
                self.waiting.push_back(id);
            }
        }
    }

    /// The one that is to run next.
    pub(super) fn first(&self) -> Option<JobId> {
        self.waiting.front().copied()
    }

    /// The first was claimed, or can't be.
    pub(super) fn done(&mut self) {
        self.waiting.pop_front();
    }

    /// Leaves all of them to others, or to later.
    pub(super) fn rest(&mut self, now: Instant, pause: Duration) {
        self.waiting.clear();
        self.resting_until = Some(now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_remembered_once_and_only_so_many() {
        let mut suspects = Suspects::new();
        let ids: Vec<_> = (0..100).map(|_| JobId::new()).collect();
        let now = Instant::now();
        suspects.remember(vec![ids[0], ids[0]], now);
        suspects.remember(ids.clone(), now);
        assert_eq!(suspects.waiting.len(), REMEMBERED);
        assert_eq!(suspects.first(), Some(ids[0]));
        suspects.done();
        assert_eq!(suspects.first(), Some(ids[1]));
    }

    #[test]
    fn after_it_gave_up_it_takes_no_suspect_for_a_while() {
        let mut suspects = Suspects::new();
        let now = Instant::now();
        let pause = Duration::from_secs(60);
        suspects.remember(vec![JobId::new()], now);
        suspects.rest(now, pause);
        suspects.remember(vec![JobId::new()], now + pause / 2);
        assert_eq!(suspects.first(), None);
        suspects.remember(vec![JobId::new()], now + pause);
        assert!(suspects.first().is_some());
    }
}
