//! `GET /keys`

use std::cmp::Reverse;

use axum::{Json, extract::State};
use errand_common::{
    domain::{ApiKeyId, Timestamp},
    port::store::{ApiKey, Scope},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::{Admin, Permit},
    extract::{Page, Params},
    problem::Problem,
    state::AppState,
    view::{List, schema},
};

/// An API key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(crate) struct KeyView {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    pub(crate) id: ApiKeyId,
    /// Whose it is.
    pub(crate) tenant: String,
    /// For people.
    pub(crate) name: String,
    /// First characters of the secret.
    #[schema(example = "errand_Ab3xYz12")]
    pub(crate) prefix: String,
    /// What it may do.
    #[schema(schema_with = schema::scopes)]
    pub(crate) scopes: Vec<Scope>,
    /// Made.
    #[schema(schema_with = schema::time)]
    pub(crate) created_at: Timestamp,
    /// No longer valid since.
    #[schema(schema_with = schema::time_or_null)]
    pub(crate) revoked_at: Option<Timestamp>,
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            tenant: key.tenant,
            name: key.name,
            prefix: key.prefix,
            scopes: key.scopes,
            created_at: key.created_at,
            revoked_at: key.revoked_at,
        }
    }
}

/// Lists the tenant's API keys, newest first, revoked ones included.
#[utoipa::path(
    get, path = "/api/v1/keys", tag = "keys",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<KeyView>))
)]
pub(crate) async fn list_keys(
    State(app): AppState,
    caller: Permit<Admin>,
    mut query: Params,
) -> Result<Json<List<KeyView>>, Problem> {
    let page: Page<ApiKeyId> = query.page();
    query.finish()?;
    let mut keys = app.backend.store.keys(&caller.tenant).await?;
    keys.sort_by_key(|key| Reverse(key.id));
    let mut keys = page.of(keys, |key, after| key.id < *after);
    let next_cursor = page.cut(&mut keys, |key| key.id);
    Ok(Json(List { items: keys.into_iter().map(KeyView::from).collect(), next_cursor }))
}
