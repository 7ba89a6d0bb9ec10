//! The writer of questions to people: each after all that its run said before.

use std::{sync::Arc, time::Duration};

use errand_common::{
    backend::Backend,
    domain::{ApprovalId, Timestamp},
    port::{
        StoreError,
        store::{Append, Ask, Asked, Consequences, Park, Parked, Stale},
    },
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{Outbox, Shared, Unwritten, may_pass, outbox::Announce, stale};
use crate::{
    pace::{Backoff, within},
    registry::StopReason,
};

/// Questions written at once. They come at the pace of people and models, so they share no commits.
const AT_ONCE: usize = 16;

/// What is to be written.
#[derive(Debug)]
pub(super) enum Question {
    /// May these calls be made? Denied if nobody has decided by then.
    Ask(Vec<Ask>, Timestamp),
    /// These are asked no more.
    Withdraw(Vec<ApprovalId>),
    /// The run ends while its question waits.
    Park,
}

/// What was written.
#[derive(Debug)]
pub(super) enum Written {
    Asked(Asked),
    Withdrawn,
    Parked(Parked),
}

/// A question on its way.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) outbox: Arc<Outbox>,
    pub(super) question: Question,
    pub(super) answer: oneshot::Sender<Result<Written, Unwritten>>,
}

/// The loop that writes questions. What it has begun it ends, also when nobody waits for it any more: events that were
/// taken out are not lost with a run that is dropped.
pub(crate) struct Questioner {
    pen: Pen,
    incoming: mpsc::Receiver<Entry>,
}

#[derive(Clone)]
struct Pen {
    backend: Backend,
    shared: Arc<Shared>,
    call_limit: Duration,
}

impl Questioner {
    pub(super) const fn new(
        backend: Backend,
        shared: Arc<Shared>,
        incoming: mpsc::Receiver<Entry>,
        call_limit: Duration,
    ) -> Self {
        Self { pen: Pen { backend, shared, call_limit }, incoming }
    }

    /// Writes until every [`super::Writer`] is gone.
    pub(crate) async fn run(mut self) {
        let mut writing = JoinSet::new();
        loop {
            tokio::select! {
                entry = self.incoming.recv(), if writing.len() < AT_ONCE => match entry {
                    Some(entry) => drop(writing.spawn(self.pen.clone().write(entry))),
                    None => break,
                },
                // One that panicked has said so, and its run is told nothing, which ends it.
                Some(_) = writing.join_next() => {}
            }
        }
        while writing.join_next().await.is_some() {}
    }
}

impl Pen {
    /// Tries while the store is away, the run may write, and somebody wants the answer.
    async fn write(self, entry: Entry) {
        let mut backoff = Backoff::new();
        let answer = loop {
            if entry.answer.is_closed() {
                return;
            }
            if !entry.outbox.run().may_write() {
                break Err(Unwritten::NotHeld);
            }
            match self.turn(&entry).await {
                Ok(written) => break written,
                Err(error) if may_pass(&error) => {
                    tracing::warn!(%error, "a question could not be written; it is tried again while the lease holds");
                    tokio::time::sleep(backoff.pause()).await;
                }
                Err(error) => {
                    let job_id = entry.outbox.run().fence().job_id;
                    tracing::error!(%error, %job_id, "the store refuses the question of a run");
                    break Err(Unwritten::Refused);
                }
            }
        };
        // Nobody listens if the run has ended meanwhile: its end, or its next run, sees what is written.
        let _ = entry.answer.send(answer);
    }

    /// Writes what waits in the outbox and then the question, in one turn of the outbox's commit lock.
    async fn turn(&self, entry: &Entry) -> Result<Result<Written, Unwritten>, StoreError> {
        let outbox = &entry.outbox;
        let _commit = outbox.commit().await;
        // The run may have ended while this waited for its turn: a question after its end would be nobody's.
        if entry.answer.is_closed() {
            return Ok(Err(Unwritten::NotHeld));
        }
        let written = match self.append(outbox).await? {
            Ok(()) => {
                let (written, consequences) = within(self.call_limit, self.put(outbox, &entry.question)).await?;
                self.backend.dispatch(consequences).await;
                written
            }
            Err(stale) => Err(stale),
        };
        Ok(written.map_err(|Stale| {
            stale(outbox.run());
            Unwritten::NotHeld
        }))
    }

    async fn append(&self, outbox: &Arc<Outbox>) -> Result<Result<(), Stale>, StoreError> {
        let events = outbox.take();
        if events.is_empty() {
            return Ok(Ok(()));
        }
        let append = Append { fence: outbox.run().fence(), events: events.clone() };
        let appended = self.backend.store.append(vec![append], self.backend.clock.now());
        match within(self.call_limit, appended).await {
            Ok((answers, consequences)) => {
                self.backend.dispatch(consequences).await;
                Ok(answers.into_iter().collect())
            }
            Err(error) => {
                if !may_pass(&error) {
                    outbox.run().stop(StopReason::EventsRefused);
                } else if outbox.put_back(events) == Announce::Needed {
                    self.shared.announce(outbox.clone());
                }
                Err(error)
            }
        }
    }

    async fn put(
        &self,
        outbox: &Outbox,
        question: &Question,
    ) -> Result<(Result<Written, Stale>, Consequences), StoreError> {
        let (store, fence, now) = (&self.backend.store, outbox.run().fence(), self.backend.clock.now());
        match question {
            Question::Ask(asks, expires_at) => {
                let (asked, consequences) = store.ask(fence, asks.clone(), *expires_at, now).await?;
                Ok((asked.map(Written::Asked), consequences))
            }
            Question::Withdraw(ids) => {
                let (withdrawn, consequences) = store.withdraw(fence, ids, now).await?;
                Ok((withdrawn.map(|()| Written::Withdrawn), consequences))
            }
            Question::Park => {
                let (usage, engine_state) = (outbox.ledger().report(), outbox.engine_state());
                let park = Park { fence, events: Vec::new(), usage, engine_state };
                let (parked, consequences) = store.park(park, now).await?;
                let parked = if parked == Parked::Stale { Err(Stale) } else { Ok(Written::Parked(parked)) };
                Ok((parked, consequences))
            }
        }
    }
}
