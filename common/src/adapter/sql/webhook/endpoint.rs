//! Endpoints, and what they were told.

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::deliver::{self, NewDelivery};
use crate::{
    adapter::sql::{
        SqlStore,
        dialect::{Dialect, SqlRow, SqlTx, batch, params},
        read::{before, state_list},
        row,
        statement::{self as jobs, webhook as statement},
        unit::Unit,
    },
    domain::{
        JobId, Timestamp, WebhookEvent, WebhookId,
        webhook::{WebhookEndpoint, WebhookFormat, WebhookState},
    },
    port::{
        StoreError,
        store::{Consequences, Delivery, DeliveryFilter, NewWebhook, WebhookChange, Webhooks},
    },
    wire::webhook::WebhookPayload,
};

#[derive(Serialize)]
pub(super) struct EndpointRow {
    pub(super) id: Uuid,
    tenant: String,
    url: String,
    description: String,
    events: String,
    format: WebhookFormat,
    secrets: Option<String>,
    for_jobs: u8,
    at: i64,
}

impl EndpointRow {
    pub(super) fn new(tenant: &str, new: &NewWebhook, for_jobs: bool, now: Timestamp) -> Self {
        Self {
            id: new.id.uuid(),
            tenant: tenant.to_owned(),
            url: new.url.clone(),
            description: new.description.clone(),
            events: Value::from(new.events.clone()).to_string(),
            format: new.format,
            secrets: new.secrets.clone(),
            for_jobs: for_jobs.into(),
            at: now.micros(),
        }
    }
}

#[async_trait]
impl<D: Dialect> Webhooks for SqlStore<D> {
    async fn create_webhook(
        &self,
        tenant: &str,
        new: &NewWebhook,
        limit: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.dialect.begin().await?;
        // Two that come together are counted one after the other.
        tx.fetch(&jobs::TAKE_TURN, params![format!("errand webhooks of {tenant}")]).await?;
        let found = tx.fetch(&statement::COUNT_ENDPOINTS, params![tenant]).await?;
        if found.first().map(|row| row.int("found")).transpose()?.unwrap_or(0) >= i64::from(limit) {
            return Ok(false);
        }
        let rows = [EndpointRow::new(tenant, new, false, now)];
        tx.execute(&statement::INSERT_ENDPOINTS, params![batch(&rows)]).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn webhook(&self, tenant: &str, id: WebhookId) -> Result<Option<WebhookEndpoint>, StoreError> {
        let rows = self.dialect.read(&statement::ENDPOINT, params![tenant, id.uuid()]).await?;
        rows.first().map(read).transpose()
    }

    async fn webhooks(
        &self,
        tenant: &str,
        older_than: Option<WebhookId>,
        limit: u32,
    ) -> Result<Vec<WebhookEndpoint>, StoreError> {
        let before = before(older_than.map(WebhookId::uuid));
        let rows = self.dialect.read(&statement::ENDPOINTS, params![tenant, before, limit]).await?;
        rows.iter().map(read).collect()
    }

    async fn change_webhook(
        &self,
        tenant: &str,
        id: WebhookId,
        change: WebhookChange,
        now: Timestamp,
    ) -> Result<Option<WebhookEndpoint>, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let Some(former) = lock(&mut tx, tenant, id).await? else { return Ok(None) };
        let mut endpoint = WebhookEndpoint {
            url: change.url.unwrap_or_else(|| former.url.clone()),
            description: change.description.unwrap_or_else(|| former.description.clone()),
            events: change.events.unwrap_or_else(|| former.events.clone()),
            format: change.format.unwrap_or(former.format),
            state: change.state.unwrap_or(former.state),
            updated_at: now,
            ..former.clone()
        };
        if endpoint.state != former.state {
            let by_owner = endpoint.state == WebhookState::Disabled;
            endpoint.disabled_why = by_owner.then(|| "somebody disabled it".to_owned());
            endpoint.failing_since = None;
        }
        let values = params![
            id.uuid(),
            endpoint.url.as_str(),
            endpoint.description.as_str(),
            Value::from(endpoint.events.clone()).to_string(),
            endpoint.format.as_str(),
            endpoint.state.as_str(),
            endpoint.disabled_why.clone(),
            endpoint.failing_since,
            now,
        ];
        tx.execute(&statement::SAVE_ENDPOINT, values).await?;
        tx.commit().await?;
        Ok(Some(endpoint))
    }

