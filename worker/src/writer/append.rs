//! The event writer: one commit for what all runs emitted while the last one ran.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use errand_common::{
    backend::Backend,
    domain::NewEvent,
    port::{StoreError, store::Append},
};
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use super::{Outbox, Shared, may_pass, outbox::Announce, stale};
use crate::{
    pace::{Backoff, collect_for, within},
    registry::StopReason,
};

/// One commit takes the events of at most so many runs.
const RUNS_PER_COMMIT: usize = 256;

/// The loop that writes events.
pub(crate) struct Appender {
    pub(super) backend: Backend,
    pub(super) shared: Arc<Shared>,
    pub(super) rest: Duration,
    pub(super) busiest: Duration,
    pub(super) call_limit: Duration,
}

/// Events of one run with the right to write them.
struct Entry {
    outbox: Arc<Outbox>,
    events: Vec<NewEvent>,
    _commit: OwnedMutexGuard<()>,
}

impl Appender {
    /// Writes until stopped. By then all runs have ended, and their last events went with their ends.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::new();
        let mut last_commit = Duration::ZERO;
        loop {
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = stop.cancelled() => return,
            }
            tokio::time::sleep(collect_for(self.rest, self.busiest, last_commit)).await;
            let mut announced = self.shared.take_announced();
            while !announced.is_empty() {
                let later = announced.split_off(announced.len().min(RUNS_PER_COMMIT));
                let entries = announced.into_iter().filter_map(take).collect();
                let started = Instant::now();
                let outcome = self.commit(entries).await;
                last_commit = started.elapsed();
                announced = later;
                match outcome {
                    Ok(()) => backoff.reset(),
                    Err(error) => {
                        tracing::warn!(%error, "events could not be written; they are kept and tried again");
                        for outbox in announced.drain(..) {
                            self.shared.announce(outbox);
                        }
                        tokio::time::sleep(backoff.pause()).await;
                    }
                }
            }
        }
    }

    /// Writes the entries, or puts their events back. An error is one that may pass.
    async fn commit(&self, entries: Vec<Entry>) -> Result<(), StoreError> {
        if entries.is_empty() {
            return Ok(());
        }
        match self.write(&entries).await {
            Ok(()) => Ok(()),
            Err(error) if may_pass(&error) => {
                for entry in entries {
                    if entry.outbox.run().may_write() && entry.outbox.put_back(entry.events) == Announce::Needed {
                        self.shared.announce(entry.outbox.clone());
                    }
                }
                Err(error)
            }
            Err(error) if entries.len() == 1 => {
                for entry in entries {
                    let job_id = entry.outbox.run().fence().job_id;
                    tracing::error!(%error, %job_id, "the store refuses the events of a run; it is stopped");
                    entry.outbox.run().stop(StopReason::EventsRefused);
                }
                Ok(())
            }
            // One bad entry must not stop the others: each alone finds it.
            Err(_) => {
                for entry in entries {
                    Box::pin(self.commit(vec![entry])).await?;
                }
                Ok(())
            }
        }
    }

    async fn write(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let batch = entries
            .iter()
            .map(|entry| Append { fence: entry.outbox.run().fence(), events: entry.events.clone() })
            .collect();
        let (answers, consequences) =
            within(self.call_limit, self.backend.store.append(batch, self.backend.clock.now())).await?;
        for (entry, answer) in entries.iter().zip(answers) {
            if answer.is_err() {
                stale(entry.outbox.run());
            }
        }
        self.backend.dispatch(consequences).await;
        Ok(())
    }
}

/// Takes the events of a run, unless its end is being written, which takes them along.
fn take(outbox: Arc<Outbox>) -> Option<Entry> {
    let commit = outbox.try_commit()?;
    if !outbox.run().may_write() {
        outbox.take();
        return None;
    }
    let events = outbox.take();
    (!events.is_empty()).then_some(Entry { outbox, events, _commit: commit })
}
