//! The table of routes.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    http::{StatusCode, Uri},
    middleware::{from_fn_with_state, map_response},
    response::IntoResponse,
    routing::{any, get},
};
use errand_common::config::{Part, Server};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    observe, openapi,
    problem::{self, Problem},
    route,
    state::App,
};

/// Every route that the OpenAPI document describes, but `/metrics` and `/scaling`.
pub(crate) fn described() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(openapi::head()).merge(rest()).merge(relay()).merge(health())
}

/// Requests and their answers.
fn rest() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(route::task_submit::submit_task))
        .routes(routes!(route::task_show::show_task, route::task_cancel::cancel_task))
        .routes(routes!(route::task_approve::approve_task))
        .routes(routes!(route::task_inject::inject_task))
        .routes(routes!(route::engine_list::list_engines))
        .routes(routes!(route::engine_switch::switch_engine))
        .routes(routes!(route::transcribe::transcribe))
        .routes(routes!(route::voice_message::send_voice_message))
        .routes(routes!(route::usage::show_usage))
        .routes(routes!(route::session_list::list_sessions))
        .routes(routes!(route::session_show::show_session, route::session_close::close_session))
        .routes(routes!(route::session_messages::list_messages))
        .routes(routes!(route::session_tasks::list_session_tasks))
        .routes(routes!(route::attachment_show::show_attachment))
        .merge(instances())
        .routes(routes!(route::job_submit::submit_job, route::job_list::list_jobs))
        .routes(routes!(route::job_batch::submit_batch))
        .routes(routes!(route::job_show::show_job))
        .routes(routes!(route::job_timeline::show_timeline))
        .routes(routes!(route::job_cancel::cancel_job))
        .routes(routes!(route::job_retry::retry_job))
        .routes(routes!(route::job_retry_many::retry_jobs))
        .routes(routes!(route::queue_list::list_queues))
        .routes(routes!(route::queue_pause::pause_queue))
        .routes(routes!(route::queue_pause::resume_queue))
        .routes(routes!(route::worker_list::list_workers))
        .routes(routes!(route::worker_drain::drain_worker))
        .routes(routes!(route::key_create::create_key, route::key_list::list_keys))
        .routes(routes!(route::key_revoke::revoke_key))
        .merge(webhooks())
        .merge(coordination())
}

/// Instances, and what their bridges call back with.
fn instances() -> OpenApiRouter<Arc<App>> {
    use route::{instance, instance_callback, instance_task};
    OpenApiRouter::new()
        .routes(routes!(instance::create_instance, instance::list_instances))
        .routes(routes!(instance::show_instance, instance::change_instance, instance::remove_instance))
        .routes(routes!(instance_task::submit_instance_task))
        .routes(routes!(instance_task::list_instance_sessions))
        .routes(routes!(instance_callback::take_callback))
}

/// Who outside is told.
fn webhooks() -> OpenApiRouter<Arc<App>> {
    use route::webhook::{delivery, endpoint, secret};
    OpenApiRouter::new()
        .routes(routes!(endpoint::create_webhook, endpoint::list_webhooks))
        .routes(routes!(endpoint::show_webhook, endpoint::change_webhook, endpoint::remove_webhook))
        .routes(routes!(secret::rotate_secret))
        .routes(routes!(delivery::list_deliveries))
        .routes(routes!(delivery::test_webhook))
        .routes(routes!(delivery::redeliver))
}

/// Gateways, boards and agents, and what agents do with their tokens. What is wrong in a request is 422 here.
fn coordination() -> OpenApiRouter<Arc<App>> {
    use route::coordination::{
        activity, agent, agent_provision, agent_token, ask_user, board, broadcast, gateway, heartbeat, lead_message,
        memory, nudge, question, soul,
    };
    OpenApiRouter::new()
        .routes(routes!(gateway::create_gateway, gateway::list_gateways))
        .routes(routes!(gateway::show_gateway, gateway::change_gateway, gateway::remove_gateway))
        .routes(routes!(board::create_board, board::list_boards))
        .routes(routes!(board::show_board, board::change_board, board::remove_board))
        .routes(routes!(memory::post_memory, memory::list_memory))
        .routes(routes!(agent::create_agent, agent::list_agents))
        .routes(routes!(agent::show_agent, agent::change_agent, agent::remove_agent))
        .routes(routes!(agent_token::replace_token))
        .routes(routes!(agent_provision::provision_agent))
        .routes(routes!(question::list_questions))
        .routes(routes!(question::show_question))
        .routes(routes!(question::answer_question))
        .routes(routes!(activity::list_activity))
        .routes(routes!(nudge::nudge_agent))
        .routes(routes!(soul::read_soul, soul::write_soul))
        .routes(routes!(ask_user::ask_user))
        .routes(routes!(lead_message::message_lead))
        .routes(routes!(broadcast::broadcast))
        .routes(routes!(memory::post_memory_as_agent, memory::list_memory_as_agent))
        .routes(routes!(heartbeat::beat))
        .route_layer(map_response(problem::unprocessable))
}

