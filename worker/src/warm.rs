//! Runs that wait for a person, and whose engine's process is kept warm meanwhile.
//!
//! They hold no slot, so there may be more of them than slots, and they go on without waiting for one; how many there may
//! be bounds by how much a worker is overdrawn then. One whose engine can go on later is let go ("parked") when it has
//! waited long enough, when too many wait, and when the worker stops. One whose engine can't stays until it is answered.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use errand_common::config;

use crate::registry::{Run, StopReason};

/// The runs of a worker that wait for a person.
#[derive(Debug)]
pub(crate) struct Warm {
    table: Mutex<Table>,
    /// How long one is kept warm that could be parked.
    keep: Duration,
    /// Most of those that could be parked.
    most: usize,
    /// Most of the others.
    most_tied: usize,
}

#[derive(Debug, Default)]
struct Table {
    /// The longest-waiting first.
    waiting: Vec<Waiting>,
    /// The worker stops: nothing is kept warm that can be parked.
    draining: bool,
}

#[derive(Debug)]
struct Waiting {
    run: Arc<Run>,
    since: Instant,
    can_be_parked: bool,
    /// Its questions at once: an engine may ask about several calls side by side.
    questions: u32,
}

/// A question's place. The run works again when its last is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    warm: Arc<Warm>,
    run: Arc<Run>,
    /// When it is to be parked; never if it can't be.
    until: Option<Instant>,
}

impl Warm {
    pub(crate) fn new(config: &config::Worker) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::default(),
            keep: Duration::from_secs(config.approval_warm_seconds.into()),
            most: config.max_warm as usize,
            most_tied: config.concurrency.max(1) as usize,
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run waits from here on; its slot is free. `None`: its engine can't go on later, and as many such runs as this
    /// worker takes wait already.
    pub(crate) fn enter(self: &Arc<Self>, run: &Arc<Run>, can_be_parked: bool) -> Option<Place> {
        let mut table = self.table();
        let since = match table.waiting.iter_mut().find(|waiting| Arc::ptr_eq(&waiting.run, run)) {
            Some(waiting) => {
                waiting.questions += 1;
                waiting.since
            }
            None => {
                if !can_be_parked && table.count(false) >= self.most_tied {
                    return None;
                }
                let since = Instant::now();
                table.waiting.push(Waiting { run: run.clone(), since, can_be_parked, questions: 1 });
                run.begin_waiting();
                since
            }
        };
        if table.draining {
            table.let_go(0);
        } else {
            table.let_go(self.most);
        }
        let until = can_be_parked.then(|| since + self.keep);
        Some(Place { warm: self.clone(), run: run.clone(), until })
    }

    /// Parks all that can be.
    pub(crate) fn let_go(&self) {
        self.table().let_go(0);
    }

    /// The worker stops: parks all that can be, and each that comes to wait from now on.
    pub(crate) fn drain(&self) {
        let mut table = self.table();
        table.draining = true;
        table.let_go(0);
    }
}

impl Table {
    fn count(&self, can_be_parked: bool) -> usize {
        self.waiting.iter().filter(|waiting| waiting.can_be_parked == can_be_parked).count()
    }

    /// Parks those that have waited longest, so that no more than `most` are left that could be.
    fn let_go(&mut self, most: usize) {
        let mut excess = self.count(true).saturating_sub(most);
        self.waiting.retain(|waiting| {
            let goes = waiting.can_be_parked && excess > 0;
            if goes {
                excess -= 1;
                waiting.run.stop(StopReason::Park);
            }
            !goes
        });
    }
}

