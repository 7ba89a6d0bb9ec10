//! How many runs may work at once.
//!
//! A run that waits for a person gives its slot up, and takes one again without waiting when it goes on: the slots are
//! overdrawn then, and what is given back next pays the debt before anything new is claimed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

/// The slots of a worker.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Semaphore,
    all: u32,
    /// Slots taken that were not there.
    debt: Mutex<u32>,
}

/// One slot, or several, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Arc<Slots>,
    count: u32,
}

impl Slots {
    pub(crate) fn new(all: u32) -> Arc<Self> {
        Arc::new(Self { free: Semaphore::new(all as usize), all, debt: Mutex::new(0) })
    }

    fn debt(&self) -> MutexGuard<'_, u32> {
        self.debt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(self: &Arc<Self>, count: u32) -> Slot {
        Slot { slots: self.clone(), count }
    }

    /// All free slots, `limit` at most; waits for the first.
    pub(crate) async fn free(self: &Arc<Self>, limit: usize) -> Vec<Slot> {
        let mut free = vec![self.take(1).await];
        while free.len() < limit
            && let Ok(permit) = self.free.try_acquire()
        {
            permit.forget();
            free.push(self.slot(1));
        }
        free
    }

    /// Every slot there is; waits until no run holds one.
    pub(crate) async fn all(self: &Arc<Self>) -> Slot {
        self.take(self.all).await
    }

    async fn take(self: &Arc<Self>, count: u32) -> Slot {
        match self.free.acquire_many(count).await {
            Ok(permits) => permits.forget(),
            // Nobody closes it.
            Err(_closed) => std::future::pending().await,
        }
        self.slot(count)
    }

    /// One slot at once, whether there is one or not.
    pub(crate) fn take_now(self: &Arc<Self>) -> Slot {
        let mut debt = self.debt();
        match self.free.try_acquire() {
            Ok(permit) => permit.forget(),
            Err(_none) => *debt += 1,
        }
        drop(debt);
        self.slot(1)
    }
}

impl Slot {
    /// Where it belongs.
    pub(crate) const fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut debt = self.slots.debt();
        let paid = self.count.min(*debt);
        *debt -= paid;
        self.slots.free.add_permits((self.count - paid) as usize);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn credit_is_what_is_free_and_waits_when_nothing_is() {
        let slots = Slots::new(3);
        let running = slots.take_now();
        let credit = slots.free(10).await;
        assert_eq!(credit.len(), 2);
        assert!(slots.free(10).now_or_never().is_none(), "no slot is free");
        drop(running);
        assert_eq!(slots.free(10).now_or_never().map(|credit| credit.len()), Some(1));
    }

    #[tokio::test]
    async fn one_claim_takes_a_bounded_number() {
        assert_eq!(Slots::new(10_000).free(256).await.len(), 256);
    }

    #[tokio::test]
    async fn what_is_taken_beyond_the_last_slot_is_paid_back_before_anything_new_is_claimed() {
        let slots = Slots::new(1);
        let first = slots.free(1).await;
        let beyond = [slots.take_now(), slots.take_now()];
        for paying in beyond {
            drop(paying);
            assert!(slots.free(1).now_or_never().is_none(), "others still run");
        }
        drop(first);
        assert_eq!(slots.free(10).now_or_never().map(|credit| credit.len()), Some(1), "no slot was made or lost");
    }

    #[tokio::test]
    async fn all_of_them_are_had_when_nobody_runs_beyond_them_either() {
        let slots = Slots::new(2);
        let running = slots.take_now();
        assert!(slots.all().now_or_never().is_none());
        drop(running);
        let alone = slots.all().now_or_never().expect("nothing runs");
        let beyond = slots.take_now();
        drop(alone);
        assert_eq!(slots.free(10).now_or_never().map(|credit| credit.len()), Some(1), "one runs on");
        drop(beyond);
    }
}
