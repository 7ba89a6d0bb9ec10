//! What the relay needs of the store, and no more, so that joining can be tried without a database.

use std::sync::Arc;

use async_trait::async_trait;
use errand_common::{
    domain::{Event, Stream},
    port::{Store, StoreError, store::StreamState},
};
use tokio_util::task::AbortOnDropHandle;

/// The log behind the live channel.
#[async_trait]
pub(crate) trait Log: Send + Sync {
    /// Where streams stand.
    async fn tails(&self, streams: &[Stream]) -> Result<Vec<(Stream, StreamState)>, StoreError>;

    /// Events above `after`, in order.
    async fn events(&self, stream: Stream, after: i64, limit: u32) -> Result<Vec<Event>, StoreError>;

    /// One random value a database.
    async fn epoch(&self) -> Result<String, StoreError>;
}

#[async_trait]
impl Log for Arc<dyn Store> {
    async fn tails(&self, streams: &[Stream]) -> Result<Vec<(Stream, StreamState)>, StoreError> {
        self.as_ref().tails(streams).await
    }

    /// In a task of its own. A watch is polled when its socket has time for it: one that waits for a connection of the pool
    /// would be given it and hold it unused, while its socket, or another, waits for one in vain.
    async fn events(&self, stream: Stream, after: i64, limit: u32) -> Result<Vec<Event>, StoreError> {
        let store = self.clone();
        let read = tokio::spawn(async move { store.as_ref().events(stream, after, limit).await });
        AbortOnDropHandle::new(read).await.unwrap_or_else(|gone| Err(StoreError::Unavailable(gone.into())))
    }

    async fn epoch(&self) -> Result<String, StoreError> {
        self.as_ref().epoch().await
    }
}
