//! Brings work in: as many claims as there are free slots.
//!
//! The queue says what is due and wakes us; the store says whether it is ours. While the queue is away, or its index may
//! lack jobs, due jobs are read from the store. A job that crashed its workers is claimed alone.

mod suspects;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use errand_common::{
    backend::Backend,
    config,
    domain::{JobId, Timestamp, WorkerId},
    port::{Popped, StoreError, store::Claimed},
    telemetry::metric,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::suspects::Suspects;
use crate::{
    execute::Assignment,
    guard::MonotonicInstant,
    pace::{Backoff, within},
    registry::{Registry, safe_end},
    slots::{Slot, Slots},
    warm::Warm,
};

/// Most jobs of one claim.
const JOBS_PER_CLAIM: usize = 256;

/// Claims jobs and hands them to the runner.
pub(crate) struct Fetcher {
    backend: Backend,
    registry: Arc<Registry>,
    worker: WorkerId,
    queues: Vec<String>,
    lease: Duration,
    poll: Duration,
    isolate_wait: Duration,
    /// As many as may run at once.
    slots: Arc<Slots>,
    warm: Arc<Warm>,
    assignments: mpsc::Sender<Assignment>,
    /// Handed out by the queue and not claimed yet, because the store was away.
    carried: Vec<JobId>,
    suspects: Suspects,
    without_queue: bool,
    /// When the store was last read for due jobs.
    looked_in_store: Option<Instant>,
    /// The tenant after which the next look into the store begins.
    after_tenant: Option<String>,
}

/// What one look brought.
#[derive(Default)]
struct Look {
    ids: Vec<JobId>,
    /// Some of the ids were read from the store, which lists a due job until it is claimed; the queue hands it out once.
    from_store: bool,
    /// Another look may bring more at once.
    again: bool,
    next_due: Option<Timestamp>,
}

/// What follows a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    /// Another at once.
    AtOnce,
    /// Another soon: there was work, but others were quicker.
    Soon,
    /// Another when something is pushed, or that time has come.
    Idle(Option<Timestamp>),
}

