//! `POST /webhooks/{id}/secret`

use std::time::Duration;

use axum::{extract::State, http::StatusCode, response::Response};
use errand_common::{
    domain::WebhookId,
    wire::webhook::{Secrets, WebhookSecret},
};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{endpoint::WebhookWithSecret, missing};
use crate::{
    auth::{Admin, Permit},
    extract::{Int, JsonBody, PathId, Wanted},
    idempotency::{self, IdempotencyKey},
    limit,
    problem::{Faults, Problem},
    state::AppState,
    view::WebhookView,
    webhook::kept_secret,
};

/// How a secret is replaced.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotationRequest {
    /// The new one: `whsec_` followed by 24 to 64 bytes in base64. One is made if it is absent.
    secret: Option<String>,
    /// For so long the former signs beside it; a day if absent, 0: not at all.
    #[schema(inline)]
    overlap_seconds: Option<Int<0, 2_592_000>>,
}

impl Wanted for RotationRequest {}

/// Gives an endpoint another secret. The former signs beside it for a while, so that the receiver can change over without losing
/// a delivery: it takes any of the signatures.
#[utoipa::path(
    post, path = "/api/v1/webhooks/{id}/secret", tag = "webhooks", request_body = RotationRequest,
    params(("id" = uuid::Uuid, Path)), responses((status = 200, body = WebhookWithSecret))
)]
pub(crate) async fn rotate_secret(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<WebhookId>,
    key: IdempotencyKey,
    body: JsonBody<RotationRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let request = body.value;
    let rotate = async || {
        let mut faults = Faults::default();
        let secret = kept_secret(request.secret.as_deref(), "/secret", &mut faults);
        faults.finish()?;
        let secret = secret.unwrap_or_else(WebhookSecret::generate);
        let overlap = Duration::from_secs(request.overlap_seconds.map_or(limit::WEBHOOK_OVERLAP_SECONDS, Int::as_u64));
        let (store, vault) = (&app.backend.store, &app.backend.vault);
        for _ in 0..limit::WEBHOOK_ROTATIONS {
            let endpoint = store.webhook(&caller.tenant, id).await?.ok_or_else(missing)?;
            let now = app.now();
            let former = endpoint.secrets.as_deref().map(|sealed| Secrets::open(sealed, vault, id)).transpose();
            let former = former.map_err(|error| {
                tracing::error!(webhook_id = %id, %error, "the secrets of a webhook endpoint can't be opened");
                Problem::internal()
            })?;
            let secrets = match former {
                Some(former) => former.rotated(secret.clone(), now, now.plus(overlap)),
                None => Secrets::new(secret.clone()),
            };
            let (expected, sealed) = (endpoint.secrets.as_deref(), secrets.seal(vault, id));
            if store.replace_webhook_secrets(&caller.tenant, id, expected, &sealed, now).await? {
                let view = WebhookView { updated_at: now, ..endpoint.into() };
                let kept = json!(view);
                return Ok((json!(WebhookWithSecret { view, secret: secret.expose().to_owned() }), kept));
            }
        }
        let detail = "Others replace this secret at the same time";
        Err(Problem::new(StatusCode::CONFLICT, "in_use", detail).retry_after(limit::RETRY_AFTER_SECONDS))
    };
    idempotency::once_with_secret(&app, key.as_ref(), rotate).await
}
