//! One attempt: from a claim to a written end.

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use errand_common::{
    backend::Backend,
    config,
    domain::FailureClass,
    port::{
        StoreError,
        store::{Claimed, Outcome, Parked},
    },
    telemetry::{
        metric,
        trace::{self, OUTCOME, Span},
    },
};
use futures::FutureExt;
use tokio::sync::watch;
use tracing::Instrument;

use crate::{
    handler::{Completion, Handler, HandlerFailure, HandlerTable, Missing, RunContext},
    metered,
    outcome::{self, Moment, Patience},
    pace::{Backoff, within},
    registry::{Held, Run, StopReason},
    warm::Warm,
    writer::{Finished, Outbox, Unwritten, Writer},
};

/// After a run was dropped rather than ended, its guards need so long to kill what it had started.
const DROPPED_SETTLES: Duration = Duration::from_secs(1);

/// A claim on its way to its attempt.
#[derive(Debug)]
pub(crate) struct Assignment {
    /// What to do.
    pub(crate) claimed: Claimed,
    /// Its place in the registry and its slot, given up when the attempt is over.
    pub(crate) held: Held,
}

/// Makes attempts.
pub(crate) struct Executor {
    backend: Backend,
    handlers: HandlerTable,
    writer: Writer,
    warm: Arc<Warm>,
    stop_grace: Duration,
    /// Bounds one call to the store.
    call_limit: Duration,
    patience: Patience,
}

/// How the work of an attempt ended.
enum Ended {
    /// By itself.
    Itself(Result<Completion, HandlerFailure>),
    /// It was told to stop.
    Stopped(StopReason),
    /// It panicked.
    Panicked(String),
}

impl Executor {
    pub(crate) fn new(
        backend: Backend,
        handlers: HandlerTable,
        writer: Writer,
        warm: Arc<Warm>,
        config: &config::Worker,
    ) -> Self {
        Self {
            backend,
            handlers,
            writer,
            warm,
            stop_grace: Duration::from_millis(config.stop_grace_ms.into()),
            call_limit: Duration::from_secs(config.lease_seconds.into()),
            patience: Patience {
                total: Duration::from_secs(config.unknown_kind_seconds.into()),
                step: Duration::from_secs(config.snooze_seconds.max(1).into()),
            },
        }
    }

    /// Makes one attempt and writes its end. Returns when nothing of it is left to do.
    pub(crate) async fn execute(&self, assignment: Assignment) {
        let Assignment { claimed, held } = assignment;
        let job = &claimed.job;
        let line = tracing::info_span!("run", job_id = %job.id, kind = %job.kind, attempt = job.attempt);
        let mut span = Span::run(job, claimed.fence.claim);
        let context = span.context().cloned();
        trace::within_run(context, job.id, self.attempt(&claimed, held.run(), &mut span).instrument(line)).await;
        drop(span);
        drop(held);
    }

    async fn attempt(&self, claimed: &Claimed, run: &Arc<Run>, span: &mut Span) {
        let started = Instant::now();
        let outbox = self.writer.outbox(run.clone());
        let ended = match self.handlers.get(&claimed.job.kind) {
            Some(handler) if claimed.job.payload_version > handler.version() => {
                Ended::Itself(Err(HandlerFailure::Missing(Missing::version_of(&claimed.job))))
            }
            Some(handler) => self.work(handler.as_ref(), claimed, run, &outbox).await,
            None => Ended::Itself(Err(HandlerFailure::Missing(Missing::kind_of(&claimed.job)))),
        };
        if !run.is_revoked() && !run.lease_holds() {
            lease_lost(run, span);
            return;
        }
        if run.is_revoked() {
            span.set(OUTCOME, "revoked");
            self.release(claimed, run, &outbox).await;
            return;
        }
        if !run.open_asks().is_empty() && self.leave_waiting(claimed, run, &outbox, &ended).await {
            span.set(OUTCOME, "parked");
            return;
        }
        let Some(outcome) = self.decide(claimed, run, ended).await else { return };
        match self.write(claimed, outbox.clone(), outcome.clone()).await {
            Finished::Written => {
                tell(span, &outcome);
                count(claimed, &outcome, started.elapsed());
                metered::count(&claimed.job, outbox.ledger().report().as_ref());
            }
            // Whether it was cancelled or claimed by another is not known here; the store is.
            Finished::Stale => {
                span.set(OUTCOME, "stale");
                self.release(claimed, run, &outbox).await;
            }
            Finished::LeaseLost => lease_lost(run, span),
            Finished::Refused => {
                span.forget();
                tracing::error!("the end of the run could not be written; its lease will pass");
            }
        }
    }

