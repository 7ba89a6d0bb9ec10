//! Whether leases may be ended.

use std::time::{Duration, Instant};

/// A lease may have passed because its holder is dead, or because nobody could reach the store to renew it. So leases are
/// ended only by who has been in touch with the store for one whole lease without a break: in that time every holder that
/// lives has renewed its registration, and is told from the dead. A process that has just started, or was frozen, has
/// been in touch with nothing.
#[derive(Debug)]
pub(super) struct Reaper {
    lease: Duration,
    last_contact: Option<Instant>,
    not_before: Instant,
}

impl Reaper {
    /// `at_once`: no other holder can live, so there is nobody to wait for.
    pub(super) fn new(lease: Duration, at_once: bool, now: Instant) -> Self {
        Self { lease, last_contact: at_once.then_some(now), not_before: now }
    }

    /// Longest silence between two contacts that is no break: renewals are made as often.
    fn longest_silence(&self) -> Duration {
        self.lease / 3
    }

    /// How often to be in touch at least.
    pub(super) fn touch_every(lease: Duration) -> Duration {
        lease / 6
    }

    fn in_touch(&self, now: Instant) -> bool {
        self.last_contact.is_some_and(|last| now.saturating_duration_since(last) <= self.longest_silence())
    }

    /// The store did not answer.
    pub(super) const fn missed(&mut self) {
        self.last_contact = None;
    }

    /// The store answered.
    pub(super) fn reached(&mut self, now: Instant) {
        if !self.in_touch(now) {
            self.not_before = now + self.lease;
        }
        self.last_contact = Some(now);
    }

    pub(super) fn may_reap(&self, now: Instant) -> bool {
        self.in_touch(now) && now >= self.not_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);
    const MOMENT: Duration = Duration::from_millis(1);

    /// In touch from `from` for `during`, each second. Returns the end.
    fn touch(reaper: &mut Reaper, from: Instant, during: Duration) -> Instant {
        for second in 0..=during.as_secs() {
            reaper.reached(from + Duration::from_secs(second));
        }
        from + during
    }

    #[test]
    fn who_has_just_started_reaps_nothing_for_one_lease_unless_alone() {
        let start = Instant::now();
        let mut reaper = Reaper::new(LEASE, false, start);
        assert!(!reaper.may_reap(start));
        let almost = touch(&mut reaper, start, LEASE - Duration::from_secs(1));
        assert!(!reaper.may_reap(almost));
        reaper.reached(start + LEASE);
        assert!(reaper.may_reap(start + LEASE));
        assert!(Reaper::new(LEASE, true, start).may_reap(start));
    }

    #[test]
    fn nothing_is_reaped_for_one_lease_after_the_store_came_back() {
        let start = Instant::now();
        let mut reaper = Reaper::new(LEASE, true, start);
        reaper.missed();
        assert!(!reaper.may_reap(start + MOMENT), "not while the store is away");
        let back = start + LEASE * 3;
        let later = touch(&mut reaper, back, LEASE);
        assert!(!reaper.may_reap(later - MOMENT));
        assert!(reaper.may_reap(later));
    }

    #[test]
    fn who_was_frozen_while_the_store_was_away_knows_nothing_of_it_and_waits_too() {
        let start = Instant::now();
        let mut reaper = Reaper::new(LEASE, true, start);
        let thawed = start + LEASE * 3;
        assert!(!reaper.may_reap(thawed), "before its first word with the store");
        reaper.reached(thawed);
        assert!(!reaper.may_reap(thawed), "and after it");
    }

    #[test]
    fn a_store_that_stays_reachable_puts_nothing_off() {
        let start = Instant::now();
        let mut reaper = Reaper::new(LEASE, true, start);
        let later = touch(&mut reaper, start, LEASE * 2);
        assert!(reaper.may_reap(later));
    }
}
