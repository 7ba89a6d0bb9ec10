//! The writer of ends: those that came in while the last commit ran share the next.

use std::{sync::Arc, time::Duration};

use errand_common::{
    backend::Backend,
    domain::NewEvent,
    port::{
        StoreError,
        store::{Finish, Outcome},
    },
};
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};

use super::{End, Finished, Outbox, may_pass, stale};
use crate::pace::{Backoff, within};

/// Most ends of one commit.
const ENDS_PER_COMMIT: usize = 256;

/// The loop that writes ends.
pub(crate) struct Finisher {
    pub(super) backend: Backend,
    pub(super) incoming: mpsc::Receiver<End>,
    pub(super) call_limit: Duration,
}

/// An end with its run's last events and the right to write them.
struct Entry {
    outbox: Arc<Outbox>,
    events: Vec<NewEvent>,
    outcome: Outcome,
    answer: oneshot::Sender<Finished>,
    _commit: OwnedMutexGuard<()>,
}

impl Finisher {
    /// Writes until every [`super::Writer`] is gone.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut waiting: Vec<Entry> = Vec::new();
        loop {
            if waiting.is_empty() {
                match self.incoming.recv().await {
                    Some(end) => waiting.push(Entry::open(end).await),
                    None => return,
                }
            }
            while waiting.len() < ENDS_PER_COMMIT
                && let Ok(end) = self.incoming.try_recv()
            {
                waiting.push(Entry::open(end).await);
            }
            let batch = std::mem::take(&mut waiting).into_iter().filter_map(Entry::if_it_may_write).collect();
            match self.commit(batch).await {
                Ok(()) => backoff.reset(),
                Err((unwritten, error)) => {
                    tracing::warn!(%error, "ends of runs could not be written; they are tried again while leases hold");
                    waiting = unwritten;
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// Writes and answers the entries; gives back those that another try may help.
    async fn commit(&self, entries: Vec<Entry>) -> Result<(), (Vec<Entry>, StoreError)> {
        if entries.is_empty() {
            return Ok(());
        }
        let batch = entries.iter().map(Entry::finish).collect();
        match within(self.call_limit, self.backend.store.finish(batch, self.backend.clock.now())).await {
            Ok((answers, consequences)) => {
                self.backend.dispatch(consequences).await;
                for (entry, answer) in entries.into_iter().zip(answers) {
                    if answer.is_err() {
                        stale(entry.outbox.run());
                    }
                    entry.answer(if answer.is_ok() { Finished::Written } else { Finished::Stale });
                }
                Ok(())
            }
            Err(error) if may_pass(&error) => Err((entries, error)),
            Err(error) if entries.len() == 1 => {
                for entry in entries {
                    let job_id = entry.outbox.run().fence().job_id;
                    tracing::error!(%error, %job_id, "the store refuses the end of a run");
                    entry.answer(Finished::Refused);
                }
                Ok(())
            }
            // One bad entry must not stop the others: each alone finds it.
            Err(_) => self.commit_each(entries).await,
        }
    }

    async fn commit_each(&self, entries: Vec<Entry>) -> Result<(), (Vec<Entry>, StoreError)> {
        let mut rest = entries.into_iter();
        while let Some(entry) = rest.next() {
            if let Err((mut unwritten, error)) = Box::pin(self.commit(vec![entry])).await {
                unwritten.extend(rest);
                return Err((unwritten, error));
            }
        }
        Ok(())
    }
}

impl Entry {
    /// Waits for the event writer to let go of the run, at most one commit.
    async fn open(end: End) -> Self {
        let commit = end.outbox.commit().await;
        let events = end.outbox.take();
        Self { outbox: end.outbox, events, outcome: end.outcome, answer: end.answer, _commit: commit }
    }

    fn if_it_may_write(self) -> Option<Self> {
        let run = self.outbox.run();
        if run.is_revoked() {
            self.answer(Finished::Stale);
            None
        } else if run.lease_holds() {
            Some(self)
        } else {
            self.answer(Finished::LeaseLost);
            None
        }
    }

    fn finish(&self) -> Finish {
        Finish {
            fence: self.outbox.run().fence(),
            events: self.events.clone(),
            receipts: self.outbox.receipts(),
            outcome: self.outcome.clone(),
            usage: self.outbox.ledger().report(),
            engine_state: self.outbox.engine_state(),
            agent: self.outbox.agent().filter(|_| matches!(self.outcome, Outcome::Completed { .. })),
        }
    }

    fn answer(self, finished: Finished) {
        // Nobody listens if the worker comes down; what is written is written.
        let _ = self.answer.send(finished);
    }
}
