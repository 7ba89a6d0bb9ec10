//! Instances: their rows; `callback`: what their bridges say; `ticket`: what opens a stream.

mod callback;
mod ticket;

use async_trait::async_trait;

use super::{
    SqlStore,
    dialect::{Dialect, SqlRow, SqlTx, params},
    read::before,
    row::{self, number},
    statement::instance as statement,
    submit::used_before,
};
use crate::{
    domain::{InstanceId, Timestamp, instance::Instance},
    port::{
        StoreError,
        store::{IdempotencyRecord, InstanceChange, Instances, StoredAnswer, coordination::Removed},
    },
};

#[async_trait]
impl<D: Dialect> Instances for SqlStore<D> {
    async fn create_instance(
        &self,
        new: Instance,
        idempotency: Option<IdempotencyRecord>,
        now: Timestamp,
    ) -> Result<Option<StoredAnswer>, StoreError> {
        let mut tx = self.dialect.begin().await?;
        if let Some(answer) = used_before(&mut tx, idempotency.as_ref(), now).await? {
            return Ok(Some(answer));
        }
        let values = params![
            new.id.uuid(),
            new.tenant,
            new.name,
            new.user_id,
            new.server_host,
            u32::from(new.host_port),
            new.status.as_str(),
            new.callback_secret,
            new.poll_seconds.map(i64::from),
            now,
        ];
        tx.execute(&statement::INSERT_INSTANCE, values).await?;
        tx.commit().await?;
        Ok(None)
    }

    async fn instance(&self, tenant: &str, id: InstanceId) -> Result<Option<Instance>, StoreError> {
        let rows = self.dialect.read(&statement::INSTANCE, params![tenant, id.uuid()]).await?;
        rows.first().map(read).transpose()
    }

    async fn instances(
        &self,
        tenant: &str,
        user_id: Option<&str>,
        older_than: Option<InstanceId>,
        limit: u32,
    ) -> Result<Vec<Instance>, StoreError> {
        let mut values = params![tenant, before(older_than.map(InstanceId::uuid)), limit];
        let sql = match user_id {
            None => &statement::INSTANCES,
            Some(user) => {
                values.push(user.into());
                &statement::USER_INSTANCES
            }
        };
        self.dialect.read(sql, values).await?.iter().map(read).collect()
    }

    async fn change_instance(
        &self,
        tenant: &str,
        id: InstanceId,
        change: InstanceChange,
        now: Timestamp,
    ) -> Result<Option<Instance>, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let rows = tx.fetch(&statement::LOCK_INSTANCE, params![tenant, id.uuid()]).await?;
        let Some(former) = rows.first().map(read).transpose()? else { return Ok(None) };
        let instance = Instance {
            name: change.name.unwrap_or(former.name),
            user_id: change.user_id.unwrap_or(former.user_id),
            server_host: change.server_host.unwrap_or(former.server_host),
            host_port: change.host_port.unwrap_or(former.host_port),
            status: change.status.unwrap_or(former.status),
            callback_secret: change.callback_secret.unwrap_or(former.callback_secret),
            poll_seconds: change.poll_seconds.unwrap_or(former.poll_seconds),
            updated_at: now,
            ..former
        };
        let values = params![
            id.uuid(),
            instance.name.as_str(),
            instance.user_id.clone(),
            instance.server_host.clone(),
            u32::from(instance.host_port),
            instance.status.as_str(),
            instance.callback_secret.clone(),
            instance.poll_seconds.map(i64::from),
            now,
        ];
        tx.execute(&statement::SAVE_INSTANCE, values).await?;
        tx.commit().await?;
        Ok(Some(instance))
    }

    async fn remove_instance(&self, tenant: &str, id: InstanceId) -> Result<Removed, StoreError> {
        let mut tx = self.dialect.begin().await?;
        if tx.fetch(&statement::LOCK_INSTANCE, params![tenant, id.uuid()]).await?.is_empty() {
            return Ok(Removed::Unknown);
        }
        let tasks = tx.fetch(&statement::UNFINISHED_AT, params![id.uuid()]).await?;
        let tasks = tasks.first().map(|row| row.int("found")).transpose()?.unwrap_or(0);
        if tasks > 0 {
            return Ok(Removed::InUse(tasks.unsigned_abs()));
        }
        tx.execute(&statement::DELETE_INSTANCE, params![id.uuid()]).await?;
        tx.commit().await?;
        Ok(Removed::Done)
    }
}

fn read(row: &impl SqlRow) -> Result<Instance, StoreError> {
    let poll_seconds = row.opt_int("poll_seconds")?;
    Ok(Instance {
        id: row.uuid("id")?.into(),
        tenant: row.text("tenant")?,
        name: row.text("name")?,
        user_id: row.opt_text("user_id")?,
        server_host: row.opt_text("server_host")?,
        host_port: number(row, "host_port")?,
        status: row::parse(row, "status")?,
        callback_secret: row.opt_text("callback_secret")?,
        poll_seconds: poll_seconds.and_then(|seconds| u32::try_from(seconds).ok()),
        created_at: row::at(row, "created_at")?,
        updated_at: row::at(row, "updated_at")?,
    })
}
