//! The callback batcher: what bridges say while one commit runs shares the next.

use std::sync::Arc;

use errand_common::{
    backend::Backend,
    port::{
        Clock, Store, StoreError,
        store::{Callback, Consequences, Received},
    },
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{limit, problem::Problem, submit::tell};

type Answer = Result<Received, StoreError>;

struct Pending {
    callback: Callback,
    reply: oneshot::Sender<Answer>,
}

/// The way to a commit.
#[derive(Clone)]
pub(crate) struct Callbacks {
    pending: mpsc::Sender<Pending>,
}

impl Callbacks {
    /// Starts the batcher. When `stop` is cancelled it commits what waits, then ends.
    pub(crate) fn start(backend: &Backend, tracker: &TaskTracker, stop: CancellationToken) -> Self {
        let (told, to_tell) = mpsc::channel(16);
        tracker.spawn(tell(backend.clone(), to_tell));
        let (pending, arrived) = mpsc::channel(limit::CALLBACKS_WAITING);
        tracker.spawn(commit(backend.store.clone(), backend.clock.clone(), arrived, told, stop));
        Self { pending }
    }

    /// Makes a callback durable. If the bridge goes away meanwhile, it counts all the same.
    pub(crate) async fn take(&self, callback: Callback) -> Result<Received, Problem> {
        let (reply, answer) = oneshot::channel();
        self.pending.try_send(Pending { callback, reply }).map_err(|_| {
            Problem::unavailable("overloaded", "Too many callbacks wait for the database; this one was not taken")
        })?;
        match answer.await {
            Ok(answer) => answer.map_err(Problem::from),
            Err(_) => {
                tracing::error!("the callback batcher ended before it answered");
                Err(Problem::internal())
            }
        }
    }
}

async fn commit(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    mut arrived: mpsc::Receiver<Pending>,
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
        let mut batch = vec![first];
        while batch.len() < limit::CALLBACKS_PER_COMMIT {
            let Ok(next) = arrived.try_recv() else { break };
            batch.push(next);
        }
        let consequences = take_in(store.as_ref(), clock.as_ref(), batch).await;
        if told.send(consequences).await.is_err() {
            tracing::warn!("nobody tells the fleet what bridges said; watchers will read the store");
        }
    }
}

/// One transaction for all; if the database refuses that, one for each.
async fn take_in(store: &dyn Store, clock: &dyn Clock, batch: Vec<Pending>) -> Consequences {
    let callbacks = batch.iter().map(|pending| pending.callback.clone()).collect();
    let (answers, mut consequences) = match store.call_back(callbacks, clock.now()).await {
        Ok((answers, consequences)) => (answers.into_iter().map(Ok).collect(), consequences),
        Err(StoreError::Unavailable(cause)) => {
            let cause = cause.to_string();
            let away = batch.iter().map(|_| Err(StoreError::Unavailable(cause.clone().into())));
            (away.collect::<Vec<Answer>>(), Consequences::default())
        }
        Err(error) => {
            tracing::warn!(%error, callbacks = batch.len(), "a batch of callbacks was refused; each is tried alone");
            (Vec::new(), Consequences::default())
        }
    };
    let mut answers = answers.into_iter();
    for Pending { callback, reply } in batch {
        let answer = match answers.next() {
            Some(answer) => answer,
            None => store.call_back(vec![callback], clock.now()).await.map(|(received, follow)| {
                consequences.extend(follow);
                received.first().copied().unwrap_or(Received::Unknown)
            }),
        };
        // Nobody there: the bridge went away.
        let _ = reply.send(answer);
    }
    consequences
}
