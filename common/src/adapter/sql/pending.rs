//! Not built yet.

use async_trait::async_trait;

use super::{SqlStore, dialect::Dialect};
use crate::{
    domain::*,
    port::{StoreError, store::*},
};

fn missing<T>() -> Result<T, StoreError> {
    Err(StoreError::Corrupt("not built yet".to_owned()))
}

#[async_trait]
impl<D: Dialect> EngineStates for SqlStore<D> {
    async fn engine_state(&self, _: SessionId, _: &str) -> Result<Option<EngineState>, StoreError> {
        missing()
    }
    async fn keep_engine_state(&self, _: Fence, _: EngineState) -> Result<Result<(), Stale>, StoreError> {
        missing()
    }
}

#[async_trait]
impl<D: Dialect> UsageReads for SqlStore<D> {
    async fn usage_sums(&self, _: &UsageFilter, _: &[UsageGroup], _: u32) -> Result<Vec<UsageSum>, StoreError> {
        missing()
    }
    async fn usage_of(&self, _: &str, _: JobId) -> Result<Vec<UsageRecord>, StoreError> {
        missing()
    }
    async fn spent(&self, _: &str, _: JobId, _: Option<SessionId>, _: Timestamp) -> Result<SpentBy, StoreError> {
        missing()
    }
}

#[async_trait]
impl<D: Dialect> Attachments for SqlStore<D> {
    async fn keep_attachments(&self, _: &str, _: Vec<AttachmentContent>, _: Timestamp) -> Result<(), StoreError> {
        missing()
    }
    async fn attachments(&self, _: &str, _: &[String]) -> Result<Vec<AttachmentContent>, StoreError> {
        missing()
    }
}

#[async_trait]
impl<D: Dialect> Preferences for SqlStore<D> {
    async fn default_engine(&self, _: &str) -> Result<Option<String>, StoreError> {
        missing()
    }
    async fn choose_engine(&self, _: &str, _: &str, _: Timestamp) -> Result<(), StoreError> {
        missing()
    }
}
