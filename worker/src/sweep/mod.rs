//! The sweep: finds what no push told of. It takes no hint about what changed, so whatever was lost is found.
//!
//! One worker at a time sweeps for all; the others stand by. Each step is bounded, idempotent and on its own: one that fails
//! is tried again next round.

mod reaper;

use std::{
    collections::BTreeSet,
    future::Future,
    time::{Duration, Instant},
};

use errand_common::{
    backend::Backend,
    config::{Config, Locale},
    domain::{SessionId, Timestamp, WorkerId},
    port::{
        Ready, StoreError,
        store::{Consequences, LostRun, RescueScope},
    },
    telemetry::{
        metric,
        trace::{OUTCOME, Span},
    },
};
use tokio_util::sync::CancellationToken;

use self::reaper::Reaper;
use crate::{
    duty::Duty,
    guard::leftover,
    pace::{Backoff, within},
    retain::Retention,
};

/// Old idempotency keys are forgotten every so many rounds.
const ROUNDS_PER_FORGETTING: u64 = 10;
/// The queue is told again of a job that has been due for so long: its id may have been handed out to a worker that died
/// before it claimed.
const LONG_DUE: Duration = Duration::from_secs(3);
/// A step that is bounded by rows goes on in the same round at most so often.
const TURNS_PER_STEP: usize = 20;

/// Ends what nobody ends, and tells the queue what it may have lost.
pub(crate) struct Sweeper {
    backend: Backend,
    duty: Duty,
    interval: Duration,
    horizon: Duration,
    batch: u32,
    /// Bounds one call to the store.
    call_limit: Duration,
    reaper: Reaper,
    failing: BTreeSet<&'static str>,
    /// Where the next round goes on telling the queue of due jobs.
    told: Option<Ready>,
    /// Where the next round goes on looking at waiting sessions.
    looked_at: Option<SessionId>,
    retention: Retention,
    /// How long a finished job is kept.
    jobs_kept: Option<Duration>,
    /// Time between two askings of a question; 0: it is asked once.
    remind_seconds: u32,
    /// What end users read.
    locale: Locale,
}

impl Sweeper {
    /// `sole_holder`: no other holder of leases can live.
    pub(crate) fn new(backend: Backend, id: WorkerId, config: &Config, sole_holder: bool) -> Self {
        let worker = &config.worker;
        let lease = Duration::from_secs(worker.lease_seconds.into());
        let interval = Duration::from_millis(worker.sweep_interval_ms.max(10).into()).min(Reaper::touch_every(lease));
        let duty = Duty::new(backend.store.clone(), "sweep", id, interval, lease);
        let batch = worker.sweep_batch.max(1);
        Self {
            retention: Retention::new(backend.clone(), &config.retention, batch, lease),
            jobs_kept: config.retention.jobs_kept(),
            remind_seconds: config.questions.remind_minutes.saturating_mul(60),
            locale: config.texts.locale,
            backend,
            duty,
            interval,
            horizon: Duration::from_secs(worker.sweep_horizon_seconds.into()),
            batch,
            call_limit: lease,
            reaper: Reaper::new(lease, sole_holder, Instant::now()),
            failing: BTreeSet::new(),
            told: None,
            looked_at: None,
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
            let mut round = 0_u64;
            loop {
                if self.is_on_duty().await {
                    self.round(round).await;
                    round += 1;
                }
                tokio::time::sleep(self.interval).await;
            }
        };
        stop.run_until_cancelled(sweeping).await;
    }

    /// Also how those who stand by keep in touch with the store.
    async fn is_on_duty(&mut self) -> bool {
        let taken = self.duty.take().await;
        let on_duty = matches!(taken, Ok(true));
        self.note("take the duty", taken.map(drop));
        on_duty
    }

