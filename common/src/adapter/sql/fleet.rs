//! Which workers live.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    SqlStore,
    dialect::{Dialect, SqlRow, SqlTx, params},
    row, statement,
};
use crate::{
    domain::WorkerId,
    port::{
        StoreError,
        store::{Fleet, WorkerInfo},
    },
};

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data")
}

fn from_json<T: DeserializeOwned + Default>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_default()
}

#[async_trait]
impl<D: Dialect> Fleet for SqlStore<D> {
    async fn register_worker(&self, info: &WorkerInfo, lease: Duration) -> Result<bool, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let values = params![
            info.id.uuid(),
            info.host.as_str(),
            info.version.as_str(),
            json(&info.queues),
            json(&info.kinds),
            json(&info.engines),
            info.concurrency,
            info.running,
            i64::try_from(lease.as_micros()).unwrap_or(i64::MAX),
            i64::from(info.draining),
            i64::from(info.drainable),
        ];
        let rows = tx.fetch(&statement::REGISTER_WORKER, values).await?;
        tx.commit().await?;
        Ok(rows.first().map(|row| row.opt_int("drain_asked_at")).transpose()?.flatten().is_some())
    }

    async fn release_worker(&self, id: WorkerId) -> Result<(), StoreError> {
        let mut tx = self.dialect.begin().await?;
        tx.execute(&statement::RELEASE_WORKER, params![id.uuid()]).await?;
        tx.execute(&statement::FORGET_WORKERS, params![]).await?;
        tx.commit().await
    }

    async fn live_workers(&self) -> Result<Vec<WorkerInfo>, StoreError> {
        let rows = self.dialect.read(&statement::LIVE_WORKERS, params![]).await?;
        rows.iter()
            .map(|row| {
                Ok(WorkerInfo {
                    id: row.uuid("id")?.into(),
                    host: row.text("host")?,
                    version: row.text("version")?,
                    queues: from_json(&row.text("queues")?),
                    kinds: from_json(&row.text("kinds")?),
                    engines: from_json(&row.text("engines")?),
                    concurrency: u32::try_from(row.int("concurrency")?).unwrap_or(0),
                    running: u32::try_from(row.int("running")?).unwrap_or(0),
                    draining: row.opt_int("drain_asked_at")?.is_some(),
                    drainable: row.int("drainable")? != 0,
                    started_at: row::at(row, "started_at")?,
                    alive_until: row::at(row, "alive_until")?,
                })
            })
            .collect()
    }
}