/// Streams to watchers.
fn relay() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(route::stream::watch_session))
        .routes(routes!(route::stream::watch_job))
        .routes(routes!(route::stream::open_socket))
        .routes(routes!(route::stream_ticket::issue_ticket))
        .merge(board_streams())
}

/// As [`coordination`], of streams.
fn board_streams() -> OpenApiRouter<Arc<App>> {
    use route::coordination::{activity, memory_stream};
    OpenApiRouter::new()
        .routes(routes!(memory_stream::watch_board))
        .routes(routes!(memory_stream::watch_memory))
        .routes(routes!(memory_stream::watch_memory_as_agent))
        .routes(routes!(activity::watch_activity))
        .route_layer(map_response(problem::unprocessable))
}

/// How the process is.
fn health() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(route::health::live)).routes(routes!(route::health::ready))
}

/// `/metrics` and `/scaling`, which may have a listener of their own.
pub(crate) fn described_metrics() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(route::metric::metrics)).routes(routes!(route::scaling::scaling))
}

/// The main listener's routes: those of the parts that are served here. Without `metrics` if those have a listener of
/// their own.
pub(crate) fn main(app: Arc<App>) -> Router {
    let mut described = health();
    let mut router = Router::new().route("/openapi.json", get(|| async { Json(openapi::openapi()) }));
    if app.config.metrics.listen.is_none() {
        described = described.merge(described_metrics());
    }
    for part in Part::ALL {
        let (served, paths) = match part {
            Part::Rest => rest().split_for_parts(),
            Part::Relay => relay().split_for_parts(),
            Part::Console => (Router::new().route("/", get(route::index::index)), OpenApi::default()),
        };
        if app.config.server.serve.contains(part) {
            router = router.merge(served);
        } else {
            let paths = paths.paths.paths.into_keys().chain((*part == Part::Console).then(|| "/".to_owned()));
            for path in paths {
                router = router.route(&path, any(move || async { served_elsewhere(*part) }));
            }
        }
    }
    let (described, _) = described.split_for_parts();
    let router = router.merge(described).fallback(unknown_route);
    finish(router, &app.config.server.clone(), app)
}

/// The routes of a separate operations listener.
pub(crate) fn operations(app: Arc<App>) -> Router {
    let router = Router::new()
        .route("/livez", get(route::health::live))
        .route("/readyz", get(route::health::ready))
        .route("/metrics", get(route::metric::metrics))
        .route("/scaling", get(route::scaling::scaling))
        .fallback(unknown_route);
    finish(router, &app.config.server.clone(), app)
}

/// What holds for every router: problems for what is not there, bounded heads, ids of requests.
pub(crate) fn finish<S: Clone + Send + Sync + 'static>(router: Router<S>, server: &Server, state: S) -> Router {
    let head_limit = server.header_limit_kib as usize * 1024;
    router
        .method_not_allowed_fallback(wrong_method)
        // Bodies are bounded, and drained, where they are read.
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(from_fn_with_state(head_limit, observe::observe))
        .with_state(state)
}

fn served_elsewhere(part: Part) -> Problem {
    let part = part.as_str();
    let detail = format!("This process does not serve this route; one whose server.serve has {part:?} does");
    Problem::new(StatusCode::NOT_FOUND, "served_elsewhere", detail)
}

pub(crate) async fn unknown_route(uri: Uri) -> impl IntoResponse {
    let detail = format!("There is nothing at {}; /openapi.json lists what there is", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "unknown_route", detail)
}

async fn wrong_method() -> impl IntoResponse {
    let detail = "This route takes another method; the Allow header says which";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}
