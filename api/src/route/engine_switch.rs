//! `POST /agent/engines/switch`

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    auth::{Permit, Write},
    extract::{JsonBody, Wanted},
    idempotency::{IdempotencyKey, once},
    problem::Problem,
    state::AppState,
};

/// Which engine. Unknown fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EngineChoice {
    /// One of `GET /agent/engines`.
    #[schema(example = "echo")]
    engine_type: String,
}

impl Wanted for EngineChoice {}

/// The engine that runs the tenant's tasks from now on.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EngineSwitched {
    /// `Engine switched`
    message: &'static str,
    /// The engine.
    engine_type: String,
}

/// Chooses the engine that runs the tenant's tasks which name none. Tasks that name one, and what goes on in a conversation, are
/// not touched. Other processes know of it within two seconds. A user needs the
/// scope `admin` for it.
#[utoipa::path(
    post, path = "/api/v1/agent/engines/switch", tag = "tasks", request_body = EngineChoice,
    responses((status = 200, body = EngineSwitched))
)]
pub(crate) async fn switch_engine(
    State(app): AppState,
    caller: Permit<Write>,
    key: IdempotencyKey,
    body: JsonBody<EngineChoice>,
) -> Result<Response, Problem> {
    caller.require_whole_tenant()?;
    let key = key.bind(&caller, body.digest);
    let engine = body.value.engine_type;
    let switch = async || {
        app.engines.known().await?.choose(Some(&engine), None, "/engineType")?;
        app.engines.choose(&caller.tenant, &engine).await?;
        Ok(json!(EngineSwitched { message: "Engine switched", engine_type: engine.clone() }))
    };
    once(&app, key.as_ref(), switch).await
}
