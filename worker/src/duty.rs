//! Work that one worker at a time does for all.

use std::{sync::Arc, time::Duration};

use errand_common::{
    domain::WorkerId,
    port::{Store, StoreError},
};

use crate::pace::within;

/// A holder that does not say so again in this many rounds is taken for gone.
const ROUNDS_PER_TERM: u32 = 3;
/// Shorter terms would change hands by chance.
const SHORTEST_TERM: Duration = Duration::from_secs(1);

/// A duty as this worker sees it. Two workers may do it at once for a moment, when one is slower than its term: what is done
/// under it must bear that.
pub(crate) struct Duty {
    store: Arc<dyn Store>,
    name: &'static str,
    worker: WorkerId,
    term: Duration,
    call_limit: Duration,
}

impl Duty {
    /// `interval`: how often it is taken.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        name: &'static str,
        worker: WorkerId,
        interval: Duration,
        call_limit: Duration,
    ) -> Self {
        Self { store, name, worker, term: (interval * ROUNDS_PER_TERM).max(SHORTEST_TERM), call_limit }
    }

    /// Whether the next round is ours.
    pub(crate) async fn take(&self) -> Result<bool, StoreError> {
        within(self.call_limit, self.store.take_duty(self.name, self.worker, self.term)).await
    }
}
