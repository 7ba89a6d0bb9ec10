//! `POST|GET|PATCH|DELETE /webhooks`

use axum::{Json, extract::State, http::StatusCode, response::Response};
use errand_common::{
    domain::{
        WebhookId,
        webhook::{WebhookFormat, WebhookState},
    },
    port::store::{NewWebhook, WebhookChange},
    wire::webhook::{Secrets, WebhookSecret},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::missing;
use crate::{
    auth::{Admin, Permit},
    extract::{JsonBody, Page, Params, PathId, Wanted},
    idempotency::{self, IdempotencyKey},
    limit,
    problem::{Faults, Problem, ProblemBody},
    state::AppState,
    view::{List, WebhookView, schema},
    webhook::{check_events, kept_secret, kept_url},
};

/// An endpoint to be kept.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookRequest {
    /// Where it is: an https URL at a public address, or a URL within the networks that the operator allows.
    #[schema(example = "https://example.com/hooks/errand", max_length = 2048)]
    url: String,
    /// For people; at most 128 characters.
    #[schema(max_length = 128)]
    description: Option<String>,
    /// The types it wants, `job.*` for a family; all if absent or empty.
    #[schema(example = json!(["job.failed", "question.*"]), max_items = 32)]
    events: Option<Vec<String>>,
    /// How it is told; `standard` if absent.
    #[schema(schema_with = schema::webhook_format)]
    format: Option<WebhookFormat>,
    /// What signs its deliveries: `whsec_` followed by 24 to 64 bytes in base64. One is made if it is absent.
    secret: Option<String>,
}

impl Wanted for WebhookRequest {}

/// What is to be changed of an endpoint; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookPatch {
    /// Where it is.
    #[schema(max_length = 2048)]
    url: Option<String>,
    /// For people; at most 128 characters.
    #[schema(max_length = 128)]
    description: Option<String>,
    /// The types it wants; empty: all.
    #[schema(max_items = 32)]
    events: Option<Vec<String>>,
    /// How it is told.
    #[schema(schema_with = schema::webhook_format)]
    format: Option<WebhookFormat>,
    /// Whether it is told. What happened while it was not is not told later.
    #[schema(schema_with = schema::webhook_state)]
    state: Option<WebhookState>,
}

impl Wanted for WebhookPatch {}

/// An endpoint with its secret: the only time that is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WebhookWithSecret {
    /// The endpoint.
    #[serde(flatten)]
    pub(super) view: WebhookView,
    /// What signs its deliveries. It is kept sealed, and a repeated answer does not have it.
    pub(super) secret: String,
}

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WebhookRemoved {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    id: WebhookId,
    /// `Webhook endpoint removed`
    message: &'static str,
}

