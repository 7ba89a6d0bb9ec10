//! Webhooks: who is told, and what each was told.
//!
//! Whoever ends a job, records usage or changes a question also makes, in the same transaction, one `webhook` job for each
//! endpoint that wants to hear of it. What becomes of that job is the delivery's own fate; and each end of a run of it says
//! something of the endpoint: a success ends its time of failing, a failure begins it, and the codes
//! [`crate::wire::webhook::GONE`] and [`crate::wire::webhook::FAILING_TOO_LONG`] disable it, which the others are told.

use async_trait::async_trait;

use super::{Consequences, StoreError};
use crate::domain::{
    Failure, JobId, JobState, Timestamp, WebhookEvent, WebhookEventId, WebhookId,
    webhook::{WebhookEndpoint, WebhookFormat, WebhookState},
};

/// An endpoint to be kept. Its secrets are sealed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewWebhook {
    /// Its id.
    pub id: WebhookId,
    /// Where it is.
    pub url: String,
    /// For people.
    pub description: String,
    /// As [`WebhookEndpoint::events`].
    pub events: Vec<String>,
    /// How it is told.
    pub format: WebhookFormat,
    /// What signs, sealed.
    pub secrets: Option<String>,
}

/// What is to be changed; `None` stays. An endpoint that is enabled again begins without failures.
#[derive(Clone, Default, Debug)]
pub struct WebhookChange {
    /// Where it is.
    pub url: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// As [`WebhookEndpoint::events`].
    pub events: Option<Vec<String>>,
    /// How it is told.
    pub format: Option<WebhookFormat>,
    /// Whether it is told.
    pub state: Option<WebhookState>,
}

/// One event on its way to one endpoint: how it goes is told by its job.
#[derive(Clone, PartialEq, Debug)]
pub struct Delivery {
    /// The job that makes it.
    pub id: JobId,
    /// What receivers know repeats by.
    pub event_id: WebhookEventId,
    /// The event's type.
    pub event_type: String,
    /// The job it tells of.
    pub job_id: Option<JobId>,
    /// Where the delivery is.
    pub state: JobState,
    /// The attempt that runs or ran last.
    pub attempt: u32,
    /// The status it was answered with, once it succeeded.
    pub status: Option<i64>,
    /// Why it failed, or last failed.
    pub failure: Option<Failure>,
    /// When it is tried next, or was to be tried last.
    pub run_at: Timestamp,
    /// Made.
    pub created_at: Timestamp,
    /// Ended.
    pub finished_at: Option<Timestamp>,
}

/// Which deliveries of an endpoint, newest first.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    /// In one of these states; empty: any.
    pub states: Vec<JobState>,
    /// Older than this one.
    pub before: Option<JobId>,
    /// How many at most.
    pub limit: u32,
}

/// Webhooks. Everything of a client is scoped by tenant: another tenant's id is as good as unknown.
#[async_trait]
pub trait Webhooks: Send + Sync {
    /// Keeps an endpoint, unless the tenant has `limit` of them already: then `false`.
    async fn create_webhook(
        &self,
        tenant: &str,
        new: &NewWebhook,
        limit: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// One, also one that a job brought.
    async fn webhook(&self, tenant: &str, id: WebhookId) -> Result<Option<WebhookEndpoint>, StoreError>;

    /// Those of a tenant, newest first, before `before`; without those that jobs brought.
    async fn webhooks(
        &self,
        tenant: &str,
        before: Option<WebhookId>,
        limit: u32,
    ) -> Result<Vec<WebhookEndpoint>, StoreError>;

    /// Changes one. `None`: no such endpoint.
    async fn change_webhook(
        &self,
        tenant: &str,
        id: WebhookId,
        change: WebhookChange,
        now: Timestamp,
    ) -> Result<Option<WebhookEndpoint>, StoreError>;

    /// Replaces the sealed secrets, if they are still `expected`; else, or if there is no such endpoint, `false`.
    async fn replace_webhook_secrets(
        &self,
        tenant: &str,
        id: WebhookId,
        expected: Option<&str>,
        secrets: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Removes one; what is on its way to it is not sent any more. `false`: no such endpoint.
    async fn remove_webhook(&self, tenant: &str, id: WebhookId) -> Result<bool, StoreError>;

    /// What an endpoint was told, and is being told.
    async fn deliveries(
        &self,
        tenant: &str,
        id: WebhookId,
        filter: &DeliveryFilter,
    ) -> Result<Vec<Delivery>, StoreError>;

    /// Tells one endpoint this, whatever its filters say. `None`: no such endpoint.
    async fn deliver(
        &self,
        tenant: &str,
        id: WebhookId,
        event: WebhookEvent,
        now: Timestamp,
    ) -> Result<Option<(JobId, Consequences)>, StoreError>;

    /// Tells it once more what a delivery told it: a delivery of its own, of the same event. `None`: no such delivery.
    async fn redeliver(
        &self,
        tenant: &str,
        id: WebhookId,
        delivery: JobId,
        now: Timestamp,
    ) -> Result<Option<(JobId, Consequences)>, StoreError>;
}
