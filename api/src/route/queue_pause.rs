//! `POST /queues/{queue}/pause` and `…/resume`

use axum::{extract::State, response::Response};
use errand_common::port::store::Scope;

use super::queue_list::{QueueView, queue_of};
use crate::{
    auth::{Caller, Operate, Permit},
    extract::{NoBody, Params, QueueName},
    idempotency::{self, IdempotencyKey},
    problem::Problem,
    state::AppState,
};

/// Whose jobs an order is about: with `?all` everyone's, else the caller's tenant's.
fn audience(caller: &Caller, mut query: Params) -> Result<Option<&str>, Problem> {
    let all = query.switch("all");
    query.finish()?;
    caller.require(if all { Scope::Fleet } else { Scope::Admin })?;
    Ok((!all).then_some(caller.tenant.as_str()))
}

/// Pauses a queue: from the next claim on its jobs wait. What runs goes on, and submissions are taken in.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/pause", tag = "fleet",
    params(
        ("queue" = String, Path, description = "its name; it need not have jobs yet"),
        ("all" = Option<bool>, Query, description = "for all tenants instead of the caller's; needs the scope `fleet`"),
    ),
    responses((status = 200, description = "It is paused, now or already", body = QueueView))
)]
pub(crate) async fn pause_queue(
    State(app): AppState,
    caller: Permit<Operate>,
    QueueName(queue): QueueName,
    query: Params,
    key: IdempotencyKey,
    body: NoBody,
) -> Result<Response, Problem> {
    let tenant = audience(&caller, query)?;
    let key = key.bind(&caller, body.digest);
    idempotency::once(&app, key.as_ref(), async || {
        app.backend.store.pause(&queue, tenant, app.now()).await?;
        tracing::info!(queue, tenant = tenant.unwrap_or("all"), "a queue was paused");
        shown(queue_of(&app, &caller.tenant, &queue).await?)
    })
    .await
}

/// Takes a pause back. One for the tenant and one for everyone are two orders: `paused` tells whether the other stands.
#[utoipa::path(
    post, path = "/api/v1/queues/{queue}/resume", tag = "fleet",
    params(
        ("queue" = String, Path, description = "its name"),
        ("all" = Option<bool>, Query, description = "the pause for all tenants instead of the caller's own; needs the scope `fleet`"),
    ),
    responses((status = 200, description = "The pause is taken back, now or already", body = QueueView))
)]
pub(crate) async fn resume_queue(
    State(app): AppState,
    caller: Permit<Operate>,
    QueueName(queue): QueueName,
    query: Params,
    key: IdempotencyKey,
    body: NoBody,
) -> Result<Response, Problem> {
    let tenant = audience(&caller, query)?;
    let key = key.bind(&caller, body.digest);
    idempotency::once(&app, key.as_ref(), async || {
        app.backend.store.resume(&queue, tenant).await?;
        app.backend.tell_resumed(&queue).await;
        tracing::info!(queue, tenant = tenant.unwrap_or("all"), "a queue was resumed");
        shown(queue_of(&app, &caller.tenant, &queue).await?)
    })
    .await
}

fn shown(queue: QueueView) -> Result<serde_json::Value, Problem> {
    serde_json::to_value(queue).map_err(|_| Problem::internal())
}
