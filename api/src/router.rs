//! The table of routes.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::DefaultBodyLimit,
    http::{StatusCode, Uri},
    middleware::from_fn_with_state,
    response::IntoResponse,
    routing::get,
};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{observe, openapi, problem::Problem, route, state::App};

/// Every route that the OpenAPI document describes, but `/metrics`.
pub(crate) fn described() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(route::task_submit::submit_task))
        .routes(routes!(route::task_show::show_task, route::task_cancel::cancel_task))
        .routes(routes!(route::engine_list::list_engines))
        .routes(routes!(route::session_list::list_sessions))
        .routes(routes!(route::session_show::show_session, route::session_close::close_session))
        .routes(routes!(route::session_messages::list_messages))
        .routes(routes!(route::session_tasks::list_session_tasks))
        .routes(routes!(route::stream::watch_session))
        .routes(routes!(route::job_submit::submit_job, route::job_list::list_jobs))
        .routes(routes!(route::job_batch::submit_batch))
        .routes(routes!(route::job_show::show_job))
        .routes(routes!(route::job_timeline::show_timeline))
        .routes(routes!(route::stream::watch_job))
        .routes(routes!(route::job_cancel::cancel_job))
        .routes(routes!(route::job_retry::retry_job))
        .routes(routes!(route::job_retry_many::retry_jobs))
        .routes(routes!(route::stream::open_socket))
        .routes(routes!(route::queue_list::list_queues))
        .routes(routes!(route::queue_pause::pause_queue))
        .routes(routes!(route::queue_pause::resume_queue))
        .routes(routes!(route::worker_list::list_workers))
        .routes(routes!(route::worker_drain::drain_worker))
        .routes(routes!(route::key_create::create_key, route::key_list::list_keys))
        .routes(routes!(route::key_revoke::revoke_key))
        .routes(routes!(route::health::live))
        .routes(routes!(route::health::ready))
}

/// `/metrics`, which may have a listener of its own.
pub(crate) fn described_metrics() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(route::metric::metrics))
}

/// The main listener's routes. Without `metrics` if those have a listener of their own.
pub(crate) fn main(app: Arc<App>) -> Router {
    let described = match app.config.metrics.listen {
        Some(_) => described(),
        None => described().merge(described_metrics()),
    };
    let (router, _) = described.split_for_parts();
    let router =
        router.route("/", get(route::index::index)).route("/openapi.json", get(|| async { Json(openapi::openapi()) }));
    finish(router, app)
}

/// The routes of a separate operations listener.
pub(crate) fn operations(app: Arc<App>) -> Router {
    let router = Router::new()
        .route("/livez", get(route::health::live))
        .route("/readyz", get(route::health::ready))
        .route("/metrics", get(route::metric::metrics));
    finish(router, app)
}

fn finish(router: Router<Arc<App>>, app: Arc<App>) -> Router {
    router
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        // Bodies are bounded, and drained, where they are read.
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(observe::panicked))
        .layer(from_fn_with_state(app.clone(), observe::observe))
        .with_state(app)
}

async fn unknown_route(uri: Uri) -> impl IntoResponse {
    let detail = format!("There is nothing at {}; /openapi.json lists what there is", uri.path());
    Problem::new(StatusCode::NOT_FOUND, "unknown_route", detail)
}

async fn wrong_method() -> impl IntoResponse {
    let detail = "This route takes another method; the Allow header says which";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}
