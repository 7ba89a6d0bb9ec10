//! `POST|GET|PATCH|DELETE /gateways`

use std::collections::HashMap;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use errand_common::{
    domain::{
        AgentId, GatewayId,
        coordination::{AgentRole, Gateway, agent::main_session},
    },
    port::store::coordination::{GatewayChange, NewAgent, NewGateway, Removed},
    vault::Purpose,
    wire::{
        credential,
        gateway::{check_url, is_same_place},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    auth::{Admin, Look, Permit},
    extract::{JsonBody, Page, Params, PathId, Wanted},
    idempotency::{self, IdempotencyKey},
    limit,
    problem::{Faults, Problem, ProblemBody},
    state::{App, AppState},
    view::{GatewayView, List, schema},
};

/// Where gateways keep their agents' workspaces unless they are told otherwise.
const WORKSPACE_ROOT: &str = "~/.openclaw";

/// A gateway to be kept.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GatewayRequest {
    /// For people; 1 to 128 characters.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    /// Where it listens: `wss://` at a public address; within the networks of `[outbound] allow`, `ws://` too.
    #[schema(example = "wss://gateway.example.com:18789", max_length = 2048)]
    url: String,
    /// What it is shown. Kept sealed, and never shown again.
    token: Option<String>,
    /// Where its agents' workspaces are, on its machine; `~/.openclaw` if absent.
    workspace_root: Option<String>,
    /// Come as its control page does, without a device identity.
    #[serde(default)]
    disable_device_pairing: bool,
    /// Believe any certificate.
    #[serde(default)]
    allow_insecure_tls: bool,
}

impl Wanted for GatewayRequest {}

/// What is to be changed of a gateway; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GatewayPatch {
    /// For people; 1 to 128 characters.
    #[schema(min_length = 1, max_length = 128)]
    name: Option<String>,
    /// Where it listens. Elsewhere this installation is paired anew.
    #[schema(max_length = 2048)]
    url: Option<String>,
    /// What it is shown; empty: nothing.
    token: Option<String>,
    /// Where its agents' workspaces are.
    workspace_root: Option<String>,
    /// Come as its control page does, without a device identity.
    disable_device_pairing: Option<bool>,
    /// Believe any certificate.
    allow_insecure_tls: Option<bool>,
}

impl Wanted for GatewayPatch {}

/// A gateway as made, with its own agent: the only time the agent's token is shown.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GatewayCreated {
    /// The gateway.
    #[serde(flatten)]
    view: GatewayView,
    /// The token of its own agent. It is not kept in clear, and a repeated answer does not have it. Provisioning brings it to the
    /// agent, so that nobody else needs it.
    main_agent_token: String,
}

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GatewayRemoved {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    id: GatewayId,
    /// `Gateway removed`
    message: &'static str,
}