    async fn replace_webhook_secrets(
        &self,
        tenant: &str,
        id: WebhookId,
        expected: Option<&str>,
        secrets: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let kept = lock(&mut tx, tenant, id).await?;
        if kept.is_none_or(|kept| kept.secrets.as_deref() != expected) {
            return Ok(false);
        }
        tx.execute(&statement::SAVE_SECRETS, params![id.uuid(), secrets, now]).await?;
        tx.commit().await?;
        Ok(true)
    }

    async fn remove_webhook(&self, tenant: &str, id: WebhookId) -> Result<bool, StoreError> {
        let mut tx = self.dialect.begin().await?;
        let removed = tx.execute(&statement::DELETE_ENDPOINT, params![tenant, id.uuid()]).await?;
        tx.commit().await?;
        Ok(removed > 0)
    }

    async fn deliveries(
        &self,
        tenant: &str,
        id: WebhookId,
        filter: &DeliveryFilter,
    ) -> Result<Vec<Delivery>, StoreError> {
        let before = before(filter.before.map(JobId::uuid));
        let params = params![tenant, id.uuid(), before, filter.limit, state_list(&filter.states)];
        self.dialect.read(&statement::DELIVERIES, params).await?.iter().map(delivery).collect()
    }

    async fn deliver(
        &self,
        tenant: &str,
        id: WebhookId,
        event: WebhookEvent,
        now: Timestamp,
    ) -> Result<Option<(JobId, Consequences)>, StoreError> {
        if self.webhook(tenant, id).await?.is_none() {
            return Ok(None);
        }
        let mut unit = Unit::begin(&self.dialect, now).await?;
        let delivery = NewDelivery { tenant, endpoint: id, event, trace: None };
        let made = deliver::make(&mut unit, &[delivery]).await?;
        let consequences = unit.commit().await?;
        Ok(made.first().map(|job| (*job, consequences)))
    }

    async fn redeliver(
        &self,
        tenant: &str,
        id: WebhookId,
        delivery: JobId,
        now: Timestamp,
    ) -> Result<Option<(JobId, Consequences)>, StoreError> {
        let rows = self.dialect.read(&statement::DELIVERED, params![tenant, id.uuid(), delivery.uuid()]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let payload: WebhookPayload = serde_json::from_str(&row.text("payload")?)
            .map_err(|error| StoreError::Corrupt(format!("the payload of delivery {delivery}: {error}")))?;
        self.deliver(tenant, id, payload.event, now).await
    }
}

async fn lock(tx: &mut impl SqlTx, tenant: &str, id: WebhookId) -> Result<Option<WebhookEndpoint>, StoreError> {
    let rows = tx.fetch(&statement::LOCK_ENDPOINT, params![tenant, id.uuid()]).await?;
    rows.first().map(read).transpose()
}

pub(super) fn read(row: &impl SqlRow) -> Result<WebhookEndpoint, StoreError> {
    Ok(WebhookEndpoint {
        id: row.uuid("id")?.into(),
        tenant: row.text("tenant")?,
        url: row.text("url")?,
        description: row.text("description")?,
        events: serde_json::from_str(&row.text("events")?).unwrap_or_default(),
        format: row::parse(row, "format")?,
        secrets: row.opt_text("secrets")?,
        for_jobs: row.int("for_jobs")? > 0,
        state: row::parse(row, "state")?,
        disabled_why: row.opt_text("disabled_why")?,
        failing_since: row::opt_at(row, "failing_since")?,
        created_at: row::at(row, "created_at")?,
        updated_at: row::at(row, "updated_at")?,
    })
}

fn delivery(row: &impl SqlRow) -> Result<Delivery, StoreError> {
    let attempt = row::number(row, "attempt")?;
    Ok(Delivery {
        id: row.uuid("id")?.into(),
        event_id: row.uuid("event_id")?.into(),
        event_type: row.text("event_type")?,
        job_id: row.opt_uuid("job_id")?.map(Into::into),
        state: row::parse(row, "state")?,
        attempt,
        status: row::lenient_json(row, "result")?.and_then(|result| result["status"].as_i64()),
        failure: row::failure(row, attempt)?,
        run_at: row::at(row, "run_at")?,
        created_at: row::at(row, "created_at")?,
        finished_at: row::opt_at(row, "finished_at")?,
    })
}
