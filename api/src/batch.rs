//! Shared commits: what arrives while one commit runs shares the next.

use std::sync::Arc;

use errand_common::{
    backend::Backend,
    port::{Clock, Store, StoreError, store::Consequences},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::problem::Problem;

/// Commits whose consequences wait to be told, at most; beyond it the next commit waits.
const UNTOLD: usize = 16;

/// What shares its commit with others of its kind.
pub(crate) trait Entry: Send + Sized + 'static {
    /// What is known of it once it is durable.
    type Answer: Send + 'static;

    /// What people call several of them.
    const NAME: &'static str;
    /// So many wait at most; more are not taken.
    const WAITING: usize;
    /// So many share a commit at most.
    const PER_COMMIT: usize;
    /// No more join a commit of so many rows.
    const ROWS_PER_COMMIT: usize;

    /// How many rows it writes.
    fn rows(&self) -> usize;

    /// Makes all of them durable: an answer each, in order, and what the fleet is to hear.
    fn commit(
        batch: Vec<Self>,
        store: &dyn Store,
        clock: &dyn Clock,
    ) -> impl Future<Output = (Vec<Result<Self::Answer, StoreError>>, Consequences)> + Send;
}

struct Pending<E: Entry> {
    entry: E,
    reply: Reply<E>,
}

type Reply<E> = oneshot::Sender<Result<<E as Entry>::Answer, StoreError>>;

/// The way to a commit.
pub(crate) struct Batcher<E: Entry> {
    pending: mpsc::Sender<Pending<E>>,
}

impl<E: Entry> Clone for Batcher<E> {
    fn clone(&self) -> Self {
        Self { pending: self.pending.clone() }
    }
}

impl<E: Entry> Batcher<E> {
    /// Starts it. When `stop` is cancelled it commits what waits, then ends.
    pub(crate) fn start(backend: &Backend, tracker: &TaskTracker, stop: CancellationToken) -> Self {
        let (told, to_tell) = mpsc::channel(UNTOLD);
        tracker.spawn(tell(backend.clone(), to_tell));
        let (pending, arrived) = mpsc::channel(E::WAITING);
        tracker.spawn(run(backend.store.clone(), backend.clock.clone(), arrived, told, stop));
        Self { pending }
    }

    /// Makes it durable. If who sent it goes away meanwhile, it counts all the same.
    pub(crate) async fn enter(&self, entry: E) -> Result<E::Answer, Problem> {
        let (reply, answer) = oneshot::channel();
        self.pending.try_send(Pending { entry, reply }).map_err(|_| {
            let detail = format!("Too many {} wait for the database; this one was not taken", E::NAME);
            Problem::unavailable("overloaded", detail)
        })?;
        match answer.await {
            Ok(answer) => answer.map_err(Problem::from),
            Err(_) => {
                tracing::error!("the batcher of {} ended before it answered", E::NAME);
                Err(Problem::internal())
            }
        }
    }
}

async fn run<E: Entry>(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    mut arrived: mpsc::Receiver<Pending<E>>,
    told: mpsc::Sender<Consequences>,
    stop: CancellationToken,
) {
    loop {
        let first = tokio::select! {
            biased;
            first = arrived.recv() => first,
            () = stop.cancelled(), if !arrived.is_closed() => {
                arrived.close();
                continue;
            }
        };
        let Some(first) = first else { return };
        let (batch, replies) = collect(first, &mut arrived);
        let (answers, consequences) = E::commit(batch, store.as_ref(), clock.as_ref()).await;
        debug_assert_eq!(answers.len(), replies.len(), "one answer each");
        for (reply, answer) in replies.into_iter().zip(answers) {
            // Nobody there: who sent it went away.
            let _ = reply.send(answer);
        }
        if told.send(consequences).await.is_err() {
            tracing::warn!("nobody tells the fleet what came of {}; the sweep will", E::NAME);
        }
    }
}

/// All that waits, up to the size of one commit.
fn collect<E: Entry>(first: Pending<E>, arrived: &mut mpsc::Receiver<Pending<E>>) -> (Vec<E>, Vec<Reply<E>>) {
    let mut rows = first.entry.rows();
    let mut batch = vec![first.entry];
    let mut replies = vec![first.reply];
    while batch.len() < E::PER_COMMIT && rows < E::ROWS_PER_COMMIT {
        let Ok(next) = arrived.try_recv() else { break };
        rows += next.entry.rows();
        batch.push(next.entry);
        replies.push(next.reply);
    }
    (batch, replies)
}

/// Tells the fleet in a task of its own, so that a slow queue does not hold up the next commit.
async fn tell(backend: Backend, mut to_tell: mpsc::Receiver<Consequences>) {
    while let Some(mut consequences) = to_tell.recv().await {
        while let Ok(more) = to_tell.try_recv() {
            consequences.extend(more);
        }
        backend.dispatch(consequences).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many rows.
    struct Rows(usize);

    impl Entry for Rows {
        type Answer = ();

        const NAME: &'static str = "rows";
        const WAITING: usize = 8;
        const PER_COMMIT: usize = 3;
        const ROWS_PER_COMMIT: usize = 100;

        fn rows(&self) -> usize {
            self.0
        }

        async fn commit(
            batch: Vec<Self>,
            _store: &dyn Store,
            _clock: &dyn Clock,
        ) -> (Vec<Result<(), StoreError>>, Consequences) {
            (batch.into_iter().map(|_| Ok(())).collect(), Consequences::default())
        }
    }

    /// Which of those that wait share the first commit.
    fn shared(waiting: &[usize]) -> Vec<usize> {
        let (sender, mut arrived) = mpsc::channel(Rows::WAITING);
        for rows in &waiting[1..] {
            let (reply, _answer) = oneshot::channel();
            assert!(sender.try_send(Pending { entry: Rows(*rows), reply }).is_ok());
        }
        let (reply, _answer) = oneshot::channel();
        let (batch, _) = collect(Pending { entry: Rows(waiting[0]), reply }, &mut arrived);
        batch.into_iter().map(|Rows(rows)| rows).collect()
    }

    #[test]
    fn what_waits_shares_one_commit_up_to_its_size() {
        assert_eq!(shared(&[1]), [1]);
        assert_eq!(shared(&[1, 1, 1, 1]), [1, 1, 1]);
        assert_eq!(shared(&[1, 100, 1]), [1, 100], "the one that fills the commit is the last to join it");
    }
}
