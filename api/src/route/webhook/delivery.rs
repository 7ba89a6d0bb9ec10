//! `GET /webhooks/{id}/deliveries`, `POST /webhooks/{id}/test`, `POST /webhooks/{id}/deliveries/{delivery_id}/redeliver`

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use errand_common::{
    domain::{
        JobId, JobState, WebhookEvent, WebhookEventId, WebhookId,
        webhook::{TEST, WebhookState},
    },
    port::store::{Consequences, DeliveryFilter},
};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::missing;
use crate::{
    auth::{Admin, Permit},
    extract::{DeliveryInPath, NoBody, Page, Params, PathId},
    idempotency::{self, IdempotencyKey},
    problem::{Problem, ProblemBody},
    route::job_list::states,
    state::{App, AppState},
    view::{DeliveryView, List, schema},
};

/// A delivery as taken in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeliveryAccepted {
    /// Its id: of the job that makes it.
    #[schema(schema_with = schema::uuid)]
    id: JobId,
    /// Where it starts.
    #[schema(schema_with = schema::job_state)]
    state: JobState,
}

/// Lists what an endpoint was told and is being told, newest first. Kept as long as jobs are.
#[utoipa::path(
    get, path = "/api/v1/webhooks/{id}/deliveries", tag = "webhooks",
    params(
        ("id" = uuid::Uuid, Path),
        ("state" = Option<String>, Query, description = "in one of these states, comma-separated; `live` means every non-terminal one"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<DeliveryView>))
)]
pub(crate) async fn list_deliveries(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<WebhookId>,
    mut query: Params,
) -> Result<Json<List<DeliveryView>>, Problem> {
    let page: Page<JobId> = query.page();
    let filter = DeliveryFilter { states: states(&mut query), before: page.after, limit: page.probe() };
    query.finish()?;
    app.backend.store.webhook(&caller.tenant, id).await?.ok_or_else(missing)?;
    let mut deliveries = app.backend.store.deliveries(&caller.tenant, id, &filter).await?;
    let next_cursor = page.cut(&mut deliveries, |delivery| delivery.id);
    Ok(Json(List { items: deliveries.into_iter().map(DeliveryView::from).collect(), next_cursor }))
}

/// Tells an endpoint an event of type `webhook.test`, whatever it wants to hear.
#[utoipa::path(
    post, path = "/api/v1/webhooks/{id}/test", tag = "webhooks", params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 202, description = "Taken in; the delivery's job goes on", body = DeliveryAccepted),
        (status = 409, description = "`webhook_disabled`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn test_webhook(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<WebhookId>,
    key: IdempotencyKey,
    body: NoBody,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let send = async || {
        enabled(&app, &caller.tenant, id).await?;
        let event = WebhookEvent {
            id: WebhookEventId::new(),
            r#type: TEST.to_owned(),
            timestamp: app.now(),
            job_id: None,
            data: json!({"endpoint_id": id, "message": "This is a test"}),
        };
        let made = app.backend.store.deliver(&caller.tenant, id, event, app.now()).await?;
        accepted(&app, made).await
    };
    let response = idempotency::once(&app, key.as_ref(), send).await?;
    Ok((StatusCode::ACCEPTED, response).into_response())
}

/// Tells an endpoint once more what a delivery told it, however that ended: under the same `webhook-id`, so that a receiver that
/// has it already can tell.
#[utoipa::path(
    post, path = "/api/v1/webhooks/{id}/deliveries/{delivery_id}/redeliver", tag = "webhooks",
    params(("id" = uuid::Uuid, Path), ("delivery_id" = uuid::Uuid, Path)),
    responses(
        (status = 202, description = "Taken in; the new delivery's job goes on", body = DeliveryAccepted),
        (status = 409, description = "`webhook_disabled`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn redeliver(
    State(app): AppState,
    caller: Permit<Admin>,
    DeliveryInPath(id, delivery): DeliveryInPath,
    key: IdempotencyKey,
    body: NoBody,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let send = async || {
        enabled(&app, &caller.tenant, id).await?;
        let made = app.backend.store.redeliver(&caller.tenant, id, delivery, app.now()).await?;
        if made.is_none() {
            return Err(Problem::not_found("Delivery"));
        }
        accepted(&app, made).await
    };
    let response = idempotency::once(&app, key.as_ref(), send).await?;
    Ok((StatusCode::ACCEPTED, response).into_response())
}

async fn enabled(app: &App, tenant: &str, id: WebhookId) -> Result<(), Problem> {
    let endpoint = app.backend.store.webhook(tenant, id).await?.ok_or_else(missing)?;
    if endpoint.state == WebhookState::Enabled {
        return Ok(());
    }
    let why = endpoint.disabled_why.unwrap_or_default();
    let detail = format!("The endpoint is disabled: {why}; enable it by PATCH with {{\"state\": \"enabled\"}}");
    Err(Problem::new(StatusCode::CONFLICT, "webhook_disabled", detail))
}

async fn accepted(app: &App, made: Option<(JobId, Consequences)>) -> Result<serde_json::Value, Problem> {
    let (id, consequences) = made.ok_or_else(missing)?;
    app.backend.dispatch(consequences).await;
    Ok(json!(DeliveryAccepted { id, state: JobState::Queued }))
}
