//! Contents of attachments. They may be large, so each is a statement of its own and no part of a batch.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::Serialize;

use super::{
    SqlStore,
    dialect::{Dialect, SqlRow, SqlTx, batch, params},
    statement,
    unit::Unit,
};
use crate::{
    domain::{AttachmentContent, Timestamp},
    port::{
        StoreError,
        store::{Attachments, NewJob},
    },
};

#[derive(Serialize)]
struct HashRow<'a> {
    hash: &'a str,
}

#[derive(Serialize)]
struct NamedRow<'a> {
    tenant: &'a str,
    hash: &'a str,
}

#[async_trait]
impl<D: Dialect> Attachments for SqlStore<D> {
    async fn keep_attachments(
        &self,
        tenant: &str,
        contents: Vec<AttachmentContent>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        // In order, so that two who keep the same ones don't wait in a ring.
        let contents: BTreeMap<_, _> = contents.into_iter().map(|content| (content.hash.clone(), content)).collect();
        if contents.is_empty() {
            return Ok(());
        }
        let mut tx = self.dialect.begin().await?;
        for (hash, content) in contents {
            // What is there already isn't sent again, but counts as new for retention.
            if tx.execute(&statement::TOUCH_ATTACHMENT, params![tenant, hash.as_str(), now]).await? > 0 {
                continue;
            }
            let size = i64::try_from(content.size).unwrap_or(i64::MAX);
            let values = params![tenant, hash, size, content.base64, now];
            tx.execute(&statement::INSERT_ATTACHMENT, values).await?;
        }
        tx.commit().await
    }

    async fn attachments(&self, tenant: &str, hashes: &[String]) -> Result<Vec<AttachmentContent>, StoreError> {
        if hashes.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<_> = hashes.iter().map(|hash| HashRow { hash }).collect();
        let rows = self.dialect.read(&statement::ATTACHMENTS, params![batch(&wanted), tenant]).await?;
        rows.iter()
            .map(|row| {
                let size = row.int("size")?;
                Ok(AttachmentContent {
                    hash: row.text("hash")?,
                    base64: row.text("base64")?,
                    size: u64::try_from(size)
                        .map_err(|_| StoreError::Corrupt(format!("an attachment's size is {size}")))?,
                })
            })
            .collect()
    }
}

/// Marks what comes with these jobs and their children as named, so that retention leaves it alone.
pub(super) async fn name<D: Dialect>(unit: &mut Unit<D>, jobs: &[&NewJob]) -> Result<(), StoreError> {
    let mut named: Vec<(&str, &str)> = jobs
        .iter()
        .flat_map(|job| std::iter::once(*job).chain(&job.children))
        .filter_map(|job| Some((job.tenant.as_str(), job.task.as_ref()?)))
        .flat_map(|(tenant, task)| task.attachments.iter().map(move |attachment| (tenant, attachment.hash.as_str())))
        .collect();
    if named.is_empty() {
        return Ok(());
    }
    named.sort_unstable();
    named.dedup();
    let rows: Vec<_> = named.into_iter().map(|(tenant, hash)| NamedRow { tenant, hash }).collect();
    unit.tx.fetch(&statement::LOCK_ATTACHMENTS, params![batch(&rows)]).await?;
    unit.tx.execute(&statement::NAME_ATTACHMENTS, params![batch(&rows)]).await.map(drop)
}

/// Drops what was last sent before a time and never named, up to `limit`. Returns how many.
pub(super) async fn drop_unnamed(tx: &mut impl SqlTx, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
    let found = tx.fetch(&statement::UNNAMED_ATTACHMENTS, params![before, limit]).await?;
    let keys = found
        .iter()
        .map(|row| Ok((row.text("tenant")?, row.text("hash")?)))
        .collect::<Result<Vec<(String, String)>, StoreError>>()?;
    if keys.is_empty() {
        return Ok(0);
    }
    let rows: Vec<_> = keys.iter().map(|(tenant, hash)| NamedRow { tenant, hash }).collect();
    tx.execute(&statement::DELETE_ATTACHMENTS, params![batch(&rows)]).await
}
