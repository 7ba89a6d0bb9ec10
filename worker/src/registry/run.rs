//! One claim being worked on, as everything in the worker sees it.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use errand_common::domain::{ApprovalId, Fence};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    guard::MonotonicInstant,
    slots::{Slot, Slots},
};

/// Why a run was told to stop. The first reason stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StopReason {
    /// The claim is no longer ours: cancelled, or claimed by another.
    Revoked,
    /// The lease could not be renewed in time.
    LeaseLost,
    /// The worker is stopping.
    Drain,
    /// The attempt ran longer than it may.
    Timeout,
    /// The store refused its events for good.
    EventsRefused,
    /// It waits for a person, and its process is wanted no longer: the engine checkpoints, and the job waits without it.
    Park,
}

/// One claim being worked on.
#[derive(Debug)]
pub(crate) struct Run {
    fence: Fence,
    stop: CancellationToken,
    reason: OnceLock<StopReason>,
    revoked: AtomicBool,
    rerun_unsafe: AtomicBool,
    must_end_by: watch::Sender<MonotonicInstant>,
    place: Mutex<Place>,
    /// It waits for a person: the attempt's clock stands.
    waiting: watch::Sender<bool>,
    decided: watch::Sender<()>,
    /// What it asked a person and is not known to be answered.
    open_asks: Mutex<Vec<ApprovalId>>,
}

/// Whether it holds a slot.
#[derive(Debug)]
enum Place {
    Working(Slot),
    /// It waits for a person, and will take a slot of these again.
    Waiting(Arc<Slots>),
    Over,
}

impl Run {
    pub(super) fn new(fence: Fence, must_end_by: MonotonicInstant, slot: Slot) -> Self {
        Self {
            fence,
            stop: CancellationToken::new(),
            reason: OnceLock::new(),
            revoked: AtomicBool::new(false),
            rerun_unsafe: AtomicBool::new(false),
            must_end_by: watch::Sender::new(must_end_by),
            place: Mutex::new(Place::Working(slot)),
            waiting: watch::Sender::new(false),
            decided: watch::Sender::new(()),
            open_asks: Mutex::default(),
        }
    }

    pub(crate) const fn fence(&self) -> Fence {
        self.fence
    }

    /// Tells the run to stop.
    pub(crate) fn stop(&self, reason: StopReason) {
        if reason == StopReason::Revoked {
            self.revoked.store(true, Ordering::Release);
        }
        // A late reason changes nothing but the flag above: the run is stopping already.
        let _ = self.reason.set(reason);
        self.stop.cancel();
    }

    pub(crate) const fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    pub(crate) fn stop_reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }

    /// The claim is known to be another's.
    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Whether its writes may still be tried: it was not revoked, and the safe part of the lease has not passed.
    pub(crate) fn may_write(&self) -> bool {
        !self.is_revoked() && self.lease_holds()
    }

    /// Whether the safe part of the lease has not passed.
    pub(crate) fn lease_holds(&self) -> bool {
        self.stop_reason() != Some(StopReason::LeaseLost) && !self.has_lapsed(MonotonicInstant::now())
    }

    /// Whether the safe part of the lease has passed at `now`.
    pub(super) fn has_lapsed(&self, now: MonotonicInstant) -> bool {
        now >= *self.must_end_by.borrow()
    }

    /// Moves the end of the safe part of the lease, unless the run was stopped because it had passed.
    pub(super) fn extend(&self, must_end_by: MonotonicInstant) {
        if self.stop_reason() != Some(StopReason::LeaseLost) {
            self.must_end_by.send_if_modified(|end| {
                let later = must_end_by > *end;
                if later {
                    *end = must_end_by;
                }
                later
            });
        }
    }

    /// Follows the end of the safe part of the lease.
    pub(crate) fn must_end_by(&self) -> watch::Receiver<MonotonicInstant> {
        self.must_end_by.subscribe()
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It waits for a person: its slot is given up, and the attempt's clock stands.
    pub(crate) fn begin_waiting(&self) {
        let mut place = self.place();
        if let Place::Working(slot) = &*place {
            let slots = slot.slots().clone();
            *place = Place::Waiting(slots);
        }
        self.waiting.send_replace(true);
    }

    /// It works again, with a slot that it does not wait for. A run that is stopping needs none.
    pub(crate) fn end_waiting(&self) {
        let mut place = self.place();
        if let Place::Waiting(slots) = &*place
            && !self.stop.is_cancelled()
        {
            let slot = slots.take_now();
            *place = Place::Working(slot);
        }
        self.waiting.send_replace(false);
    }

    /// Nothing is left of it: its slot is free.
    pub(super) fn leave(&self) {
        *self.place() = Place::Over;
    }

    /// Follows whether it waits for a person.
    pub(crate) fn waiting(&self) -> watch::Receiver<bool> {
        self.waiting.subscribe()
    }

    pub(crate) fn tell_decided(&self) {
        self.decided.send_replace(());
    }

    /// Changes whenever somebody says that a decision about its tool calls was made, from now on.
    pub(crate) fn decided(&self) -> watch::Receiver<()> {
        self.decided.subscribe()
    }

    fn asks(&self) -> MutexGuard<'_, Vec<ApprovalId>> {
        self.open_asks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These are about to be asked: until they are answered or withdrawn, the job may be waiting for a person.
    pub(crate) fn asks_open(&self, ids: impl IntoIterator<Item = ApprovalId>) {
        self.asks().extend(ids);
    }

    /// These wait no more.
    pub(crate) fn asks_closed(&self, ids: &[ApprovalId]) {
        self.asks().retain(|open| !ids.contains(open));
    }

    /// What it asked and is not known to be answered or withdrawn.
    pub(crate) fn open_asks(&self) -> Vec<ApprovalId> {
        self.asks().clone()
    }

    /// From here on, cutting the run off leaves an outcome that can't be known.
    pub(crate) fn forbid_rerun(&self) {
        self.rerun_unsafe.store(true, Ordering::Release);
    }

    /// What was under way is known again.
    pub(crate) fn permit_rerun(&self) {
        self.rerun_unsafe.store(false, Ordering::Release);
    }

    /// Whether cutting the run off leaves an outcome that can't be known.
    pub(crate) fn rerun_is_forbidden(&self) -> bool {
        self.rerun_unsafe.load(Ordering::Acquire)
    }
}
