//! Keeps leases: of all runs in one batch, and of the worker's own registration.
//!
//! Time is the machine's monotonic clock, counted from before a renewal was sent. A run whose lease can't be renewed is
//! stopped a tenth of the lease before its end, so that no run overlaps the next.

use std::{sync::Arc, time::Duration};

use errand_common::{
    backend::Backend,
    port::{StoreError, store::WorkerInfo},
    telemetry::metric,
};
use tokio_util::sync::CancellationToken;

use crate::{
    guard::MonotonicInstant,
    health::Health,
    pace::{Backoff, within},
    registry::{Registry, Run, StopReason},
};

/// Fences in one renewal.
const FENCES_PER_RENEWAL: usize = 1_000;

/// Renews. A call is given a third of the lease, so that another try is left while it holds.
pub(crate) struct Keeper {
    pub(crate) backend: Backend,
    pub(crate) registry: Arc<Registry>,
    pub(crate) info: WorkerInfo,
    pub(crate) lease: Duration,
    pub(crate) health: Arc<Health>,
}

impl Keeper {
    /// Renews every third of a lease, sooner after an error or when asked, until stopped.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut backoff = Backoff::new();
        let mut pause = self.lease / 3;
        let mut failing = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.registry.renewal_wanted() => {}
                () = stop.cancelled() => return,
            }
            let renewed = self.renew_all().await;
            self.health.renewed(renewed.is_ok());
            match renewed {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("leases are renewed again");
                    }
                    backoff.reset();
                    pause = self.lease / 3;
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "leases can't be renewed; runs go on while theirs hold");
                    }
                    pause = backoff.pause().min(self.lease / 3);
                }
            }
        }
    }

    async fn renew_all(&self) -> Result<(), StoreError> {
        let runs = self.registry.renewable();
        for chunk in runs.chunks(FENCES_PER_RENEWAL) {
            self.renew(chunk).await?;
        }
        self.register().await
    }

    async fn renew(&self, runs: &[Arc<Run>]) -> Result<(), StoreError> {
        let fences: Vec<_> = runs.iter().map(|run| run.fence()).collect();
        let sent = MonotonicInstant::now();
        let answers = within(self.lease / 3, self.backend.store.renew(self.lease, &fences)).await?;
        for (run, answer) in runs.iter().zip(answers) {
            match answer {
                Ok(_) => Registry::renewed(run, sent, self.lease),
                Err(_) => {
                    metrics::counter!(metric::STALE_WRITES_REJECTED_TOTAL).increment(1);
                    run.stop(StopReason::Revoked);
                }
            }
        }
        Ok(())
    }

    /// Registers the worker, or renews its registration: for a little less than a lease, so that a dead worker's
    /// registration has lapsed when the leases pass that were renewed before it, and its runs count as crashed.
    pub(crate) async fn register(&self) -> Result<(), StoreError> {
        let running = u32::try_from(self.registry.len()).unwrap_or(u32::MAX);
        let draining = self.registry.drain_asked().is_cancelled();
        let info = WorkerInfo { running, draining, ..self.info.clone() };
        let lease = self.lease - self.lease / 10;
        if within(self.lease / 3, self.backend.store.register_worker(&info, lease)).await? {
            self.registry.ask_drain();
        }
        Ok(())
    }

    /// Says good-bye.
    pub(crate) async fn release(&self) -> Result<(), StoreError> {
        within(self.lease / 3, self.backend.store.release_worker(self.info.id)).await
    }
}

/// Stops runs whose lease is about to pass, until stopped. Waits for nothing but the clock.
pub(crate) async fn watch(registry: Arc<Registry>, lease: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(look_every(lease));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let stopped = registry.stop_lapsed(MonotonicInstant::now());
        if stopped > 0 {
            tracing::warn!(runs = stopped, "leases could not be renewed in time; their runs are stopped");
        }
    }
}

/// Often enough that a run ends well within the last tenth of its lease.
fn look_every(lease: Duration) -> Duration {
    (lease / 100).clamp(Duration::from_millis(20), Duration::from_millis(250))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_for_lapsed_leases_takes_a_small_part_of_the_last_tenth() {
        for seconds in [2, 5, 30, 300] {
            let lease = Duration::from_secs(seconds);
            assert!(look_every(lease) <= lease / 50, "{seconds} s");
        }
    }
}
