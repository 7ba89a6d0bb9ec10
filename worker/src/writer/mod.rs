//! What runs write: events by group commit, and their ends likewise.
//!
//! Each run has an [`Outbox`] that joins deltas while it waits. [`append`] writes the outboxes of all runs together;
//! [`finish`] writes ends, each with what is left in its outbox; [`intend`] writes what is about to be done outside,
//! [`question`] what a person is asked. All but intents hold the outbox's commit lock from the taking of
//! events to the telling of the fleet, so that a run's events are numbered and published in their order.

mod append;
mod finish;
mod intend;
mod outbox;
mod question;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use errand_common::{
    backend::Backend,
    config,
    domain::{ApprovalId, NewEvent, Timestamp},
    port::{
        StoreError,
        store::{Ask, Asked, EffectReceipt, Intended, NewEffect, Outcome, Parked},
    },
    telemetry::metric,
};
use tokio::sync::{Notify, mpsc, oneshot};

pub(crate) use intend::Unwritten;
pub(crate) use outbox::Outbox;
use question::{Question, Written};

use crate::registry::{Run, StopReason};

/// How an end was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finished {
    /// It is committed.
    Written,
    /// The claim is no longer ours; nothing was written.
    Stale,
    /// The lease passed before it could be written.
    LeaseLost,
    /// The store refuses this end for good.
    Refused,
}

/// The writer's front: what runs hold.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
    ends: mpsc::Sender<End>,
    intents: mpsc::Sender<intend::Entry>,
    questions: mpsc::Sender<question::Entry>,
}

#[derive(Debug)]
struct Shared {
    announced: Mutex<Vec<Arc<Outbox>>>,
    wake: Notify,
    buffer_bytes: usize,
}

#[derive(Debug)]
struct End {
    outbox: Arc<Outbox>,
    outcome: Outcome,
    answer: oneshot::Sender<Finished>,
}

/// The loops behind the writer, each to be run as a task of its own.
pub(crate) struct Loops {
    /// Writes events.
    pub(crate) append: append::Appender,
    /// Writes ends.
    pub(crate) finish: finish::Finisher,
    /// Writes intents.
    pub(crate) intend: intend::Intender,
    /// Writes questions.
    pub(crate) question: question::Questioner,
}

impl Writer {
    /// A writer and its loops. Those of ends, intents and questions end when the last `Writer` is gone.
    pub(crate) fn new(backend: &Backend, config: &config::Worker) -> (Self, Loops) {
        let shared = Arc::new(Shared {
            announced: Mutex::default(),
            wake: Notify::new(),
            buffer_bytes: config.event_buffer_kib as usize * 1024,
        });
        let (ends, incoming) = mpsc::channel(config.concurrency.max(1) as usize);
        let call_limit = Duration::from_secs(config.lease_seconds.into());
        let append = append::Appender {
            backend: backend.clone(),
            shared: shared.clone(),
            rest: Duration::from_millis(config.event_flush_ms.into()),
            busiest: Duration::from_millis(config.event_flush_max_ms.into()),
            call_limit,
        };
        let finish = finish::Finisher { backend: backend.clone(), incoming, call_limit };
        let (intents, incoming) = mpsc::channel(config.concurrency.max(1) as usize);
        let intend = intend::Intender { backend: backend.clone(), incoming, call_limit };
        let (questions, incoming) = mpsc::channel(config.concurrency.max(1) as usize);
        let question = question::Questioner::new(backend.clone(), shared.clone(), incoming, call_limit);
        (Self { shared, ends, intents, questions }, Loops { append, finish, intend, question })
    }

    /// Where the events of `run` go.
    pub(crate) fn outbox(&self, run: Arc<Run>) -> Arc<Outbox> {
        Arc::new(Outbox::new(run, self.shared.buffer_bytes))
    }

    /// Adds an event of a run; waits while too many of that run's are on their way.
    pub(crate) async fn event(&self, outbox: &Arc<Outbox>, event: NewEvent) {
        if outbox.push(event).await == outbox::Announce::Needed {
            self.shared.announce(outbox.clone());
        }
    }

    /// Writes that a run is about to do something outside, or finds what is known of it. Tried until it is known to be
    /// written or refused, or the lease has passed.
    pub(crate) async fn intend(&self, outbox: &Arc<Outbox>, effect: NewEffect) -> Result<Intended, Unwritten> {
        let (answer, answered) = oneshot::channel();
        let entry = intend::Entry { outbox: outbox.clone(), effect, answer };
        if self.intents.send(entry).await.is_err() {
            return Err(Unwritten::NotHeld);
        }
        // The loop drops an answer only when the worker comes down.
        answered.await.unwrap_or(Err(Unwritten::NotHeld))
    }

    /// Keeps what came of an effect, to be written with the run's next intent or its end.
    pub(crate) fn receipt(&self, outbox: &Arc<Outbox>, receipt: EffectReceipt) {
        outbox.keep(receipt);
    }

    /// Asks whether calls may be made, after all that the run said before. Tried as [`Writer::intend`] is.
    pub(crate) async fn ask(
        &self,
        outbox: &Arc<Outbox>,
        asks: Vec<Ask>,
        expires_at: Timestamp,
    ) -> Result<Asked, Unwritten> {
        match self.question(outbox, Question::Ask(asks, expires_at)).await? {
            Written::Asked(asked) => Ok(asked),
            _ => Err(Unwritten::Refused),
        }
    }

    /// Asks these no more.
    pub(crate) async fn withdraw(&self, outbox: &Arc<Outbox>, ids: Vec<ApprovalId>) -> Result<(), Unwritten> {
        self.question(outbox, Question::Withdraw(ids)).await.map(drop)
    }

    /// Ends a run while its question waits: what is left of its events, then the parking.
    pub(crate) async fn park(&self, outbox: &Arc<Outbox>) -> Result<Parked, Unwritten> {
        match self.question(outbox, Question::Park).await? {
            Written::Parked(parked) => Ok(parked),
            _ => Err(Unwritten::Refused),
        }
    }

    async fn question(&self, outbox: &Arc<Outbox>, question: Question) -> Result<Written, Unwritten> {
        let (answer, answered) = oneshot::channel();
        if self.questions.send(question::Entry { outbox: outbox.clone(), question, answer }).await.is_err() {
            return Err(Unwritten::NotHeld);
        }
        // The loop drops an answer only when the worker comes down.
        answered.await.unwrap_or(Err(Unwritten::NotHeld))
    }

    /// Ends a run: what is left of its events, then the outcome. Tried until it is known to be written or refused, or the
    /// lease has passed.
    pub(crate) async fn finish(&self, outbox: Arc<Outbox>, outcome: Outcome) -> Finished {
        let (answer, answered) = oneshot::channel();
        if self.ends.send(End { outbox, outcome, answer }).await.is_err() {
            return Finished::LeaseLost;
        }
        // The loop drops an answer only when the worker comes down: the lease will pass.
        answered.await.unwrap_or(Finished::LeaseLost)
    }
}

impl Shared {
    fn announce(&self, outbox: Arc<Outbox>) {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).push(outbox);
        self.wake.notify_one();
    }

    fn take_announced(&self) -> Vec<Arc<Outbox>> {
        std::mem::take(&mut *self.announced.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A write was refused because its claim is no longer valid.
fn stale(run: &Run) {
    metrics::counter!(metric::STALE_WRITES_REJECTED_TOTAL).increment(1);
    run.stop(StopReason::Revoked);
}

/// Whether another try may help.
const fn may_pass(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(_))
}
