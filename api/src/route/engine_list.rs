//! `GET /agent/engines`

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    auth::{Permit, Read},
    problem::Problem,
    state::AppState,
};

/// Engines that a task may name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EngineList {
    /// By name.
    engines: Vec<EngineView>,
}

/// One engine, over all workers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Engine)]
pub(crate) struct EngineView {
    /// What `engineType` selects.
    name: String,
    /// What kind of engine.
    #[serde(rename = "type")]
    engine_type: String,
    /// Whether a live worker could run a prompt on it now.
    available: bool,
    /// Why not.
    reason: Option<String>,
    /// Where its tasks go.
    queue: String,
    /// What it can do: an object of booleans.
    #[schema(value_type = Object)]
    capabilities: Value,
    /// Runs this tenant's tasks that name no engine.
    default: bool,
}

/// Lists the engines that a task may name.
#[utoipa::path(get, path = "/api/v1/agent/engines", tag = "tasks", responses((status = 200, body = EngineList)))]
pub(crate) async fn list_engines(State(app): AppState, caller: Permit<Read>) -> Result<Json<EngineList>, Problem> {
    let known = app.engines.known().await?;
    let chosen = app.engines.chosen_by(&caller.tenant).await?;
    let default = known.default_of(chosen.as_deref());
    let engines = known.by_name.values().cloned().map(|engine| EngineView {
        default: default == Some(engine.name.as_str()),
        name: engine.name,
        engine_type: engine.engine_type,
        available: engine.available,
        reason: engine.reason,
        queue: engine.queue,
        capabilities: engine.capabilities,
    });
    Ok(Json(EngineList { engines: engines.collect() }))
}