impl Place {
    /// Waits until the run has been kept warm for long enough, and parks it then.
    pub(crate) async fn cool(&self) {
        match self.until {
            Some(until) => tokio::time::sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
        self.run.stop(StopReason::Park);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.warm.table();
        let Some(at) = table.waiting.iter().position(|waiting| Arc::ptr_eq(&waiting.run, &self.run)) else { return };
        table.waiting[at].questions -= 1;
        if table.waiting[at].questions == 0 {
            table.waiting.remove(at);
            self.run.end_waiting();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::{
        guard::MonotonicInstant,
        registry::{
            Held, Registry,
            tests::{fence, hold},
        },
        slots::Slots,
    };

    const LEASE: Duration = Duration::from_secs(30);

    fn warm(max_warm: u32, concurrency: u32, approval_warm_seconds: u32) -> Arc<Warm> {
        Warm::new(&config::Worker { max_warm, concurrency, approval_warm_seconds, ..config::Worker::default() })
    }

    fn runs<const N: usize>() -> [Held; N] {
        let registry = Arc::new(Registry::default());
        std::array::from_fn(|_| hold(&registry, fence(), LEASE))
    }

    fn reasons(runs: &[Held]) -> Vec<Option<StopReason>> {
        runs.iter().map(|held| held.run().stop_reason()).collect()
    }

    #[tokio::test]
    async fn a_waiting_run_holds_no_slot_and_goes_on_without_waiting_for_one() {
        let (registry, slots) = (Arc::new(Registry::default()), Slots::new(1));
        let warm = warm(16, 1, 120);
        let held = registry.hold(fence(), MonotonicInstant::now().plus(LEASE), slots.take_now());
        let place = warm.enter(held.run(), true).expect("a place");
        assert!(*held.run().waiting().borrow());
        let other = slots.free(1).now_or_never().expect("its slot is free");
        drop(place);
        assert!(!*held.run().waiting().borrow(), "it works again");
        drop(other);
        assert!(slots.free(1).now_or_never().is_none(), "and has a slot");
        drop(held);
        assert!(slots.free(1).now_or_never().is_some());
    }

    #[test]
    fn the_longest_waiting_is_let_go_when_too_many_wait() {
        let (warm, runs) = (warm(2, 1, 120), runs::<3>());
        let places: Vec<_> = runs.iter().map(|held| warm.enter(held.run(), true)).collect();
        assert_eq!(reasons(&runs), [Some(StopReason::Park), None, None]);
        drop(places);
        assert!(warm.table().waiting.is_empty());
    }

    #[test]
    fn one_that_can_not_go_on_later_is_never_let_go_and_there_are_only_so_many() {
        let (warm, runs) = (warm(0, 2, 120), runs::<3>());
        let tied: Vec<_> = runs.iter().map(|held| warm.enter(held.run(), false)).collect();
        assert_eq!(tied.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
        assert!(warm.enter(runs[0].run(), false).is_some(), "one more question of a run that waits");
        warm.drain();
        assert_eq!(reasons(&runs), [None; 3]);
    }

    #[test]
    fn a_run_with_two_questions_works_again_after_the_second() {
        let (warm, runs) = (warm(1, 1, 120), runs::<1>());
        let run = runs[0].run();
        let first = warm.enter(run, true);
        let second = warm.enter(run, true);
        drop(first);
        assert!(*run.waiting().borrow());
        drop(second);
        assert!(!*run.waiting().borrow());
        assert_eq!(run.stop_reason(), None);
    }

    #[test]
    fn a_worker_that_stops_keeps_nothing_warm() {
        let (warm, runs) = (warm(16, 1, 120), runs::<3>());
        let _waiting = warm.enter(runs[0].run(), true);
        let gone_on = warm.enter(runs[1].run(), true);
        drop(gone_on);
        warm.drain();
        let _late = warm.enter(runs[2].run(), true);
        assert_eq!(reasons(&runs), [Some(StopReason::Park), None, Some(StopReason::Park)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_is_parked_when_it_was_kept_warm_for_long_enough() {
        let (warm, runs) = (warm(16, 1, 1), runs::<1>());
        let place = warm.enter(runs[0].run(), true).expect("a place");
        place.cool().await;
        assert_eq!(reasons(&runs), [Some(StopReason::Park)]);
    }
}
