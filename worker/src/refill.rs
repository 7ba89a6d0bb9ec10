//! Refills the queue's index when it is new, or has lost its content. Until then workers read due jobs from the store, so
//! this restores latency, and nothing is lost if it takes long.

use std::{collections::BTreeSet, time::Duration};

use errand_common::{
    backend::Backend,
    config,
    domain::WorkerId,
    port::{QueueError, Ready, StoreError},
};
use tokio_util::sync::CancellationToken;

use crate::{duty::Duty, pace::within};

/// Most queues that are looked after.
const QUEUES: u32 = 1_000;

/// One worker at a time refills for all.
pub(crate) struct Refiller {
    backend: Backend,
    duty: Duty,
    interval: Duration,
    batch: u32,
    /// Bounds one call to the store.
    call_limit: Duration,
    failing: bool,
}

/// Why a refill did not come to its end. It begins anew.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl Refiller {
    pub(crate) fn new(backend: Backend, worker: WorkerId, config: &config::Worker) -> Self {
        let interval = Duration::from_millis(config.sweep_interval_ms.into());
        let call_limit = Duration::from_secs(config.lease_seconds.into());
        let duty = Duty::new(backend.store.clone(), "refill", worker, interval, call_limit);
        Self { backend, duty, interval, batch: config.sweep_batch.max(1), call_limit, failing: false }
    }

    /// Refills what needs it until stopped.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let refilling = async {
            loop {
                match self.round().await {
                    Ok(()) => self.failing = false,
                    Err(error) if !std::mem::replace(&mut self.failing, true) => {
                        tracing::warn!(%error, "the queue can't be refilled now; due jobs are read from the store");
                    }
                    Err(_) => {}
                }
                tokio::time::sleep(self.interval).await;
            }
        };
        stop.run_until_cancelled(refilling).await;
    }

    async fn round(&self) -> Result<(), Interrupted> {
        if !self.duty.take().await? {
            return Ok(());
        }
        let names = self.names().await?;
        for queue in self.backend.queue.incomplete(&names).await? {
            self.refill(&queue).await?;
        }
        Ok(())
    }

    /// Queues that have due jobs, or that a worker takes from.
    async fn names(&self) -> Result<Vec<String>, StoreError> {
        let store = &self.backend.store;
        let mut names: BTreeSet<_> = within(self.call_limit, store.queue_names(QUEUES)).await?.into_iter().collect();
        names.extend(within(self.call_limit, store.live_workers()).await?.into_iter().flat_map(|worker| worker.queues));
        Ok(names.into_iter().collect())
    }

    async fn refill(&self, queue: &str) -> Result<(), Interrupted> {
        let refill = self.backend.queue.begin_refill(queue).await?;
        let mut told = 0;
        let mut last: Option<Ready> = None;
        loop {
            let page = within(self.call_limit, self.backend.store.queued(queue, last.as_ref(), self.batch)).await?;
            let is_last = page.len() < self.batch as usize || page.last().is_some_and(|job| job.ready.queue != queue);
            last = page.last().map(|job| job.ready.clone());
            let ours = page.into_iter().filter(|job| job.ready.queue == queue && !job.is_paused);
            let ours: Vec<_> = ours.map(|job| job.ready).collect();
            self.backend.queue.push(&ours).await?;
            told += ours.len();
            if is_last {
                break;
            }
            if !self.duty.take().await? {
                return Ok(());
            }
        }
        if self.backend.queue.end_refill(&refill).await? {
            tracing::info!(queue, jobs = told, "the queue's index is complete again");
        }
        Ok(())
    }
}
