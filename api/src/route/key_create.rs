//! `POST /keys`

use std::collections::HashSet;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use errand_common::{
    domain::ApiKeyId,
    port::store::{NewApiKey, Scope},
    wire::credential,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::key_list::KeyView;
use crate::{
    auth::{Admin, Caller, Permit},
    extract::{JsonBody, Wanted},
    idempotency::{self, IdempotencyKey},
    limit,
    problem::{Faults, Problem},
    state::AppState,
    view::schema,
};

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRequest {
    /// For people; 1 to 128 characters.
    #[schema(example = "nightly import", min_length = 1, max_length = 128)]
    name: String,
    /// What it may do; `jobs:read`, `jobs:write`, `jobs:cancel` and `approve` if absent.
    #[schema(schema_with = schema::scopes)]
    scopes: Option<Vec<Scope>>,
    /// Whose it is; the caller's tenant if absent. Another one needs the scope `fleet`.
    tenant: Option<String>,
}

impl Wanted for KeyRequest {}

/// A key as made: the only time its secret is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyCreated {
    /// The key.
    #[serde(flatten)]
    view: KeyView,
    /// The secret. It is not kept, and a repeated answer does not have it.
    key: String,
}

/// Makes an API key.
#[utoipa::path(
    post, path = "/api/v1/keys", tag = "keys", request_body = KeyRequest,
    responses((status = 200, body = KeyCreated))
)]
pub(crate) async fn create_key(
    State(app): AppState,
    caller: Permit<Admin>,
    key: IdempotencyKey,
    body: JsonBody<KeyRequest>,
) -> Result<Response, Problem> {
    let bound = key.bind(&caller, body.digest);
    let (tenant, name, scopes) = judge(&caller, body.value)?;
    let secret = credential::generate_key();
    let now = app.now();
    let new = NewApiKey {
        id: ApiKeyId::new(),
        tenant,
        name,
        prefix: credential::indexed_prefix(&secret).to_owned(),
        hash: credential::hash_key(&secret),
        scopes,
    };
    let view = KeyView {
        id: new.id,
        tenant: new.tenant.clone(),
        name: new.name.clone(),
        prefix: new.prefix.clone(),
        scopes: new.scopes.clone(),
        created_at: now,
        revoked_at: None,
    };
    let record = bound.as_ref().map(|bound| bound.record(&app, StatusCode::OK, json!(view)));
    match (app.backend.store.create_key(new, record, now).await?, bound) {
        (Some(stored), Some(bound)) => {
            Ok(idempotency::replayed(Json(bound.same_request(stored)?.answer).into_response()))
        }
        _ => Ok(Json(KeyCreated { view, key: secret }).into_response()),
    }
}

fn judge(caller: &Caller, request: KeyRequest) -> Result<(String, String, Vec<Scope>), Problem> {
    let mut faults = Faults::default();
    let within = |text: &str| !text.trim().is_empty() && text.chars().count() <= limit::NAME_CHARS;
    let wanted = || format!("must be 1 to {} characters, not blank", limit::NAME_CHARS);
    faults.check(within(&request.name), "/name", wanted);
    faults.check(request.tenant.as_deref().is_none_or(within), "/tenant", wanted);
    let mut scopes =
        request.scopes.unwrap_or_else(|| vec![Scope::JobsRead, Scope::JobsWrite, Scope::JobsCancel, Scope::Approve]);
    let mut named = HashSet::new();
    scopes.retain(|scope| named.insert(*scope));
    faults.check(!scopes.is_empty(), "/scopes", || "must name at least one scope".to_owned());
    faults.finish()?;
    let tenant = request.tenant.unwrap_or_else(|| caller.tenant.clone());
    // Nobody hands out more than they have, nor into another tenant, without the scope over all of them.
    if tenant != caller.tenant || scopes.contains(&Scope::Fleet) {
        caller.require(Scope::Fleet)?;
    }
    Ok((tenant, request.name, scopes))
}
