//! How the worker is, for whoever probes it.

use tokio::sync::watch;

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
#[derive(Debug)]
pub struct Health(watch::Sender<Condition>);

impl Default for Health {
    fn default() -> Self {
        Self(watch::Sender::new(Condition::Starting))
    }
}

impl Health {
    /// How it is now.
    #[must_use]
    pub fn condition(&self) -> Condition {
        *self.0.borrow()
    }

    /// Returns once it is registered, so that others can see its engines, or was asked to stop before.
    pub async fn started(&self) {
        let mut conditions = self.0.subscribe();
        // The sender is here: the wait can't fail.
        drop(conditions.wait_for(|condition| *condition != Condition::Starting).await);
    }

    /// After a try to register or renew.
    pub(crate) fn renewed(&self, succeeded: bool) {
        let now = if succeeded { Condition::Ready } else { Condition::CannotRenew };
        // A drain is for good, and who has never registered is still starting.
        self.0.send_if_modified(|condition| {
            let from_start = *condition == Condition::Starting && !succeeded;
            let changes = *condition != Condition::Draining && !from_start && *condition != now;
            if changes {
                *condition = now;
            }
            changes
        });
    }

    /// It was asked to stop.
    pub(crate) fn drain(&self) {
        self.0.send_replace(Condition::Draining);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_has_started_once_it_is_registered() {
        let health = Health::default();
        let mut started = std::pin::pin!(health.started());
        assert!(futures::poll!(&mut started).is_pending());
        health.renewed(true);
        started.await;
    }

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
