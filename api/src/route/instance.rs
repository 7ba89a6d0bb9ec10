//! `POST|GET|PATCH|DELETE /agent/instances[/{id}]`

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use errand_common::{
    domain::{
        InstanceId, address,
        instance::{Instance, InstanceStatus},
    },
    port::store::{InstanceChange, coordination::Removed},
    vault::Purpose,
    wire::instance::check_host,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    auth::{Admin, Look, Permit},
    extract::{Int, JsonBody, Page, Params, PathId, Wanted},
    idempotency::{self, IdempotencyKey},
    instance, limit,
    problem::{Faults, Problem, ProblemBody},
    state::{App, AppState},
    view::{InstanceView, List, schema},
};

/// An instance to be kept. Unknown fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InstanceRequest {
    /// For people; 1 to 128 characters.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    /// The user whose alone it is; absent: every user of the tenant may use it.
    user_id: Option<String>,
    /// The name or address of its bridge, without scheme, port or path. Public addresses are called over https; those within the
    /// networks of `[outbound] allow` over http. Without it, it takes no prompts.
    #[schema(example = "bridge.example.com", max_length = 253)]
    server_host: Option<String>,
    /// The port of its bridge.
    #[schema(inline)]
    host_port: Int<1, 65_535>,
    /// Whether it takes prompts; `running` if absent.
    #[schema(schema_with = schema::instance_status)]
    status: Option<InstanceStatus>,
    /// With it, callbacks must carry `X-Errand-Signature: sha256=…`, the HMAC-SHA256 of their body by this secret, in hex. 16 to
    /// 256 characters. Kept sealed, and never shown.
    #[schema(min_length = 16, max_length = 256)]
    callback_secret: Option<String>,
    /// How often its bridge is asked for what it has not called back about, in seconds; absent: never.
    #[schema(inline)]
    poll_seconds: Option<Int<5, 86_400>>,
}

impl Wanted for InstanceRequest {}

/// What is to be changed of an instance: what is absent stays, what is null is taken away. Unknown fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InstancePatch {
    /// For people; 1 to 128 characters.
    #[schema(min_length = 1, max_length = 128)]
    name: Option<String>,
    /// Whose alone it is.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    user_id: Option<Option<String>>,
    /// The name or address of its bridge.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, max_length = 253)]
    server_host: Option<Option<String>>,
    /// The port of its bridge.
    #[schema(inline)]
    host_port: Option<Int<1, 65_535>>,
    /// Whether it takes prompts.
    #[schema(schema_with = schema::instance_status)]
    status: Option<InstanceStatus>,
    /// Signs the bodies of its callbacks.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, min_length = 16, max_length = 256)]
    callback_secret: Option<Option<String>>,
    /// How often its bridge is asked.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, minimum = 5, maximum = 86_400)]
    poll_seconds: Option<Option<Int<5, 86_400>>>,
}

impl Wanted for InstancePatch {}

/// Null is something else than absent.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InstanceRemoved {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    id: InstanceId,
    /// `Instance removed`
    message: &'static str,
}

/// Makes an instance known. Nothing is sent to it yet.
#[utoipa::path(
    post, path = "/api/v1/agent/instances", tag = "instances", request_body = InstanceRequest,
    responses((status = 200, body = InstanceView))
)]
pub(crate) async fn create_instance(
    State(app): AppState,
    caller: Permit<Admin>,
    key: IdempotencyKey,
    body: JsonBody<InstanceRequest>,
) -> Result<Response, Problem> {
    let bound = key.bind(&caller, body.digest);
    let request = body.value;
    let mut faults = Faults::default();
    check_name(&request.name, &mut faults);
    check_user(request.user_id.as_deref(), &mut faults);
    let server_host = kept_host(&app, request.server_host.as_deref(), &mut faults);
    let host_port = kept_port(request.host_port, &mut faults);
    check_secret(request.callback_secret.as_deref(), &mut faults);
    faults.finish()?;
    let (id, now) = (InstanceId::new(), app.now());
    let new = Instance {
        id,
        tenant: caller.tenant.clone(),
        name: request.name.trim().to_owned(),
        user_id: request.user_id,
        server_host,
        host_port,
        status: request.status.unwrap_or_default(),
        callback_secret: sealed(&app, id, request.callback_secret.as_deref()),
        poll_seconds: request.poll_seconds.map(Int::as_u32),
        created_at: now,
        updated_at: now,
    };
    let view = InstanceView::from(new.clone());
    let record = bound.as_ref().map(|bound| bound.record(&app, StatusCode::OK, json!(view)));
    match (app.backend.store.create_instance(new, record, now).await?, bound) {
        (Some(stored), Some(bound)) => {
            Ok(idempotency::replayed(Json(bound.same_request(stored)?.answer).into_response()))
        }
        _ => Ok(Json(view).into_response()),
    }
}

