//! Webhook endpoints and deliveries as clients see them.

use errand_common::{
    domain::{
        Failure, JobId, JobState, Timestamp, WebhookEventId, WebhookId,
        webhook::{WebhookEndpoint, WebhookFormat, WebhookState},
    },
    port::store::Delivery,
};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::schema;

/// An endpoint, without its secrets.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhook)]
pub(crate) struct WebhookView {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    pub(crate) id: WebhookId,
    /// Where it is.
    pub(crate) url: String,
    /// For people.
    pub(crate) description: String,
    /// The types it wants, `job.*` for a family; empty: all.
    pub(crate) events: Vec<String>,
    /// How it is told.
    #[schema(schema_with = schema::webhook_format)]
    pub(crate) format: WebhookFormat,
    /// A job brought it: it is told of that job alone.
    pub(crate) for_jobs: bool,
    /// Whether it is told.
    #[schema(schema_with = schema::webhook_state)]
    pub(crate) state: WebhookState,
    /// Why not.
    pub(crate) disabled_why: Option<String>,
    /// The first failure after its last success.
    #[schema(schema_with = schema::time_or_null)]
    pub(crate) failing_since: Option<Timestamp>,
    /// Made.
    #[schema(schema_with = schema::time)]
    pub(crate) created_at: Timestamp,
    /// Last changed.
    #[schema(schema_with = schema::time)]
    pub(crate) updated_at: Timestamp,
}

impl From<WebhookEndpoint> for WebhookView {
    fn from(endpoint: WebhookEndpoint) -> Self {
        Self {
            id: endpoint.id,
            url: endpoint.url,
            description: endpoint.description,
            events: endpoint.events,
            format: endpoint.format,
            for_jobs: endpoint.for_jobs,
            state: endpoint.state,
            disabled_why: endpoint.disabled_why,
            failing_since: endpoint.failing_since,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
        }
    }
}

/// One event on its way to one endpoint. Its attempts are told by `GET /jobs/{id}/timeline`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(crate) struct DeliveryView {
    /// Its id: of the job that makes it.
    #[schema(schema_with = schema::uuid)]
    id: JobId,
    /// `webhook-id`: what receivers know repeats by.
    #[schema(schema_with = schema::uuid)]
    event_id: WebhookEventId,
    /// The event's type.
    #[schema(example = "job.completed")]
    event_type: String,
    /// The job it tells of.
    #[schema(schema_with = schema::uuid_or_null)]
    job_id: Option<JobId>,
    /// Where it is: `completed` once the receiver took it.
    #[schema(schema_with = schema::job_state)]
    state: JobState,
    /// The attempt that runs or ran last, of eight.
    attempt: u32,
    /// The status it was taken with.
    status: Option<i64>,
    /// Why it failed, or last failed.
    #[schema(value_type = Option<Object>)]
    failure: Option<Value>,
    /// When it is tried next, or was to be tried last.
    #[schema(schema_with = schema::time)]
    run_at: Timestamp,
    /// Made.
    #[schema(schema_with = schema::time)]
    created_at: Timestamp,
    /// Ended.
    #[schema(schema_with = schema::time_or_null)]
    finished_at: Option<Timestamp>,
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        Self {
            id: delivery.id,
            event_id: delivery.event_id,
            event_type: delivery.event_type,
            job_id: delivery.job_id,
            state: delivery.state,
            attempt: delivery.attempt,
            status: delivery.status,
            failure: delivery.failure.map(|failure: Failure| json!(failure)),
            run_at: delivery.run_at,
            created_at: delivery.created_at,
            finished_at: delivery.finished_at,
        }
    }
}