/// Makes a gateway known, with its own agent. Nothing is sent to it yet.
#[utoipa::path(
    post, path = "/api/v1/gateways", tag = "gateways", request_body = GatewayRequest,
    responses((status = 200, body = GatewayCreated))
)]
pub(crate) async fn create_gateway(
    State(app): AppState,
    caller: Permit<Admin>,
    key: IdempotencyKey,
    body: JsonBody<GatewayRequest>,
) -> Result<Response, Problem> {
    let bound = key.bind(&caller, body.digest);
    let request = body.value;
    let mut faults = Faults::default();
    check_name(&request.name, &mut faults);
    let url = kept_url(&app, &request.url, &mut faults);
    check_token(request.token.as_deref(), &mut faults);
    check_root(request.workspace_root.as_deref(), &mut faults);
    faults.finish()?;
    let (id, main_id, now) = (GatewayId::new(), AgentId::new(), app.now());
    let main_token = credential::generate_agent_token();
    let name = request.name.trim().to_owned();
    let gateway = Gateway {
        id,
        tenant: caller.tenant.clone(),
        name: name.clone(),
        url,
        token: sealed(&app, id, request.token.as_deref()),
        workspace_root: request.workspace_root.map_or_else(|| WORKSPACE_ROOT.to_owned(), |root| root.trim().to_owned()),
        disable_device_pairing: request.disable_device_pairing,
        allow_insecure_tls: request.allow_insecure_tls,
        device: None,
        version: 1,
        created_at: now,
        updated_at: now,
    };
    let main = NewAgent {
        id: main_id,
        tenant: caller.tenant.clone(),
        gateway_id: id,
        board_id: None,
        name: format!("{name} Gateway Agent"),
        role: AgentRole::Main,
        session_key: main_session(id),
        bound: false,
        token_hash: Some(credential::hash_key(&main_token)),
        token_sealed: Some(app.backend.vault.seal(Purpose::AgentToken(main_id), &main_token)),
    };
    let new = NewGateway {
        id,
        tenant: gateway.tenant.clone(),
        name,
        url: gateway.url.clone(),
        token: gateway.token.clone(),
        workspace_root: gateway.workspace_root.clone(),
        disable_device_pairing: gateway.disable_device_pairing,
        allow_insecure_tls: gateway.allow_insecure_tls,
        main,
    };
    let view = GatewayView::new(gateway, Some(main_id));
    let record = bound.as_ref().map(|bound| bound.record(&app, StatusCode::OK, json!(view)));
    match (app.backend.store.create_gateway(new, record, now).await?, bound) {
        (Some(stored), Some(bound)) => {
            Ok(idempotency::replayed(Json(bound.same_request(stored)?.answer).into_response()))
        }
        _ => Ok(Json(GatewayCreated { view, main_agent_token: main_token }).into_response()),
    }
}

/// Lists gateways, newest first.
#[utoipa::path(
    get, path = "/api/v1/gateways", tag = "gateways",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<GatewayView>))
)]
pub(crate) async fn list_gateways(
    State(app): AppState,
    caller: Permit<Look>,
    mut query: Params,
) -> Result<Json<List<GatewayView>>, Problem> {
    let page: Page<GatewayId> = query.page();
    query.finish()?;
    let mut gateways = app.backend.store.gateways(&caller.tenant, page.after, page.probe()).await?;
    let next_cursor = page.cut(&mut gateways, |gateway| gateway.id);
    let ids: Vec<GatewayId> = gateways.iter().map(|gateway| gateway.id).collect();
    let mains: HashMap<_, _> = app.backend.store.main_agents(&caller.tenant, &ids).await?.into_iter().collect();
    let items = gateways.into_iter().map(|gateway| {
        let main = mains.get(&gateway.id).copied();
        GatewayView::new(gateway, main)
    });
    Ok(Json(List { items: items.collect(), next_cursor }))
}

/// Shows a gateway.
#[utoipa::path(
    get, path = "/api/v1/gateways/{id}", tag = "gateways", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = GatewayView))
)]
pub(crate) async fn show_gateway(
    State(app): AppState,
    caller: Permit<Look>,
    PathId(id): PathId<GatewayId>,
) -> Result<Json<GatewayView>, Problem> {
    let gateway = app.backend.store.gateway(&caller.tenant, id).await?.ok_or_else(missing)?;
    Ok(Json(shown(&app, gateway).await?))
}