    /// Runs the handler until it ends, its time is up, or it is told to stop and its grace is over.
    async fn work(&self, handler: &dyn Handler, claimed: &Claimed, run: &Arc<Run>, outbox: &Arc<Outbox>) -> Ended {
        if let Some(reason) = run.stop_reason() {
            return Ended::Stopped(reason);
        }
        let context =
            RunContext::new(self.backend.clone(), run.clone(), self.writer.clone(), outbox.clone(), self.warm.clone());
        let context = Arc::new(context);
        let limit = handler.time_limit(claimed);
        let mut work = Box::pin(AssertUnwindSafe(handler.run(claimed, &context)).catch_unwind());
        tokio::select! {
            biased;
            () = run.stop_token().cancelled() => {}
            ended = &mut work => return match (ended, run.stop_reason()) {
                // It was told to stop just now, perhaps by itself: what it says about that is not looked at.
                (Ok(Err(_)), Some(reason)) => Ended::Stopped(reason),
                (Ok(result), _) => Ended::Itself(result),
                (Err(panic), _) => Ended::Panicked(panic_message(panic.as_ref())),
            },
            () = worked_for(limit, run.waiting()) => run.stop(StopReason::Timeout),
        }
        let reason = run.stop_reason().unwrap_or(StopReason::Revoked);
        // A run without a lease has no grace: another may begin.
        let grace = if reason == StopReason::LeaseLost { Duration::ZERO } else { self.stop_grace };
        let returned = tokio::time::timeout(grace, &mut work).await;
        drop(work);
        let returned = match returned {
            // A call that was under way came to its end: its receipt is worth more than a hand-back. What has no receipt
            // may have ended early because it was told to.
            Ok(Ok(Ok(completion))) if reason == StopReason::Drain && outbox.has_receipts() => {
                return Ended::Itself(Ok(completion));
            }
            other => other.is_ok(),
        };
        if !returned && reason != StopReason::LeaseLost {
            tracing::warn!("the run did not stop within its grace and was dropped");
            tokio::time::sleep(DROPPED_SETTLES).await;
        }
        Ended::Stopped(reason)
    }

    /// The end of a run that asked a person something and may not have an answer. `true`: the job waits without a holder,
    /// and there is nothing left to write.
    async fn leave_waiting(&self, claimed: &Claimed, run: &Run, outbox: &Arc<Outbox>, ended: &Ended) -> bool {
        let lets_go = matches!(ended, Ended::Stopped(StopReason::Park | StopReason::Drain));
        // A run that must not be repeated has no later run that could ask again.
        if !lets_go || run.rerun_is_forbidden() {
            // What is not written here is closed with the job, or asked again by its next run.
            let _ = self.writer.withdraw(outbox, run.open_asks()).await;
            return false;
        }
        match self.writer.park(outbox).await {
            // If it was decided just now, the next run makes use of the decision.
            Ok(Parked::Done | Parked::Decided) => {
                metered::count(&claimed.job, outbox.ledger().report().as_ref());
                true
            }
            // The end of the run finds out, and does, what has to be done.
            Ok(Parked::Stale) | Err(Unwritten::NotHeld) => false,
            // The lease will pass, which parks the job.
            Err(Unwritten::Refused) => true,
        }
    }

