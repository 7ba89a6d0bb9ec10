//! The sweep: finds what no push told of. It takes no hint about what changed, so whatever was lost is found.
//!
//! Every worker sweeps; each step is bounded, idempotent and on its own: one that fails is tried again next round.

use std::{
    collections::{BTreeSet, HashSet},
    future::Future,
    time::{Duration, Instant},
};

use errand_common::{
    backend::Backend,
    config,
    domain::{JobId, JobState, Timestamp},
    port::{
        Ready, StoreError,
        store::{Consequences, RescueScope},
    },
    telemetry::metric,
};
use tokio_util::sync::CancellationToken;

use crate::{
    guard::leftover,
    pace::{Backoff, within},
    retain::Retention,
};

/// Old idempotency keys are forgotten every so many rounds.
const ROUNDS_PER_FORGETTING: u64 = 10;
/// Gauges are set every so many rounds.
const ROUNDS_PER_REPORT: u64 = 5;
/// A step that is bounded by rows goes on in the same round at most so often.
const TURNS_PER_STEP: usize = 20;

/// Ends what nobody ends, and tells the queue what it may have lost.
pub(crate) struct Sweeper {
    backend: Backend,
    interval: Duration,
    horizon: Duration,
    batch: u32,
    /// Bounds one call to the store.
    call_limit: Duration,
    reaper: Reaper,
    failing: BTreeSet<&'static str>,
    /// Where the next round goes on telling the queue of due jobs.
    cursor: Option<JobId>,
    gauges: HashSet<(String, JobState)>,
    retention: Retention,
    /// How long a finished job is kept.
    jobs_kept: Option<Duration>,
}

impl Sweeper {
    pub(crate) fn new(backend: Backend, config: &config::Worker, retention: &config::Retention) -> Self {
        let lease = Duration::from_secs(config.lease_seconds.into());
        let batch = config.sweep_batch.max(1);
        Self {
            retention: Retention::new(backend.clone(), retention, batch, lease),
            jobs_kept: retention.jobs_kept(),
            backend,
            interval: Duration::from_millis(config.sweep_interval_ms.max(10).into()),
            horizon: Duration::from_secs(config.sweep_horizon_seconds.into()),
            batch,
            call_limit: lease,
            reaper: Reaper::new(lease),
            failing: BTreeSet::new(),
            cursor: None,
            gauges: HashSet::new(),
        }
    }

    /// Ends all leases as crashes, because no holder lives. To be called before the first claim. Waits while the store is
    /// away; returns early if stopped.
    pub(crate) async fn rescue_all(&mut self, stop: &CancellationToken) {
        let mut backoff = Backoff::new();
        let mut rescued = 0;
        loop {
            match self.rescue(RescueScope::All).await {
                Ok(0) => break,
                Ok(count) => {
                    rescued += count;
                    backoff.reset();
                }
                Err(error) => {
                    tracing::warn!(%error, "leases of the last run can't be ended yet; trying again");
                    if stop.run_until_cancelled(tokio::time::sleep(backoff.pause())).await.is_none() {
                        return;
                    }
                }
            }
        }
        if rescued > 0 {
            tracing::info!(jobs = rescued, "ended the leases that the last run left behind");
        }
    }

