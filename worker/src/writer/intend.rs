//! The writer of intents: those that came in while the last commit ran share the next.

use std::{sync::Arc, time::Duration};

use errand_common::{
    backend::Backend,
    port::{
        StoreError,
        store::{Intend, Intended, NewEffect, Stale},
    },
};
use tokio::sync::{mpsc, oneshot};

use super::{Outbox, may_pass, stale};
use crate::pace::{Backoff, within};

/// Most intents of one commit.
const INTENTS_PER_COMMIT: usize = 256;

/// Why an intent was not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unwritten {
    /// The claim is no longer ours, or its lease passed before it could be written: nothing may be sent.
    NotHeld,
    /// The store refuses it for good.
    Refused,
}

/// An intent on its way.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) outbox: Arc<Outbox>,
    pub(super) effect: NewEffect,
    pub(super) answer: oneshot::Sender<Result<Intended, Unwritten>>,
}

/// The loop that writes intents.
pub(crate) struct Intender {
    pub(super) backend: Backend,
    pub(super) incoming: mpsc::Receiver<Entry>,
    pub(super) call_limit: Duration,
}

impl Intender {
    /// Writes until every [`super::Writer`] is gone.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut waiting: Vec<Entry> = Vec::new();
        loop {
            if waiting.is_empty() {
                match self.incoming.recv().await {
                    Some(entry) => waiting.push(entry),
                    None => return,
                }
            }
            while waiting.len() < INTENTS_PER_COMMIT
                && let Ok(entry) = self.incoming.try_recv()
            {
                waiting.push(entry);
            }
            let batch = std::mem::take(&mut waiting).into_iter().filter_map(Entry::if_it_may_be_sent).collect();
            match self.commit(batch).await {
                Ok(()) => backoff.reset(),
                Err((unwritten, error)) => {
                    tracing::warn!(%error, "intents could not be written; they are tried again while leases hold");
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
        let batch: Vec<_> = entries.iter().map(Entry::intend).collect();
        let receipts: Vec<_> = batch.iter().map(|intend| intend.receipts.len()).collect();
        match within(self.call_limit, self.backend.store.intend(batch, self.backend.clock.now())).await {
            Ok(answers) => {
                for ((entry, answer), receipts) in entries.into_iter().zip(answers).zip(receipts) {
                    match answer {
                        Ok(intended) => {
                            entry.outbox.receipts_written(receipts);
                            entry.answer(Ok(intended));
                        }
                        Err(Stale) => {
                            stale(entry.outbox.run());
                            entry.answer(Err(Unwritten::NotHeld));
                        }
                    }
                }
                Ok(())
            }
            Err(error) if may_pass(&error) => Err((entries, error)),
            Err(error) if entries.len() == 1 => {
                for entry in entries {
                    let job_id = entry.outbox.run().fence().job_id;
                    tracing::error!(%error, %job_id, "the store refuses the intent of a run");
                    entry.answer(Err(Unwritten::Refused));
                }
                Ok(())
            }
            // One bad entry must not stop the others: each alone finds it.
            Err(_) => {
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
    }
}

impl Entry {
    /// Drops entries whose run has given up waiting, and answers those whose lease has passed.
    fn if_it_may_be_sent(self) -> Option<Self> {
        if self.answer.is_closed() {
            None
        } else if self.outbox.run().may_write() {
            Some(self)
        } else {
            self.answer(Err(Unwritten::NotHeld));
            None
        }
    }

    fn intend(&self) -> Intend {
        Intend { fence: self.outbox.run().fence(), receipts: self.outbox.receipts(), effect: self.effect.clone() }
    }

    fn answer(self, answer: Result<Intended, Unwritten>) {
        // Nobody listens if the run was dropped meanwhile: nothing is sent then.
        let _ = self.answer.send(answer);
    }
}