    /// What to write. `None`: nothing may be written.
    async fn decide(&self, claimed: &Claimed, run: &Run, ended: Ended) -> Option<Outcome> {
        let moment = Moment { now: self.backend.clock.now(), dice: rand::random() };
        let failed = |failure| outcome::of_failure(claimed, failure, None, moment);
        Some(match ended {
            Ended::Itself(result) => match outcome::of_handler(claimed, result, moment) {
                Ok(outcome) => outcome,
                Err(missing) => self.missing(claimed, &missing).await,
            },
            Ended::Panicked(message) => {
                tracing::error!(panic = %message, "a handler panicked; its job fails");
                let message = format!("the handler of this kind panicked: {message}");
                failed(outcome::failure(claimed, FailureClass::Fatal, "PANIC", message))
            }
            Ended::Stopped(StopReason::Timeout) => {
                let limit = self.handlers.get(&claimed.job.kind).map(|handler| handler.time_limit(claimed));
                failed(outcome::timed_out(claimed, limit.unwrap_or_default()))
            }
            Ended::Stopped(StopReason::Drain) => outcome::drained(claimed, run.rerun_is_forbidden()),
            Ended::Stopped(StopReason::Park) => Outcome::HandedBack { reason: "decided".to_owned() },
            Ended::Stopped(StopReason::EventsRefused) => failed(events_refused(claimed)),
            Ended::Stopped(StopReason::Revoked | StopReason::LeaseLost) => return None,
        })
    }

    async fn missing(&self, claimed: &Claimed, missing: &Missing) -> Outcome {
        let elsewhere = match within(self.call_limit, self.backend.store.live_workers()).await {
            Ok(workers) => workers.iter().any(|worker| missing.is_at(worker, &claimed.job.queue)),
            Err(error) => {
                tracing::warn!(%error, "could not ask which workers live; the job waits on");
                true
            }
        };
        outcome::missing(claimed, missing, elsewhere, self.patience, self.backend.clock.now())
    }

    /// Writes the end; one that the store refuses is replaced by a failure that says so.
    async fn write(&self, claimed: &Claimed, outbox: Arc<Outbox>, outcome: Outcome) -> Finished {
        match self.writer.finish(outbox.clone(), outcome).await {
            Finished::Refused => {
                let message = "the database refused the result; the worker's log says why".to_owned();
                let failure = outcome::failure(claimed, FailureClass::Fatal, "RESULT_REFUSED", message);
                self.writer.finish(outbox, Outcome::Failed { failure }).await
            }
            finished => finished,
        }
    }

    /// Tells the store that nothing of a revoked run is left. Tried while the lease holds; afterwards it doesn't matter.
    async fn release(&self, claimed: &Claimed, run: &Run, outbox: &Outbox) {
        let release = outbox.release();
        let mut backoff = Backoff::new();
        while run.lease_holds() {
            match within(self.call_limit, self.backend.store.release(release.clone(), self.backend.clock.now())).await {
                Ok((Ok(()), consequences)) => {
                    metered::count(&claimed.job, release.usage.as_ref());
                    return self.backend.dispatch(consequences).await;
                }
                // Not cancelled, but another's by now: there is nothing to release.
                Ok((Err(_), consequences)) => {
                    metrics::counter!(metric::STALE_WRITES_REJECTED_TOTAL).increment(1);
                    return self.backend.dispatch(consequences).await;
                }
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(backoff.pause()).await,
                Err(error) => {
                    tracing::error!(%error, "a cancelled run could not be released; its lease will pass");
                    return;
                }
            }
        }
    }
}

/// Waits until a run has worked for so long; the time during which it waits for a person does not count.
async fn worked_for(limit: Duration, mut waiting: watch::Receiver<bool>) {
    let mut left = limit;
    // The run outlives this: it does not go without a word.
    while waiting.wait_for(|waits| !waits).await.is_ok() {
        let since = tokio::time::Instant::now();
        match tokio::time::timeout(left, waiting.wait_for(|waits| *waits)).await {
            Ok(_) => left = left.saturating_sub(since.elapsed()),
            Err(_) => return,
        }
    }
    std::future::pending::<()>().await;
}

fn events_refused(claimed: &Claimed) -> errand_common::domain::Failure {
    let message = "the database refused an event of this run; the worker's log says why".to_owned();
    outcome::failure(claimed, FailureClass::Fatal, "EVENT_REFUSED", message)
}