    /// Sweeps until stopped.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let sweeping = async {
            self.tell_all().await;
            let mut round = 0_u64;
            loop {
                tokio::time::sleep(self.interval).await;
                self.round(round).await;
                round += 1;
            }
        };
        stop.run_until_cancelled(sweeping).await;
    }

    async fn round(&mut self, round: u64) {
        if self.reaper.may_reap(Instant::now()) {
            let rescued = self.rescue_lapsed().await;
            self.note("rescue", rescued);
        }
        let expired = self.expire().await;
        self.note("expire", expired);
        let unblocked = self.unblock().await;
        self.note("unblock", unblocked);
        let told = self.tell_upcoming().await;
        self.note("tell the queue of delayed jobs", told);
        let told = self.tell_due().await.map(|_| ());
        self.note("tell the queue of due jobs", told);
        if round.is_multiple_of(ROUNDS_PER_FORGETTING) {
            let forgot = self.forget_keys().await;
            self.note("forget old idempotency keys", forgot);
        }
        let retained = self.retention.round().await;
        self.note("drop what is old", retained);
        if round.is_multiple_of(ROUNDS_PER_REPORT) {
            let reported = self.report().await;
            self.note("report", reported);
        }
    }

    /// Remembers how a step went: a fault is logged when it begins and when it is over.
    fn note(&mut self, step: &'static str, outcome: Result<(), StoreError>) {
        match outcome {
            Ok(()) => {
                self.reaper.reached(Instant::now());
                if self.failing.remove(step) {
                    tracing::info!(step, "the sweep works again");
                }
            }
            Err(error) => {
                if matches!(error, StoreError::Unavailable(_)) {
                    self.reaper.missed();
                }
                if self.failing.insert(step) {
                    tracing::warn!(step, %error, "the sweep can't do its work; it is tried again each round");
                }
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.backend.clock.now()
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        within(self.call_limit, call).await
    }

    async fn rescue(&self, scope: RescueScope) -> Result<usize, StoreError> {
        let (count, consequences) = self.call(self.backend.store.rescue(scope, self.now(), self.batch)).await?;
        if scope == RescueScope::All {
            leftover::kill_of_jobs(consequences.events.iter().map(|event| event.job_id)).await;
        }
        self.backend.dispatch(consequences).await;
        Ok(count)
    }

    async fn rescue_lapsed(&self) -> Result<(), StoreError> {
        for _ in 0..TURNS_PER_STEP {
            let count = self.rescue(RescueScope::Lapsed).await?;
            if count > 0 {
                tracing::warn!(runs = count, "ended leases that had passed");
            }
            if count < self.batch as usize {
                break;
            }
        }
        Ok(())
    }

    async fn expire(&self) -> Result<(), StoreError> {
        self.turns(|| self.backend.store.expire(self.now(), self.batch)).await
    }

    async fn unblock(&self) -> Result<(), StoreError> {
        self.turns(|| self.backend.store.unblock(self.now(), self.batch)).await
    }

    async fn forget_keys(&self) -> Result<(), StoreError> {
        for _ in 0..TURNS_PER_STEP {
            let forgotten = self.call(self.backend.store.forget_keys(self.now(), self.jobs_kept, self.batch)).await?;
            if forgotten < u64::from(self.batch) {
                break;
            }
        }
        Ok(())
    }

    /// Repeats a bounded step while it finds as much as it may touch.
    async fn turns<F>(&self, mut step: impl FnMut() -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(usize, Consequences), StoreError>>,
    {
        for _ in 0..TURNS_PER_STEP {
            let (count, consequences) = self.call(step()).await?;
            self.backend.dispatch(consequences).await;
            if count < self.batch as usize {
                break;
            }
        }
        Ok(())
    }

    /// Tells the queue of what comes due soon, and makes due itself what should be by now: the queue may not know of it, be
    /// away, or have nobody who takes from it.
    async fn tell_upcoming(&self) -> Result<(), StoreError> {
        for _ in 0..TURNS_PER_STEP {
            let now = self.now();
            let upcoming = self.call(self.backend.store.upcoming(now.plus(self.horizon), self.batch)).await?;
            let (late, ahead): (Vec<_>, Vec<_>) =
                upcoming.into_iter().partition(|job| job.due_at.is_some_and(|due_at| due_at <= now));
            let more = late.len() == self.batch as usize;
            if !late.is_empty() {
                let late: Vec<_> = late.into_iter().map(|job| job.id).collect();
                let consequences = self.call(self.backend.store.promote(&late, now)).await?;
                self.backend.dispatch(consequences).await;
            }
            self.push(ahead).await;
            if !more {
                break;
            }
        }
        Ok(())
    }

    /// Tells the queue of some due jobs. Returns whether that was the end of the list; the next call goes on, or starts over.
    async fn tell_due(&mut self) -> Result<bool, StoreError> {
        let page = self.call(self.backend.store.queued(self.cursor, self.batch)).await?;
        let is_last = page.len() < self.batch as usize;
        self.cursor = if is_last { None } else { page.last().map(|job| job.id) };
        self.push(page).await;
        Ok(is_last)
    }

    /// Tells the queue of all jobs once: it may be new and know nothing.
    async fn tell_all(&mut self) {
        let told = self.tell_upcoming().await;
        self.note("tell the queue of delayed jobs", told);
        let mut backoff = Backoff::new();
        loop {
            match self.tell_due().await {
                Ok(true) => break self.note("tell the queue of due jobs", Ok(())),
                Ok(false) => backoff.reset(),
                Err(error) => {
                    self.note("tell the queue of due jobs", Err(error));
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// A queue that is away is told again: these lists are read each round.
    async fn push(&self, ready: Vec<Ready>) {
        self.backend.dispatch(Consequences { ready, ..Consequences::default() }).await;
    }

    async fn report(&mut self) -> Result<(), StoreError> {
        let now = self.now();
        let stats = self.call(self.backend.store.queue_stats(None)).await?;
        let mut seen = HashSet::new();
        for entry in stats {
            let labels = [("queue", entry.queue.clone()), ("state", entry.state.to_string())];
            metrics::gauge!(metric::QUEUE_DEPTH, &labels).set(entry.count as f64);
            if entry.state == JobState::Queued {
                let age = entry.oldest.map_or(Duration::ZERO, |oldest| now.since(oldest));
                metrics::gauge!(metric::QUEUE_OLDEST_AGE_SECONDS, "queue" => entry.queue.clone())
                    .set(age.as_secs_f64());
            }
            seen.insert((entry.queue, entry.state));
        }
        for (queue, state) in self.gauges.difference(&seen) {
            let labels = [("queue", queue.clone()), ("state", state.to_string())];
            metrics::gauge!(metric::QUEUE_DEPTH, &labels).set(0.0);
            if *state == JobState::Queued {
                metrics::gauge!(metric::QUEUE_OLDEST_AGE_SECONDS, "queue" => queue.clone()).set(0.0);
            }
        }
        self.gauges = seen;
        let workers = self.call(self.backend.store.live_workers()).await?.len();
        metrics::gauge!(metric::WORKERS, "state" => "live").set(workers as f64);
        Ok(())
    }
}

/// Decides whether leases may be ended: not for one lease after the store came back, so that those who could not renew
/// either are heard first.
#[derive(Debug)]
struct Reaper {
    lease: Duration,
    away: bool,
    not_before: Option<Instant>,
}

impl Reaper {
    const fn new(lease: Duration) -> Self {
        Self { lease, away: false, not_before: None }
    }

    const fn missed(&mut self) {
        self.away = true;
    }

    fn reached(&mut self, now: Instant) {
        if std::mem::take(&mut self.away) {
            self.not_before = Some(now + self.lease);
        }
    }

    fn may_reap(&self, now: Instant) -> bool {
        !self.away && self.not_before.is_none_or(|at| now >= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    #[test]
    fn nothing_is_reaped_for_one_lease_after_the_store_came_back() {
        let mut reaper = Reaper::new(LEASE);
        let now = Instant::now();
        assert!(reaper.may_reap(now), "at first it may");
        reaper.missed();
        assert!(!reaper.may_reap(now + LEASE * 2), "not while the store is away");
        let back = now + LEASE * 3;
        reaper.reached(back);
        assert!(!reaper.may_reap(back + LEASE - Duration::from_millis(1)));
        assert!(reaper.may_reap(back + LEASE));
    }

    #[test]
    fn a_store_that_stays_reachable_puts_nothing_off() {
        let mut reaper = Reaper::new(LEASE);
        let now = Instant::now();
        reaper.missed();
        reaper.reached(now);
        reaper.reached(now + LEASE / 2);
        assert!(reaper.may_reap(now + LEASE), "counted from the first contact");
    }
}
