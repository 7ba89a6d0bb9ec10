//! The runs this worker holds: their fences, their stop tokens and the end of their leases.
//!
//! Shared by every core task. A run enters when it is claimed and leaves when its end is written, or was given up.

mod run;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use errand_common::domain::{Fence, JobId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) use self::run::{Run, StopReason};
use crate::{guard::MonotonicInstant, slots::Slot};

/// Stop signals that came before their run was known, kept so many.
const EARLY_STOPS: usize = 256;

/// When the safe part of a lease ends that was asked for at `sent`: a tenth before the lease itself. Counted from before
/// the request left, so that it ends earlier than the database's own count.
pub(crate) fn safe_end(sent: MonotonicInstant, lease: Duration) -> MonotonicInstant {
    sent.plus(lease - lease / 10)
}

/// The runs of this worker.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    table: Mutex<Table>,
    renewal_wanted: Notify,
    drain_asked: CancellationToken,
    left: Notify,
}

#[derive(Debug, Default)]
struct Table {
    runs: HashMap<(JobId, i64), Arc<Run>>,
    early_stops: VecDeque<(JobId, i64)>,
    draining: bool,
}

impl Registry {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a claim in. The run is known until the returned value is dropped, which also frees its slot.
    pub(crate) fn hold(self: &Arc<Self>, fence: Fence, must_end_by: MonotonicInstant, slot: Slot) -> Held {
        let run = Arc::new(Run::new(fence, must_end_by, slot));
        let key = (fence.job_id, fence.claim);
        let mut table = self.table();
        if let Some(at) = table.early_stops.iter().position(|stop| *stop == key) {
            table.early_stops.remove(at);
            run.stop(StopReason::Revoked);
        }
        if table.draining {
            run.stop(StopReason::Drain);
        }
        table.runs.insert(key, run.clone());
        Held { run, registry: self.clone() }
    }

    /// A signal to stop one claim. If its claim has not been taken in yet, it will stop when it is.
    pub(crate) fn revoke(&self, job_id: JobId, claim: i64) {
        let mut table = self.table();
        if let Some(run) = table.runs.get(&(job_id, claim)) {
            run.stop(StopReason::Revoked);
            return;
        }
        if table.early_stops.len() == EARLY_STOPS {
            table.early_stops.pop_front();
        }
        table.early_stops.push_back((job_id, claim));
    }

    /// A signal that a decision was made about tool calls of one claim.
    pub(crate) fn tell_decided(&self, job_id: JobId, claim: i64) {
        if let Some(run) = self.table().runs.get(&(job_id, claim)) {
            run.tell_decided();
        }
    }

    /// The worker's grace is over: every run stops, and so does every one taken in from now on.
    pub(crate) fn drain(&self) {
        let mut table = self.table();
        table.draining = true;
        for run in table.runs.values() {
            run.stop(StopReason::Drain);
        }
    }

    /// The worker is to claim nothing more and to end: an operator said so, or its process was asked to stop.
    pub(crate) fn ask_drain(&self) {
        self.drain_asked.cancel();
    }

    /// Cancelled by [`Registry::ask_drain`].
    pub(crate) const fn drain_asked(&self) -> &CancellationToken {
        &self.drain_asked
    }

    /// Stops the runs whose lease is about to pass. Returns how many it stopped.
    pub(crate) fn stop_lapsed(&self, now: MonotonicInstant) -> usize {
        let mut stopped = 0;
        for run in self.table().runs.values() {
            let lapsed = run.has_lapsed(now);
            if lapsed && !run.is_revoked() && run.stop_reason() != Some(StopReason::LeaseLost) {
                // One that is stopping for another reason keeps it; its writes are refused by `may_write`.
                if run.stop_reason().is_none() {
                    stopped += 1;
                }
                run.stop(StopReason::LeaseLost);
            }
        }
        stopped
    }

    /// The runs whose leases are to be renewed.
    pub(crate) fn renewable(&self) -> Vec<Arc<Run>> {
        self.table().runs.values().filter(|run| run.may_write()).cloned().collect()
    }

    /// Renewed, by a request sent at `sent`.
    pub(crate) fn renewed(run: &Run, sent: MonotonicInstant, lease: Duration) {
        run.extend(safe_end(sent, lease));
    }

    /// How many runs there are.
    pub(crate) fn len(&self) -> usize {
        self.table().runs.len()
    }

    /// Waits until there is none. For one caller at a time.
    pub(crate) async fn emptied(&self) {
        while self.len() > 0 {
            self.left.notified().await;
        }
    }

    /// Asks for a renewal now: something may have been missed, and a renewal tells which claims are no longer ours.
    pub(crate) fn want_renewal(&self) {
        self.renewal_wanted.notify_one();
    }