/// The sweep tells of its end.
fn lease_lost(run: &Run, span: &mut Span) {
    span.forget();
    tracing::debug!(job_id = %run.fence().job_id, "the run was stopped without a word: its lease has passed");
}

/// What came of a run, for its trace.
fn tell(span: &mut Span, outcome: &Outcome) {
    let word = match outcome {
        Outcome::Completed { .. } => "completed",
        Outcome::Failed { .. } => "failed",
        Outcome::AwaitingAnswer { .. } => "awaiting_answer",
        Outcome::AwaitingCallback { .. } => "awaiting_callback",
        Outcome::Retry { .. } => "retrying",
        Outcome::Snoozed { .. } => "snoozed",
        Outcome::HeldBack { .. } => "held_back",
        Outcome::HandedBack { .. } => "handed_back",
    };
    span.set(OUTCOME, word);
    if let Outcome::Failed { failure } | Outcome::Retry { failure, .. } = outcome {
        span.set("errand.failure.code", failure.code.as_str());
        span.fail(failure.class.as_str());
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

fn count(claimed: &Claimed, outcome: &Outcome, took: Duration) {
    let class = match outcome {
        Outcome::Completed { .. } | Outcome::AwaitingAnswer { .. } | Outcome::AwaitingCallback { .. } => "ok",
        Outcome::Failed { failure } | Outcome::Retry { failure, .. } => failure.class.as_str(),
        Outcome::Snoozed { .. } | Outcome::HeldBack { .. } | Outcome::HandedBack { .. } => return,
    };
    let kind = claimed.job.kind.clone();
    metrics::counter!(metric::ATTEMPTS_TOTAL, "kind" => kind, "class" => class).increment(1);
    metrics::histogram!(metric::ATTEMPT_SECONDS).record(took.as_secs_f64());
}

#[cfg(test)]
pub(crate) mod tests {
    use errand_common::domain::{Job, JobState, Priority, RetryPolicy, Timestamp};

    use super::*;
    use crate::registry::tests::fence;

    pub(crate) fn claimed() -> Claimed {
        let fence = fence();
        let created = Timestamp::from_micros(1_000_000);
        let job = Job {
            id: fence.job_id,
            tenant: "dev".into(),
            kind: "task".into(),
            queue: "default".into(),
            state: JobState::Running,
            priority: Priority::default(),
            attempt: 1,
            retry: RetryPolicy::TASK,
            payload: serde_json::json!({}),
            payload_version: 1,
            result: None,
            failure: None,
            progress: None,
            session_id: None,
            parent_id: None,
            retry_of: None,
            user_id: None,
            worker_id: None,
            lease_until: None,
            run_at: created,
            expires_at: None,
            deadline: None,
            timeout_ms: None,
            created_at: created,
            started_at: Some(created),
            finished_at: None,
            version: 1,
            metadata: None,
            dedup_key: None,
            trace: None,
            tail_seq: 0,
        };
        Claimed {
            job,
            fence,
            snoozed_since: None,
            cut_off_at: None,
            resumes: false,
            window_ends_at: None,
            window: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_of_an_attempt_stands_while_it_waits_for_a_person() {
        let waits = watch::Sender::new(false);
        let started = tokio::time::Instant::now();
        let work = tokio::spawn(worked_for(Duration::from_secs(10), waits.subscribe()));
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(4)).await;
            waits.send_replace(true);
            tokio::time::sleep(Duration::from_secs(1_000)).await;
            waits.send_replace(false);
        }
        work.await.expect("no panic");
        let took = started.elapsed().as_secs();
        assert_eq!(took, 2_010, "ten seconds of work");
    }

    #[test]
    fn a_panic_keeps_its_words() {
        let text = std::panic::catch_unwind(|| panic!("number {}", 7)).expect_err("it panics");
        assert_eq!(panic_message(text.as_ref()), "number 7");
        let literal = std::panic::catch_unwind(|| panic!("plain")).expect_err("it panics");
        assert_eq!(panic_message(literal.as_ref()), "plain");
    }
}
