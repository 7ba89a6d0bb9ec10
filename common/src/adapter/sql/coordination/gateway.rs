//! Gateways.

use async_trait::async_trait;

use super::agent;
use crate::{
    adapter::sql::{
        SqlStore,
        dialect::{Dialect, SqlRow, SqlTx, params},
        read::before,
        row,
        statement::coordination as statement,
        submit::used_before,
    },
    domain::{GatewayId, Timestamp, coordination::Gateway},
    port::{
        StoreError,
        store::{
            IdempotencyRecord, StoredAnswer,
            coordination::{GatewayChange, Gateways, NewGateway, Removed},
        },
    },
};

#[async_trait]
impl<D: Dialect> Gateways for SqlStore<D> {
    async fn create_gateway(
        &self,
        new: NewGateway,
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
            new.url,
            new.token,
            new.workspace_root,
            u32::from(new.disable_device_pairing),
            u32::from(new.allow_insecure_tls),
            now,
        ];
        tx.execute(&statement::INSERT_GATEWAY, values).await?;
        if !agent::insert(&mut tx, &new.main, None, now).await? {
            return Err(StoreError::Corrupt("a new gateway has an agent already".to_owned()));
        }
        tx.commit().await?;
        Ok(None)
    }

    async fn gateway(&self, tenant: &str, id: GatewayId) -> Result<Option<Gateway>, StoreError> {
        let rows = self.dialect.read(&statement::GATEWAY, params![tenant, id.uuid()]).await?;
        rows.first().map(read).transpose()
    }

    async fn gateways(
        &self,
        tenant: &str,
        older_than: Option<GatewayId>,
        limit: u32,
    ) -> Result<Vec<Gateway>, StoreError> {
        let before = before(older_than.map(GatewayId::uuid));
        let rows = self.dialect.read(&statement::GATEWAYS, params![tenant, before, limit]).await?;
        rows.iter().map(read).collect()
    }

    async fn all_gateways(&self, limit: u32) -> Result<Vec<Gateway>, StoreError> {
        self.dialect.read(&statement::ALL_GATEWAYS, params![limit]).await?.iter().map(read).collect()
    }

    async fn change_gateway(
        &self,
        tenant: &str,
        id: GatewayId,
        change: GatewayChange,
        now: Timestamp,
    ) -> Result<Option<Gateway>, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let Some(former) = lock(&mut tx, tenant, id).await? else { return Ok(None) };
        let has_another = change.token.is_some();
        let mut gateway = Gateway {
            name: change.name.unwrap_or_else(|| former.name.clone()),
            url: change.url.unwrap_or_else(|| former.url.clone()),
            token: change.token.unwrap_or_else(|| change.resealed.or_else(|| former.token.clone())),
            workspace_root: change.workspace_root.unwrap_or_else(|| former.workspace_root.clone()),
            disable_device_pairing: change.disable_device_pairing.unwrap_or(former.disable_device_pairing),
            allow_insecure_tls: change.allow_insecure_tls.unwrap_or(former.allow_insecure_tls),
            updated_at: now,
            ..former.clone()
        };
        let is_elsewhere = gateway.url != former.url || (has_another && gateway.token != former.token);
        let switches = |gateway: &Gateway| (gateway.disable_device_pairing, gateway.allow_insecure_tls);
        if is_elsewhere {
            gateway.device = None;
        }
        if is_elsewhere || switches(&gateway) != switches(&former) {
            gateway.version += 1;
        }
        let values = params![
            id.uuid(),
            gateway.name.as_str(),
            gateway.url.as_str(),
            gateway.token.clone(),
            gateway.workspace_root.as_str(),
            u32::from(gateway.disable_device_pairing),
            u32::from(gateway.allow_insecure_tls),
            gateway.device.clone(),
            gateway.version,
            now,
        ];
        tx.execute(&statement::SAVE_GATEWAY, values).await?;
        tx.commit().await?;
        Ok(Some(gateway))
    }

    async fn remove_gateway(&self, tenant: &str, id: GatewayId) -> Result<Removed, StoreError> {
        let mut tx = self.dialect.begin().await?;
        if lock(&mut tx, tenant, id).await?.is_none() {
            return Ok(Removed::Unknown);
        }
        let boards = tx.fetch(&statement::BOARDS_ON, params![id.uuid()]).await?;
        let boards = boards.first().map(|row| row.int("found")).transpose()?.unwrap_or(0);
        if boards > 0 {
            return Ok(Removed::InUse(boards.unsigned_abs()));
        }
        tx.execute(&statement::DELETE_AGENTS_ON, params![id.uuid()]).await?;
        tx.execute(&statement::DELETE_GATEWAY, params![id.uuid()]).await?;
        tx.commit().await?;
        Ok(Removed::Done)
    }

    async fn keep_device(
        &self,
        id: GatewayId,
        expected: Option<&str>,
        device: &str,
    ) -> Result<Option<String>, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let rows = tx.fetch(&statement::LOCK_DEVICE, params![id.uuid()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let kept = row.opt_text("device")?;
        if kept.as_deref() != expected {
            return Ok(kept);
        }
        tx.execute(&statement::SAVE_DEVICE, params![id.uuid(), device]).await?;
        tx.commit().await?;
        Ok(Some(device.to_owned()))
    }
}

/// Holds a gateway, so that it stays while something is made to belong to it.
pub(super) async fn lock(tx: &mut impl SqlTx, tenant: &str, id: GatewayId) -> Result<Option<Gateway>, StoreError> {
    let rows = tx.fetch(&statement::LOCK_GATEWAY, params![tenant, id.uuid()]).await?;
    rows.first().map(read).transpose()
}

fn read(row: &impl SqlRow) -> Result<Gateway, StoreError> {
    Ok(Gateway {
        id: row.uuid("id")?.into(),
        tenant: row.text("tenant")?,
        name: row.text("name")?,
        url: row.text("url")?,
        token: row.opt_text("token")?,
        workspace_root: row.text("workspace_root")?,
        disable_device_pairing: row.int("disable_device_pairing")? > 0,
        allow_insecure_tls: row.int("allow_insecure_tls")? > 0,
        device: row.opt_text("device")?,
        version: row.int("version")?,
        created_at: row::at(row, "created_at")?,
        updated_at: row::at(row, "updated_at")?,
    })
}
