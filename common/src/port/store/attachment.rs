//! Contents of attachments, kept once a tenant.

use async_trait::async_trait;

use super::StoreError;
use crate::domain::{AttachmentContent, Timestamp};

/// Contents of attachments.
#[async_trait]
pub trait Attachments: Send + Sync {
    /// Keeps contents, each once. They are there before the submission that names them: one that is never named is dropped
    /// by retention.
    async fn keep_attachments(
        &self,
        tenant: &str,
        contents: Vec<AttachmentContent>,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Those of these hashes that are kept, in any order.
    async fn attachments(&self, tenant: &str, hashes: &[String]) -> Result<Vec<AttachmentContent>, StoreError>;
}