/// Makes an endpoint: from now on it is told of what happens in the tenant, by one `webhook` job for each event.
#[utoipa::path(
    post, path = "/api/v1/webhooks", tag = "webhooks", request_body = WebhookRequest,
    responses(
        (status = 200, body = WebhookWithSecret),
        (status = 409, description = "`too_many_webhooks`: the tenant has as many as it may", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn create_webhook(
    State(app): AppState,
    caller: Permit<Admin>,
    key: IdempotencyKey,
    body: JsonBody<WebhookRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let request = body.value;
    let create = async || {
        let mut faults = Faults::default();
        let url = kept_url(&app, &request.url, "/url", &mut faults);
        check_description(request.description.as_deref(), &mut faults);
        let events = request.events.unwrap_or_default();
        check_events(&events, &mut faults);
        let secret = kept_secret(request.secret.as_deref(), "/secret", &mut faults);
        faults.finish()?;
        let (id, secret) = (WebhookId::new(), secret.unwrap_or_else(WebhookSecret::generate));
        let new = NewWebhook {
            id,
            url,
            description: request.description.unwrap_or_default(),
            events,
            format: request.format.unwrap_or_default(),
            secrets: Some(Secrets::new(secret.clone()).seal(&app.backend.vault, id)),
        };
        let limit = app.config.webhooks.max_endpoints;
        if !app.backend.store.create_webhook(&caller.tenant, &new, limit, app.now()).await? {
            let detail = format!("This tenant has {limit} endpoints already; remove one, or let one of them hear more");
            return Err(Problem::new(StatusCode::CONFLICT, "too_many_webhooks", detail));
        }
        let endpoint = app.backend.store.webhook(&caller.tenant, id).await?.ok_or_else(Problem::internal)?;
        let view = WebhookView::from(endpoint);
        let kept = json!(view);
        Ok((json!(WebhookWithSecret { view, secret: secret.expose().to_owned() }), kept))
    };
    idempotency::once_with_secret(&app, key.as_ref(), create).await
}

/// Lists endpoints, newest first; those that jobs brought are not among them.
#[utoipa::path(
    get, path = "/api/v1/webhooks", tag = "webhooks",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<WebhookView>))
)]
pub(crate) async fn list_webhooks(
    State(app): AppState,
    caller: Permit<Admin>,
    mut query: Params,
) -> Result<Json<List<WebhookView>>, Problem> {
    let page: Page<WebhookId> = query.page();
    query.finish()?;
    let mut endpoints = app.backend.store.webhooks(&caller.tenant, page.after, page.probe()).await?;
    let next_cursor = page.cut(&mut endpoints, |endpoint| endpoint.id);
    Ok(Json(List { items: endpoints.into_iter().map(WebhookView::from).collect(), next_cursor }))
}

/// Shows an endpoint.
#[utoipa::path(
    get, path = "/api/v1/webhooks/{id}", tag = "webhooks", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = WebhookView))
)]
pub(crate) async fn show_webhook(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<WebhookId>,
) -> Result<Json<WebhookView>, Problem> {
    let endpoint = app.backend.store.webhook(&caller.tenant, id).await?.ok_or_else(missing)?;
    Ok(Json(endpoint.into()))
}

/// Changes an endpoint. What is on its way to it goes the new way.
#[utoipa::path(
    patch, path = "/api/v1/webhooks/{id}", tag = "webhooks", request_body = WebhookPatch,
    params(("id" = uuid::Uuid, Path)), responses((status = 200, body = WebhookView))
)]
pub(crate) async fn change_webhook(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<WebhookId>,
    body: JsonBody<WebhookPatch>,
) -> Result<Json<WebhookView>, Problem> {
    let patch = body.value;
    let mut faults = Faults::default();
    let url = patch.url.as_deref().map(|url| kept_url(&app, url, "/url", &mut faults));
    check_description(patch.description.as_deref(), &mut faults);
    check_events(patch.events.as_deref().unwrap_or_default(), &mut faults);
    faults.finish()?;
    let change = WebhookChange {
        url,
        description: patch.description,
        events: patch.events,
        format: patch.format,
        state: patch.state,
    };
    let changed = app.backend.store.change_webhook(&caller.tenant, id, change, app.now()).await?;
    Ok(Json(changed.ok_or_else(missing)?.into()))
}

/// Removes an endpoint. What is on its way to it is not sent any more.
#[utoipa::path(
    delete, path = "/api/v1/webhooks/{id}", tag = "webhooks", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = WebhookRemoved))
)]
pub(crate) async fn remove_webhook(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<WebhookId>,
) -> Result<Json<WebhookRemoved>, Problem> {
    if !app.backend.store.remove_webhook(&caller.tenant, id).await? {
        return Err(missing());
    }
    Ok(Json(WebhookRemoved { id, message: "Webhook endpoint removed" }))
}

fn check_description(description: Option<&str>, faults: &mut Faults) {
    let fits = description.is_none_or(|text| text.chars().count() <= limit::NAME_CHARS);
    faults.check(fits, "/description", || format!("may take {} characters at most", limit::NAME_CHARS));
}
