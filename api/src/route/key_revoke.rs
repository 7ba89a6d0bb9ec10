//! `DELETE /keys/{id}`

use axum::{Json, extract::State};
use errand_common::domain::ApiKeyId;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::{Admin, Permit},
    extract::PathId,
    problem::Problem,
    state::AppState,
    view::schema,
};

/// A revoked key.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KeyRevoked {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    id: ApiKeyId,
    /// `Key revoked`
    message: &'static str,
}

/// Revokes an API key: it stops working everywhere within seconds.
#[utoipa::path(
    delete, path = "/api/v1/keys/{id}", tag = "keys", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = KeyRevoked))
)]
pub(crate) async fn revoke_key(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<ApiKeyId>,
) -> Result<Json<KeyRevoked>, Problem> {
    if !app.backend.store.revoke_key(&caller.tenant, id, app.now()).await? {
        return Err(Problem::not_found("key"));
    }
    app.auth.forget(id);
    Ok(Json(KeyRevoked { id, message: "Key revoked" }))
}
