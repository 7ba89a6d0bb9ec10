//! A value that may be a little old: read again when its time has passed, by one reader for all.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// See the module.
#[derive(Debug)]
pub(crate) struct Cached<T> {
    ttl: Duration,
    slot: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> Cached<T> {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { ttl, slot: Mutex::new(None) }
    }

    /// The value, read by `read` if there is none or it is too old. A failed read is not kept.
    pub(crate) async fn get<E>(&self, read: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let mut slot = self.slot.lock().await;
        if let Some((since, value)) = slot.as_ref()
            && since.elapsed() < self.ttl
        {
            return Ok(value.clone());
        }
        let value = read.await?;
        *slot = Some((Instant::now(), value.clone()));
        Ok(value)
    }
}