    /// Waits for [`Registry::want_renewal`].
    pub(crate) async fn renewal_wanted(&self) {
        self.renewal_wanted.notified().await;
    }
}

/// A run in the registry.
#[derive(Debug)]
pub(crate) struct Held {
    run: Arc<Run>,
    registry: Arc<Registry>,
}

impl Held {
    pub(crate) const fn run(&self) -> &Arc<Run> {
        &self.run
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let fence = self.run.fence();
        self.registry.table().runs.remove(&(fence.job_id, fence.claim));
        self.run.leave();
        self.registry.left.notify_one();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use errand_common::domain::LeaseToken;

    use super::*;
    use crate::slots::Slots;

    pub(crate) fn fence() -> Fence {
        Fence { job_id: JobId::new(), session_id: None, claim: 1, token: LeaseToken::random() }
    }

    pub(crate) fn hold(registry: &Arc<Registry>, fence: Fence, lease: Duration) -> Held {
        let slot = Slots::new(1).take_now();
        registry.hold(fence, safe_end(MonotonicInstant::now(), lease), slot)
    }

    #[test]
    fn a_run_is_stopped_a_tenth_of_the_lease_before_its_end() {
        let registry = Arc::new(Registry::default());
        let lease = Duration::from_secs(30);
        let sent = MonotonicInstant::now();
        let slot = Slots::new(1).take_now();
        let held = registry.hold(fence(), safe_end(sent, lease), slot);

        assert_eq!(registry.stop_lapsed(sent.plus(Duration::from_millis(26_999))), 0);
        assert!(held.run().stop_reason().is_none());
        assert_eq!(registry.stop_lapsed(sent.plus(Duration::from_secs(27))), 1);
        assert_eq!(held.run().stop_reason(), Some(StopReason::LeaseLost));
        assert!(!held.run().may_write());
    }

    #[test]
    fn a_renewal_counts_from_when_it_was_sent_and_never_shortens() {
        let registry = Arc::new(Registry::default());
        let lease = Duration::from_secs(30);
        let sent = MonotonicInstant::now();
        let slot = Slots::new(1).take_now();
        let held = registry.hold(fence(), safe_end(sent, lease), slot);

        Registry::renewed(held.run(), sent.plus(Duration::from_secs(10)), lease);
        assert_eq!(*held.run().must_end_by().borrow(), sent.plus(Duration::from_secs(37)));
        Registry::renewed(held.run(), sent.plus(Duration::from_secs(5)), lease);
        assert_eq!(*held.run().must_end_by().borrow(), sent.plus(Duration::from_secs(37)));
    }

    #[test]
    fn a_run_that_lost_its_lease_does_not_come_back_by_a_late_renewal() {
        let registry = Arc::new(Registry::default());
        let held = hold(&registry, fence(), Duration::from_secs(30));
        held.run().stop(StopReason::LeaseLost);
        Registry::renewed(held.run(), MonotonicInstant::now().plus(Duration::from_secs(60)), Duration::from_secs(30));
        assert!(!held.run().may_write());
        assert!(registry.renewable().is_empty());
    }

    #[test]
    fn a_stop_that_comes_before_its_claim_is_known_is_not_lost() {
        let registry = Arc::new(Registry::default());
        let fence = fence();
        registry.revoke(fence.job_id, fence.claim);
        let held = hold(&registry, fence, Duration::from_secs(30));
        assert_eq!(held.run().stop_reason(), Some(StopReason::Revoked));
        let next = hold(&registry, Fence { claim: 2, ..fence }, Duration::from_secs(30));
        assert_eq!(next.run().stop_reason(), None, "a signal is for one claim only");
    }

    #[test]
    fn a_stop_for_another_claim_leaves_the_run_alone() {
        let registry = Arc::new(Registry::default());
        let fence = fence();
        let held = hold(&registry, fence, Duration::from_secs(30));
        registry.revoke(fence.job_id, fence.claim + 1);
        assert_eq!(held.run().stop_reason(), None);
        drop(held);
        assert_eq!(registry.len(), 0);
    }

    #[test]
    fn a_revoked_run_that_is_already_stopping_must_not_write() {
        let registry = Arc::new(Registry::default());
        let fence = fence();
        let held = hold(&registry, fence, Duration::from_secs(30));
        held.run().stop(StopReason::Timeout);
        assert!(held.run().may_write());
        registry.revoke(fence.job_id, fence.claim);
        assert_eq!(held.run().stop_reason(), Some(StopReason::Timeout));
        assert!(!held.run().may_write());
    }

    #[test]
    fn what_is_claimed_while_draining_stops_at_once() {
        let registry = Arc::new(Registry::default());
        registry.drain();
        let held = hold(&registry, fence(), Duration::from_secs(30));
        assert_eq!(held.run().stop_reason(), Some(StopReason::Drain));
    }
}