/// Changes a gateway. Workers reach it the new way at once.
#[utoipa::path(
    patch, path = "/api/v1/gateways/{id}", tag = "gateways", request_body = GatewayPatch,
    params(("id" = uuid::Uuid, Path)), responses((status = 200, body = GatewayView))
)]
pub(crate) async fn change_gateway(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<GatewayId>,
    body: JsonBody<GatewayPatch>,
) -> Result<Json<GatewayView>, Problem> {
    let patch = body.value;
    let mut faults = Faults::default();
    if let Some(name) = &patch.name {
        check_name(name, &mut faults);
    }
    let url = patch.url.as_deref().map(|url| kept_url(&app, url, &mut faults));
    check_token(patch.token.as_deref(), &mut faults);
    check_root(patch.workspace_root.as_deref(), &mut faults);
    let former = app.backend.store.gateway(&caller.tenant, id).await?.ok_or_else(missing)?;
    let moves = url.as_deref().is_some_and(|url| !is_same_place(url, &former.url));
    if moves && former.token.is_some() && patch.token.is_none() {
        // Else whoever may change a gateway, but not read its token, could have it sent to a place of their own.
        faults.add("/token", "the gateway gets another address: say its token again, or \"\" for none");
    }
    faults.finish()?;
    // The same token is no other: a device that was paired with it stays paired.
    let (same, token) = match patch.token.as_deref() {
        Some(token) if opened(&app, &former).as_deref() == Some(token.trim()) => (Some(token), None),
        other => (None, other),
    };
    let change = GatewayChange {
        name: patch.name.map(|name| name.trim().to_owned()),
        url,
        token: token.map(|token| sealed(&app, id, Some(token))),
        resealed: sealed(&app, id, same),
        workspace_root: patch.workspace_root.map(|root| root.trim().to_owned()),
        disable_device_pairing: patch.disable_device_pairing,
        allow_insecure_tls: patch.allow_insecure_tls,
    };
    let changed = app.backend.store.change_gateway(&caller.tenant, id, change, app.now()).await?;
    Ok(Json(shown(&app, changed.ok_or_else(missing)?).await?))
}

/// Removes a gateway that no board names, with its agents. The gateway itself is told nothing.
#[utoipa::path(
    delete, path = "/api/v1/gateways/{id}", tag = "gateways", params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, body = GatewayRemoved),
        (status = 409, description = "`in_use`: boards name it", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn remove_gateway(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<GatewayId>,
) -> Result<Json<GatewayRemoved>, Problem> {
    match app.backend.store.remove_gateway(&caller.tenant, id).await? {
        Removed::Done => Ok(Json(GatewayRemoved { id, message: "Gateway removed" })),
        Removed::Unknown => Err(missing()),
        Removed::InUse(boards) => {
            let detail = format!("{boards} boards name this gateway; give them another one, or remove them first");
            Err(Problem::new(StatusCode::CONFLICT, "in_use", detail))
        }
    }
}

async fn shown(app: &App, gateway: Gateway) -> Result<GatewayView, Problem> {
    let main = app.backend.store.main_agent(&gateway.tenant, gateway.id).await?;
    Ok(GatewayView::new(gateway, main.map(|main| main.id)))
}

fn missing() -> Problem {
    Problem::not_found("Gateway")
}

/// Blank is none.
fn sealed(app: &App, id: GatewayId, token: Option<&str>) -> Option<String> {
    let token = token.map(str::trim).filter(|token| !token.is_empty())?;
    Some(app.backend.vault.seal(Purpose::GatewayToken(id), token))
}

/// The token that a gateway is shown; `None`: there is none, or it can't be opened here.
fn opened(app: &App, gateway: &Gateway) -> Option<String> {
    app.backend.vault.open(Purpose::GatewayToken(gateway.id), gateway.token.as_deref()?).ok()
}

/// Checks what people call something.
pub(super) fn check_name(name: &str, faults: &mut Faults) {
    let fits = (1..=limit::NAME_CHARS).contains(&name.trim().chars().count());
    faults.check(fits, "/name", || format!("must be 1 to {} characters, not blank", limit::NAME_CHARS));
}

fn kept_url(app: &App, url: &str, faults: &mut Faults) -> String {
    check_url(url, &app.config.outbound.allow).unwrap_or_else(|why| {
        faults.add("/url", why);
        String::new()
    })
}

fn check_token(token: Option<&str>, faults: &mut Faults) {
    let fits = token.is_none_or(|token| token.len() <= limit::GATEWAY_TOKEN_BYTES);
    faults.check(fits, "/token", || format!("may take {} bytes at most", limit::GATEWAY_TOKEN_BYTES));
}

fn check_root(root: Option<&str>, faults: &mut Faults) {
    let fits = root.is_none_or(|root| (1..=1_024).contains(&root.trim().len()));
    faults.check(fits, "/workspace_root", || "Gateway workspace_root is required: 1 to 1024 bytes".to_owned());
}