/// Lists instances, newest first: a user sees those they may use.
#[utoipa::path(
    get, path = "/api/v1/agent/instances", tag = "instances",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<InstanceView>))
)]
pub(crate) async fn list_instances(
    State(app): AppState,
    caller: Permit<Look>,
    mut query: Params,
) -> Result<Json<List<InstanceView>>, Problem> {
    let page: Page<InstanceId> = query.page();
    query.finish_ignoring_unknown()?;
    let store = &app.backend.store;
    let mut instances = store.instances(&caller.tenant, caller.confined_to(), page.after, page.probe()).await?;
    let next_cursor = page.cut(&mut instances, |instance| instance.id);
    let items = instances.into_iter().map(InstanceView::from).collect();
    Ok(Json(List { items, next_cursor }))
}

/// Shows an instance.
#[utoipa::path(
    get, path = "/api/v1/agent/instances/{id}", tag = "instances", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = InstanceView))
)]
pub(crate) async fn show_instance(
    State(app): AppState,
    caller: Permit<Look>,
    PathId(id): PathId<InstanceId>,
) -> Result<Json<InstanceView>, Problem> {
    Ok(Json(instance::own(&app, &caller, id).await?.into()))
}

/// Changes an instance. Prompts that are on their way go where it is now; what its bridge has taken is waited for as before.
#[utoipa::path(
    patch, path = "/api/v1/agent/instances/{id}", tag = "instances", request_body = InstancePatch,
    params(("id" = uuid::Uuid, Path)), responses((status = 200, body = InstanceView))
)]
pub(crate) async fn change_instance(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<InstanceId>,
    body: JsonBody<InstancePatch>,
) -> Result<Json<InstanceView>, Problem> {
    let patch = body.value;
    let mut faults = Faults::default();
    if let Some(name) = &patch.name {
        check_name(name, &mut faults);
    }
    check_user(patch.user_id.as_ref().and_then(Option::as_deref), &mut faults);
    let server_host = patch.server_host.map(|host| kept_host(&app, host.as_deref(), &mut faults));
    let host_port = patch.host_port.map(|port| kept_port(port, &mut faults));
    check_secret(patch.callback_secret.as_ref().and_then(Option::as_deref), &mut faults);
    faults.finish()?;
    let change = InstanceChange {
        name: patch.name.map(|name| name.trim().to_owned()),
        user_id: patch.user_id,
        server_host,
        host_port,
        status: patch.status,
        callback_secret: patch.callback_secret.map(|secret| sealed(&app, id, secret.as_deref())),
        poll_seconds: patch.poll_seconds.map(|seconds| seconds.map(Int::as_u32)),
    };
    let changed = app.backend.store.change_instance(&caller.tenant, id, change, app.now()).await?;
    Ok(Json(changed.ok_or_else(|| Problem::no_such("Instance", id))?.into()))
}

/// Removes an instance that has no unfinished tasks. Its conversations stay.
#[utoipa::path(
    delete, path = "/api/v1/agent/instances/{id}", tag = "instances", params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, body = InstanceRemoved),
        (status = 409, description = "`in_use`: it has unfinished tasks", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn remove_instance(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<InstanceId>,
) -> Result<Json<InstanceRemoved>, Problem> {
    match app.backend.store.remove_instance(&caller.tenant, id).await? {
        Removed::Done => Ok(Json(InstanceRemoved { id, message: "Instance removed" })),
        Removed::Unknown => Err(Problem::no_such("Instance", id)),
        Removed::InUse(tasks) => {
            let detail =
                format!("{tasks} tasks of this instance have not ended; set its status to stopped, and cancel them");
            Err(Problem::new(StatusCode::CONFLICT, "in_use", detail))
        }
    }
}

fn kept_port(port: Int<1, 65_535>, faults: &mut Faults) -> u16 {
    let port = u16::try_from(port.get()).unwrap_or(u16::MAX);
    if let Err(refused) = address::check_port(port) {
        faults.add("/hostPort", refused.to_string());
    }
    port
}

fn check_name(name: &str, faults: &mut Faults) {
    let fits = (1..=limit::NAME_CHARS).contains(&name.trim().chars().count());
    faults.check(fits, "/name", || format!("must be 1 to {} characters, not blank", limit::NAME_CHARS));
}

fn check_user(user: Option<&str>, faults: &mut Faults) {
    let fits = user.is_none_or(|user| (1..=limit::USER_CHARS).contains(&user.chars().count()));
    faults.check(fits, "/userId", || format!("must be 1 to {} characters", limit::USER_CHARS));
}

fn kept_host(app: &App, host: Option<&str>, faults: &mut Faults) -> Option<String> {
    let kept = check_host(host?, &app.config.outbound.allow);
    kept.map_err(|why| faults.add("/serverHost", why)).ok()
}

fn check_secret(secret: Option<&str>, faults: &mut Faults) {
    let fits = secret.is_none_or(|secret| limit::CALLBACK_SECRET_CHARS.contains(&secret.chars().count()));
    faults.check(fits, "/callbackSecret", || "must be 16 to 256 characters".to_owned());
}

fn sealed(app: &App, id: InstanceId, secret: Option<&str>) -> Option<String> {
    secret.map(|secret| app.backend.vault.seal(Purpose::CallbackSecret(id), secret))
}
