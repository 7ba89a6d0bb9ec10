//! Brings work in: as many claims as there are free slots.
//!
//! The queue says what is due and wakes us; the store says whether it is ours. While the queue is away, due jobs are read
//! from the store.

use std::{sync::Arc, time::Duration};

use errand_common::{
    backend::Backend,
    config,
    domain::{JobId, Timestamp, WorkerId},
    port::{Popped, StoreError, store::Claimed},
    telemetry::metric,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    execute::Assignment,
    guard::MonotonicInstant,
    pace::{Backoff, within},
    registry::{Registry, safe_end},
};

/// Most jobs of one claim.
const JOBS_PER_CLAIM: usize = 256;
/// Most pages of the store's list that one look without the queue reads.
const PAGES_PER_LOOK: usize = 10;

/// Claims jobs and hands them to the runner.
pub(crate) struct Fetcher {
    pub(crate) backend: Backend,
    pub(crate) registry: Arc<Registry>,
    pub(crate) worker: WorkerId,
    pub(crate) queues: Vec<String>,
    pub(crate) lease: Duration,
    pub(crate) poll: Duration,
    /// As many as may run at once.
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) assignments: mpsc::Sender<Assignment>,
    /// Handed out by the queue and not claimed yet, because the store was away.
    carried: Vec<JobId>,
    without_queue: bool,
    /// Up to here the last look into the store found only other queues' jobs.
    passed_over: Option<JobId>,
}

/// What one look brought.
struct Look {
    ids: Vec<JobId>,
    /// Another look may bring more at once.
    again: bool,
    next_due: Option<Timestamp>,
}

impl Fetcher {
    pub(crate) fn new(
        backend: Backend,
        registry: Arc<Registry>,
        worker: WorkerId,
        config: &config::Worker,
        assignments: mpsc::Sender<Assignment>,
    ) -> Self {
        Self {
            backend,
            registry,
            worker,
            queues: config.queues.clone(),
            lease: Duration::from_secs(config.lease_seconds.into()),
            poll: Duration::from_millis(config.poll_interval_ms.max(10).into()),
            slots: Arc::new(Semaphore::new(config.concurrency.max(1) as usize)),
            assignments,
            carried: Vec::new(),
            without_queue: false,
            passed_over: None,
        }
    }