    async fn round(&mut self, round: u64) {
        if self.reaper.may_reap(Instant::now()) {
            let rescued = self.rescue_lapsed().await;
            self.note("rescue", rescued);
        }
        let expired = self.expire().await;
        self.note("expire", expired);
        let expired = self.turns(|| self.backend.store.expire_approvals(self.now(), self.batch)).await;
        self.note("expire approvals", expired);
        let expired = self.turns(|| self.backend.store.expire_questions(self.now(), self.batch)).await;
        self.note("expire questions", expired);
        let reminded = self.remind().await;
        self.note("remind of questions", reminded);
        let expired = self.turns(|| self.expire_callbacks()).await;
        self.note("expire callbacks", expired);
        let polled = self.turns(|| self.backend.store.poll_callbacks(self.now(), self.batch)).await;
        self.note("ask bridges", polled);
        let unblocked = self.unblock().await;
        self.note("unblock", unblocked);
        let told = self.tell_upcoming().await;
        self.note("tell the queue of delayed jobs", told);
        let told = self.tell_long_due().await;
        self.note("tell the queue of due jobs", told);
        if round.is_multiple_of(ROUNDS_PER_FORGETTING) {
            let forgot = self.forget_keys().await;
            self.note("forget old idempotency keys", forgot);
            let dropped = self.call(self.backend.store.drop_tickets(self.now(), self.batch)).await.map(drop);
            self.note("drop old tickets", dropped);
        }
        let retained = self.retention.round().await;
        self.note("drop what is old", retained);
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
        let (lost, consequences) = self.call(self.backend.store.rescue(scope, self.now(), self.batch)).await?;
        tell_of(&lost);
        if scope == RescueScope::All {
            leftover::kill_of_jobs(consequences.events.iter().filter_map(|event| event.job_id)).await;
        }
        self.backend.dispatch(consequences).await;
        Ok(lost.len())
    }

    async fn rescue_lapsed(&self) -> Result<(), StoreError> {
        for _ in 0..TURNS_PER_STEP {
            let count = self.rescue(RescueScope::Lapsed).await?;
            if count > 0 {
                metrics::counter!(metric::LEASES_LOST_TOTAL).increment(count as u64);
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

    /// Repeats the asking of questions that wait for long, if that is wanted.
    async fn remind(&self) -> Result<(), StoreError> {
        match self.remind_seconds {
            0 => Ok(()),
            every => self.turns(|| self.backend.store.remind(every, self.now(), self.batch)).await,
        }
    }

    async fn expire_callbacks(&self) -> Result<(usize, Consequences), StoreError> {
        self.backend.store.expire_callbacks(self.locale.bridge_timed_out(), self.now(), self.batch).await
    }

    /// Looks at some sessions with waiting tasks; the next round goes on. What ends a session's active task frees the next
    /// itself, so there is seldom anything to find.
    async fn unblock(&mut self) -> Result<(), StoreError> {
        let look = self.backend.store.unblock(self.looked_at, self.now(), self.batch);
        let (unblocked, consequences) = self.call(look).await?;
        self.looked_at = unblocked.next;
        self.backend.dispatch(consequences).await;
        Ok(())
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

    /// Tells the queue again of some jobs that have long been due; the next round goes on, or starts over.
    async fn tell_long_due(&mut self) -> Result<(), StoreError> {
        let page = self.call(self.backend.store.queued("", self.told.as_ref(), self.batch)).await?;
        let long_ago = self.now().minus(LONG_DUE);
        self.told = page.last().filter(|_| page.len() == self.batch as usize).map(|job| job.ready.clone());
        let overlooked = page.into_iter().filter(|job| job.run_at <= long_ago && !job.is_paused);
        self.push(overlooked.map(|job| job.ready).collect()).await;
        Ok(())
    }

    /// A queue that is away is told again: these lists are read each round.
    async fn push(&self, ready: Vec<Ready>) {
        self.backend.dispatch(Consequences { ready, ..Consequences::default() }).await;
    }
}

/// Ends the spans of runs that nobody else will: their workers are gone, or don't know what came of them.
fn tell_of(lost: &[LostRun]) {
    for LostRun { job, claim, claimed_at } in lost {
        let mut span = Span::run(job, *claim);
        span.begun_at(claimed_at.unwrap_or(job.created_at));
        span.set(OUTCOME, "lease_lost");
        span.fail("lease_lost");
    }
}
