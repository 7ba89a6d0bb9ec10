//! What bridges say, on its way into the store.

use errand_common::port::{
    Clock, Store, StoreError,
    store::{Callback, Consequences, Received},
};

use crate::{
    batch::{Batcher, Entry},
    limit,
};

/// The way to a commit of callbacks.
pub(crate) type Callbacks = Batcher<Callback>;

impl Entry for Callback {
    type Answer = Received;

    const NAME: &'static str = "callbacks";
    const WAITING: usize = limit::CALLBACKS_WAITING;
    const PER_COMMIT: usize = limit::CALLBACKS_PER_COMMIT;
    const ROWS_PER_COMMIT: usize = limit::CALLBACKS_PER_COMMIT;

    fn rows(&self) -> usize {
        1
    }

    /// One transaction for all; if the database refuses that, one for each.
    async fn commit(
        batch: Vec<Self>,
        store: &dyn Store,
        clock: &dyn Clock,
    ) -> (Vec<Result<Received, StoreError>>, Consequences) {
        let error = match store.call_back(batch.clone(), clock.now()).await {
            Ok((answers, consequences)) => return (answers.into_iter().map(Ok).collect(), consequences),
            Err(StoreError::Unavailable(cause)) => {
                let cause = cause.to_string();
                let away = batch.iter().map(|_| Err(StoreError::Unavailable(cause.clone().into())));
                return (away.collect(), Consequences::default());
            }
            Err(error) => error,
        };
        tracing::warn!(%error, callbacks = batch.len(), "a batch of callbacks was refused; each is tried alone");
        let (mut answers, mut consequences) = (Vec::with_capacity(batch.len()), Consequences::default());
        for callback in batch {
            let alone = store.call_back(vec![callback], clock.now()).await;
            answers.push(alone.map(|(received, follow)| {
                consequences.extend(follow);
                received.first().copied().unwrap_or(Received::Unknown)
            }));
        }
        (answers, consequences)
    }
}
