//! How the worker is, for whoever probes it.

use std::sync::atomic::{AtomicU8, Ordering};

/// How the worker is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// It has not registered yet.
    Starting,
    /// It is registered, and its last renewal succeeded.
    Ready,
    /// Its last renewal failed: the store is away. Runs go on while their leases hold.
    CannotRenew,
    /// It was asked to stop and claims nothing more.
    Draining,
}

/// A worker's condition, set by the worker and read by anyone.
#[derive(Debug, Default)]
pub struct Health(AtomicU8);

impl Health {
    const ALL: [Condition; 4] = [Condition::Starting, Condition::Ready, Condition::CannotRenew, Condition::Draining];

    /// How it is now.
    #[must_use]
    pub fn condition(&self) -> Condition {
        Self::ALL[usize::from(self.0.load(Ordering::Relaxed))]
    }

    /// After a try to register or renew.
    pub(crate) fn renewed(&self, succeeded: bool) {
        let now = if succeeded { Condition::Ready } else { Condition::CannotRenew };
        // A drain is for good, and who has never registered is still starting.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
            let from_start = before == Condition::Starting as u8 && !succeeded;
            (before != Condition::Draining as u8 && !from_start).then_some(now as u8)
        });
    }

    /// It was asked to stop.
    pub(crate) fn drain(&self) {
        self.0.store(Condition::Draining as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_while_renewals_succeed_and_never_again_once_it_drains() {
        let health = Health::default();
        assert_eq!(health.condition(), Condition::Starting);
        health.renewed(false);
        assert_eq!(health.condition(), Condition::Starting);
        health.renewed(true);
        assert_eq!(health.condition(), Condition::Ready);
        health.renewed(false);
        assert_eq!(health.condition(), Condition::CannotRenew);
        health.renewed(true);
        health.drain();
        health.renewed(true);
        assert_eq!(health.condition(), Condition::Draining);
    }
}