    /// Claims until stopped. What is claimed is always handed on: a claim that has begun is ended before it stops.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new();
        loop {
            let Some(slots) = stop.run_until_cancelled(free_slots(&self.slots)).await else { return };
            let pause = match self.round(slots).await {
                Ok(None) => {
                    backoff.reset();
                    continue;
                }
                Ok(Some(next_due)) => {
                    backoff.reset();
                    next_due
                }
                Err(error) => {
                    tracing::warn!(%error, "jobs can't be claimed; trying again");
                    stop.run_until_cancelled(tokio::time::sleep(backoff.pause())).await;
                    continue;
                }
            };
            let until_next = idle_for(self.poll, pause, self.backend.clock.now());
            let waiting = async {
                if self.without_queue {
                    tokio::time::sleep(until_next).await;
                } else {
                    self.backend.queue.wait(&self.queues, until_next).await;
                }
            };
            stop.run_until_cancelled(waiting).await;
        }
    }

    /// One look and one claim. `None`: look again at once; else the time of the next delayed job, if one is known.
    async fn round(&mut self, slots: Vec<OwnedSemaphorePermit>) -> Result<Option<Option<Timestamp>>, StoreError> {
        let look = self.look(slots.len()).await?;
        let found = !look.ids.is_empty();
        let claimed = if found { self.claim(look.ids, slots).await? } else { 0 };
        // The store lists a due job until it is claimed or expired; the queue hands it out once.
        let more = look.again || claimed > 0 || (found && !self.without_queue);
        Ok(if more { None } else { Some(look.next_due) })
    }

    async fn look(&mut self, limit: usize) -> Result<Look, StoreError> {
        if !self.carried.is_empty() {
            let rest = self.carried.split_off(self.carried.len().min(limit));
            let ids = std::mem::replace(&mut self.carried, rest);
            return Ok(Look { ids, again: true, next_due: None });
        }
        match self.backend.queue.pop(&self.queues, limit, self.backend.clock.now()).await {
            Ok(popped) => {
                if std::mem::take(&mut self.without_queue) {
                    tracing::info!("the queue answers again");
                }
                self.promote(popped).await
            }
            Err(error) => {
                if !std::mem::replace(&mut self.without_queue, true) {
                    tracing::warn!(%error, "the queue is away; due jobs are read from the store");
                }
                let ids = self.look_in_store(limit).await?;
                Ok(Look { ids, again: false, next_due: None })
            }
        }
    }

    async fn promote(&mut self, popped: Popped) -> Result<Look, StoreError> {
        let Popped { ready, due, next_due, .. } = popped;
        let again = !due.is_empty();
        if again {
            match self.call(self.backend.store.promote(&due, self.backend.clock.now())).await {
                Ok(consequences) => self.backend.dispatch(consequences).await,
                Err(error) => {
                    // The sweep tells the queue again of what was to be promoted; what is ready is ours to keep.
                    self.carried.extend(ready);
                    return Err(error);
                }
            }
        }
        Ok(Look { ids: ready, again, next_due })
    }

    /// Due jobs of our queues, straight from the store.
    async fn look_in_store(&mut self, limit: usize) -> Result<Vec<JobId>, StoreError> {
        let mut ids = Vec::new();
        let mut after = self.passed_over.take();
        let mut at_end = false;
        for _ in 0..PAGES_PER_LOOK {
            let page = self.call(self.backend.store.queued(after, JOBS_PER_CLAIM as u32)).await?;
            after = page.last().map(|job| job.id).or(after);
            at_end = page.len() < JOBS_PER_CLAIM;
            ids.extend(page.into_iter().filter(|job| self.queues.contains(&job.queue)).map(|job| job.id));
            if ids.len() >= limit || at_end {
                break;
            }
        }
        if ids.is_empty() && !at_end {
            self.passed_over = after;
        }
        ids.truncate(limit);
        Ok(ids)
    }

    async fn claim(&mut self, ids: Vec<JobId>, slots: Vec<OwnedSemaphorePermit>) -> Result<usize, StoreError> {
        let sent = MonotonicInstant::now();
        let now = self.backend.clock.now();
        let (claimed, consequences) =
            match self.call(self.backend.store.claim(self.worker, self.lease, &ids, now)).await {
                Ok(claimed) => claimed,
                Err(error) => {
                    if matches!(error, StoreError::Unavailable(_)) {
                        self.carried.extend(ids);
                    }
                    return Err(error);
                }
            };
        let count = claimed.len();
        self.hand_on(claimed, sent, now, slots).await;
        self.backend.dispatch(consequences).await;
        Ok(count)
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        within(self.lease, call).await
    }

    async fn hand_on(
        &self,
        claimed: Vec<Claimed>,
        sent: MonotonicInstant,
        now: Timestamp,
        slots: Vec<OwnedSemaphorePermit>,
    ) {
        for (claimed, slot) in claimed.into_iter().zip(slots) {
            metrics::histogram!(metric::START_LATENCY_SECONDS).record(now.since(claimed.job.run_at).as_secs_f64());
            let held = self.registry.hold(claimed.fence, safe_end(sent, self.lease), slot);
            // The channel has room for every slot; it is closed only when the worker comes down.
            if self.assignments.send(Assignment { claimed, held }).await.is_err() {
                return;
            }
        }
    }
}

/// All free slots, at least one, at most what one claim takes.
async fn free_slots(slots: &Arc<Semaphore>) -> Vec<OwnedSemaphorePermit> {
    let mut free = Vec::new();
    if let Ok(first) = slots.clone().acquire_owned().await {
        free.push(first);
        while free.len() < JOBS_PER_CLAIM
            && let Ok(next) = slots.clone().try_acquire_owned()
        {
            free.push(next);
        }
    }
    free
}

/// How long to wait for a wake-up: to the next delayed job, but never longer than `poll`.
fn idle_for(poll: Duration, next_due: Option<Timestamp>, now: Timestamp) -> Duration {
    next_due.map_or(poll, |due| due.since(now).min(poll))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn credit_is_what_is_free_and_waits_when_nothing_is() {
        let slots = Arc::new(Semaphore::new(3));
        let running = slots.clone().try_acquire_owned().expect("free");
        let credit = free_slots(&slots).await;
        assert_eq!(credit.len(), 2);
        assert!(free_slots(&slots).now_or_never().is_none(), "no slot is free");
        drop(running);
        assert_eq!(free_slots(&slots).now_or_never().map(|credit| credit.len()), Some(1));
    }

    #[tokio::test]
    async fn one_claim_takes_a_bounded_number() {
        let slots = Arc::new(Semaphore::new(10_000));
        assert_eq!(free_slots(&slots).await.len(), JOBS_PER_CLAIM);
    }

    #[test]
    fn an_idle_worker_sleeps_to_the_next_due_job_but_not_past_its_poll() {
        let now = Timestamp::from_micros(1_000_000_000);
        let poll = Duration::from_secs(1);
        let ahead = |millis| Some(now.plus(Duration::from_millis(millis)));
        assert_eq!(idle_for(poll, None, now), poll);
        assert_eq!(idle_for(poll, ahead(300), now), Duration::from_millis(300));
        assert_eq!(idle_for(poll, ahead(5_000), now), poll);
        assert_eq!(idle_for(poll, Some(now.minus(poll)), now), Duration::ZERO, "overdue");
    }
}
