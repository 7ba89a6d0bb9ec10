//! Deliveries: each is a job of its own.

use serde::Serialize;
use uuid::Uuid;

use crate::{
    adapter::sql::{
        dialect::{Dialect, SqlTx, batch, params},
        statement::webhook as statement,
        submit::make_plain,
        unit::Unit,
    },
    domain::{JobId, Priority, RetryPolicy, Timestamp, TraceContext, WebhookEvent, WebhookId},
    port::{StoreError, store::NewJob},
    wire::webhook::{KIND, QUEUE, VERSION, WebhookPayload},
};

#[derive(Serialize)]
struct DeliveryRow<'a> {
    id: Uuid,
    tenant: &'a str,
    endpoint_id: Uuid,
    event_id: Uuid,
    event_type: &'a str,
    job_id: Option<Uuid>,
    at: i64,
}

impl<'a> DeliveryRow<'a> {
    fn new(id: JobId, delivery: &'a NewDelivery<'_>, now: Timestamp) -> Self {
        let NewDelivery { tenant, endpoint, event, .. } = delivery;
        Self {
            id: id.uuid(),
            tenant,
            endpoint_id: endpoint.uuid(),
            event_id: event.id.uuid(),
            event_type: &event.r#type,
            job_id: event.job_id.map(JobId::uuid),
            at: now.micros(),
        }
    }
}

/// One event on its way to one endpoint.
pub(super) struct NewDelivery<'a> {
    pub(super) tenant: &'a str,
    pub(super) endpoint: WebhookId,
    pub(super) event: WebhookEvent,
    /// Of the job that it tells of.
    pub(super) trace: Option<TraceContext>,
}

/// Makes a job for each. Returns their ids.
pub(super) async fn make<D: Dialect>(
    unit: &mut Unit<D>,
    deliveries: &[NewDelivery<'_>],
) -> Result<Vec<JobId>, StoreError> {
    if deliveries.is_empty() {
        return Ok(Vec::new());
    }
    let (mut jobs, mut rows) = (Vec::new(), Vec::new());
    for delivery in deliveries {
        let job = job(delivery);
        rows.push(DeliveryRow::new(job.id, delivery, unit.now));
        jobs.push(make_plain(unit, &job, None));
    }
    unit.insert(&jobs).await?;
    unit.tx.execute(&statement::INSERT_DELIVERIES, params![batch(&rows)]).await?;
    Ok(jobs.into_iter().map(|row| row.job.id).collect())
}

fn job(delivery: &NewDelivery<'_>) -> NewJob {
    let payload = WebhookPayload { endpoint_id: delivery.endpoint, event: delivery.event.clone() };
    NewJob {
        id: JobId::new(),
        tenant: delivery.tenant.to_owned(),
        kind: KIND.to_owned(),
        queue: QUEUE.to_owned(),
        priority: Priority::default(),
        // It always serialises: it has string keys only.
        payload: serde_json::to_value(payload).unwrap_or_default(),
        payload_version: VERSION,
        retry: RetryPolicy::WEBHOOK,
        timeout_ms: None,
        run_at: None,
        expires_at: None,
        deadline: None,
        metadata: None,
        retry_of: None,
        user_id: None,
        task: None,
        dedup: None,
        children: Vec::new(),
        coordination: None,
        webhook: None,
        trace: delivery.trace.clone(),
    }
}
