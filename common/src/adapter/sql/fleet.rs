//! Which workers live.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

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

/// Kinds as a row may hold them: workers from before payloads had versions wrote names alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredKinds {
    Versions(BTreeMap<String, u32>),
    Names(Vec<String>),
}

fn kinds(text: &str) -> BTreeMap<String, u32> {
    match serde_json::from_str(text) {
        Ok(StoredKinds::Versions(versions)) => versions,
        Ok(StoredKinds::Names(names)) => names.into_iter().map(|name| (name, 1)).collect(),
        Err(_) => BTreeMap::new(),
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[async_trait]
impl<D: Dialect> Fleet for SqlStore<D> {
    async fn register_worker(&self, info: &WorkerInfo, lease: Duration) -> Result<bool, StoreError> {
        let mut tx = self.dialect.begin_renewal().await?;
        let values = params![
            info.id.uuid(),
            info.host.as_str(),
            info.version.as_str(),
            json(&info.queues),
            json(&info.kinds),
            json(&info.engines),
            info.concurrency,
            info.running,
            micros(lease),
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
        tx.execute(&statement::DROP_DUTIES, params![id.uuid()]).await?;
        tx.execute(&statement::FORGET_WORKERS, params![]).await?;
        tx.commit().await
    }

    async fn take_duty(&self, duty: &str, worker: WorkerId, term: Duration) -> Result<bool, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let taken = tx.execute(&statement::TAKE_DUTY, params![duty, worker.uuid(), micros(term)]).await?;
        tx.commit().await?;
        Ok(taken > 0)
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
                    kinds: kinds(&row.text("kinds")?),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kinds_of_an_older_worker_are_read_as_version_one() {
        assert_eq!(kinds(r#"["task"]"#), BTreeMap::from([("task".to_owned(), 1)]));
        assert_eq!(kinds(r#"{"task":2}"#), BTreeMap::from([("task".to_owned(), 2)]));
        assert_eq!(kinds("7"), BTreeMap::new());
    }
}