impl Fetcher {
    pub(crate) fn new(
        backend: Backend,
        registry: Arc<Registry>,
        warm: Arc<Warm>,
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
            isolate_wait: Duration::from_secs(config.isolate_wait_seconds.into()),
            slots: Slots::new(config.concurrency.max(1)),
            warm,
            assignments,
            carried: Vec::new(),
            suspects: Suspects::new(),
            without_queue: false,
            looked_in_store: None,
            after_tenant: None,
        }
    }

    /// Claims until stopped. What is claimed is always handed on: a claim that has begun is ended before it stops.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new();
        while !stop.is_cancelled() {
            let next = match self.suspects.first() {
                Some(suspect) => self.isolate(suspect, &stop).await,
                None => {
                    let Some(slots) = stop.run_until_cancelled(self.slots.free(JOBS_PER_CLAIM)).await else { return };
                    self.round(slots).await
                }
            };
            let waiting = async {
                match next {
                    Ok(Next::AtOnce) => backoff.reset(),
                    Ok(Next::Soon) => tokio::time::sleep(backoff.pause()).await,
                    Ok(Next::Idle(next_due)) => {
                        backoff.reset();
                        self.idle(next_due).await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "jobs can't be claimed; trying again");
                        tokio::time::sleep(backoff.pause()).await;
                    }
                }
            };
            stop.run_until_cancelled(waiting).await;
        }
    }

    async fn idle(&self, next_due: Option<Timestamp>) {
        let until_next = idle_for(self.poll, next_due, self.backend.clock.now());
        if self.without_queue {
            tokio::time::sleep(until_next).await;
        } else {
            self.backend.queue.wait(&self.queues, until_next).await;
        }
    }

    /// One look and one claim.
    async fn round(&mut self, slots: Vec<Slot>) -> Result<Next, StoreError> {
        let Look { ids, from_store, again, next_due } = self.look(slots.len()).await?;
        let found = !ids.is_empty();
        let claimed = if found { self.claim(ids, slots).await? } else { 0 };
        Ok(match () {
            () if again || claimed > 0 || (found && !from_store) => Next::AtOnce,
            () if found => Next::Soon,
            () => Next::Idle(next_due),
        })
    }

    async fn look(&mut self, limit: usize) -> Result<Look, StoreError> {
        if !self.carried.is_empty() {
            let rest = self.carried.split_off(self.carried.len().min(limit));
            let ids = std::mem::replace(&mut self.carried, rest);
            return Ok(Look { ids, again: true, ..Look::default() });
        }
        let (mut look, unsure) = match self.backend.queue.pop(&self.queues, limit, self.backend.clock.now()).await {
            Ok(mut popped) => {
                if std::mem::take(&mut self.without_queue) {
                    tracing::info!("the queue answers again");
                }
                let incomplete = std::mem::take(&mut popped.incomplete);
                (self.promote(popped).await?, incomplete)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.without_queue, true) {
                    tracing::warn!(%error, "the queue is away; due jobs are read from the store");
                }
                (Look::default(), self.queues.clone())
            }
        };
        // A queue that says that it is empty is believed for so long.
        let doubtful =
            !look.again && look.ids.is_empty() && self.looked_in_store.is_none_or(|at| at.elapsed() >= self.poll);
        let queues = if unsure.is_empty() && doubtful { self.queues.clone() } else { unsure };
        if !queues.is_empty() && look.ids.len() < limit {
            match self.look_in_store(&queues, limit - look.ids.len()).await {
                Ok(ids) => {
                    look.from_store = !ids.is_empty();
                    look.ids.extend(ids);
                }
                Err(error) => {
                    self.carried.append(&mut look.ids);
                    return Err(error);
                }
            }
        }
        Ok(look)
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
        Ok(Look { ids: ready, from_store: false, again, next_due })
    }

    /// Due jobs, straight from the store.
    async fn look_in_store(&mut self, queues: &[String], limit: usize) -> Result<Vec<JobId>, StoreError> {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let due = self.call(self.backend.store.due(queues, self.after_tenant.as_deref(), limit)).await?;
        self.looked_in_store = Some(Instant::now());
        self.after_tenant = due.last_tenant;
        Ok(due.ids)
    }

    /// Claims a job that crashed its workers, once nothing else runs here.
    async fn isolate(&mut self, suspect: JobId, stop: &CancellationToken) -> Result<Next, StoreError> {
        let slot = match stop.run_until_cancelled(tokio::time::timeout(self.isolate_wait, self.alone())).await {
            Some(Ok(slot)) => slot,
            Some(Err(_)) => {
                tracing::info!(job_id = %suspect, "other runs did not end in time for a job that must run alone; it waits");
                self.suspects.rest(Instant::now(), self.isolate_wait);
                return Ok(Next::AtOnce);
            }
            None => return Ok(Next::Idle(None)),
        };
        let sent = MonotonicInstant::now();
        let now = self.backend.clock.now();
        let claim = self.backend.store.claim_alone(self.worker, self.lease, suspect, now);
        let claimed = match self.call(claim).await {
            Ok((claimed, consequences)) => {
                self.suspects.done();
                self.backend.dispatch(consequences).await;
                claimed
            }
            Err(error) => {
                if !matches!(error, StoreError::Unavailable(_)) {
                    self.suspects.done();
                }
                return Err(error);
            }
        };
        if let Some(claimed) = claimed {
            tracing::warn!(job_id = %suspect, "runs a job alone: workers that ran it with others died");
            self.hand_on(claimed, sent, now, slot).await;
        }
        Ok(Next::AtOnce)
    }

    /// Every slot, once no run is left. Those that wait for a person hold no slot; they are parked where that can be.
    async fn alone(&self) -> Slot {
        let slot = self.slots.all().await;
        self.warm.let_go();
        self.registry.emptied().await;
        slot
    }

    async fn claim(&mut self, ids: Vec<JobId>, slots: Vec<Slot>) -> Result<usize, StoreError> {
        let sent = MonotonicInstant::now();
        let now = self.backend.clock.now();
        let (claims, consequences) = match self.call(self.backend.store.claim(self.worker, self.lease, &ids, now)).await
        {
            Ok(claims) => claims,
            Err(error) => {
                if matches!(error, StoreError::Unavailable(_)) {
                    self.carried.extend(ids);
                }
                return Err(error);
            }
        };
        self.suspects.remember(claims.suspects, Instant::now());
        let count = claims.claimed.len();
        for (claimed, slot) in claims.claimed.into_iter().zip(slots) {
            self.hand_on(claimed, sent, now, slot).await;
        }
        self.backend.dispatch(consequences).await;
        Ok(count)
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        within(self.lease, call).await
    }

    async fn hand_on(&self, claimed: Claimed, sent: MonotonicInstant, now: Timestamp, slot: Slot) {
        metrics::histogram!(metric::START_LATENCY_SECONDS).record(now.since(claimed.job.run_at).as_secs_f64());
        let held = self.registry.hold(claimed.fence, safe_end(sent, self.lease), slot);
        // The channel has room for every slot; it is closed only when the worker comes down, and then the lease passes.
        let _ = self.assignments.send(Assignment { claimed, held }).await;
    }
}

/// How long to wait for a wake-up: to the next delayed job, but never longer than `poll`.
fn idle_for(poll: Duration, next_due: Option<Timestamp>, now: Timestamp) -> Duration {
    next_due.map_or(poll, |due| due.since(now).min(poll))
}

#[cfg(test)]
mod tests {
    use super::*;

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
