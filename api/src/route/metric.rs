//! `GET /metrics`

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use errand_common::{domain::JobState, port::StoreError, telemetry::metric};

use crate::{
    limit,
    problem::Problem,
    problem::chain,
    state::{App, AppState},
};

/// Metrics in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub(crate) async fn metrics(State(app): AppState) -> Result<Response, Problem> {
    let Some(render) = app.metrics.clone() else { return Err(Problem::not_found("metrics")) };
    // What can't be sampled now must not hide what was counted.
    let sampled = match tokio::time::timeout(limit::SAMPLE_TIMEOUT, app.depths.get(sample(&app))).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "the queues' depths can't be read");
            false
        }
        Err(_) => {
            tracing::warn!("the queues' depths can't be read: the database does not answer");
            false
        }
    };
    metrics::gauge!(metric::STORE_UP).set(if sampled { 1.0 } else { 0.0 });
    Ok(rendered(render()))
}

/// An answer in Prometheus' text format.
pub(crate) fn rendered(text: String) -> Response {
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

/// The label of queues that no worker takes from and no engine names: clients may choose names, labels must stay few.
const OTHER_QUEUES: &str = "other";

async fn sample(app: &App) -> Result<(), StoreError> {
    let stats = app.backend.store.queue_stats(None).await?;
    let now = app.now();
    let named = named_queues(app).await?;
    let label = |queue: &str| named.get(queue).map_or(OTHER_QUEUES, String::as_str).to_owned();
    let mut depths: BTreeMap<(String, JobStateName), i64> = BTreeMap::new();
    let mut oldest: BTreeMap<String, f64> = BTreeMap::new();
    // Zeros are said too: a queue that ran empty would otherwise show its last depth for ever.
    for queue in named.iter().map(String::as_str).chain([OTHER_QUEUES]) {
        for state in JobState::ALL.iter().filter(|state| !state.is_terminal()) {
            depths.insert((queue.to_owned(), state.as_str()), 0);
        }
        oldest.insert(queue.to_owned(), 0.0);
    }
    for stats in stats {
        let queue = label(&stats.queue);
        if let (JobState::Queued, Some(since)) = (stats.state, stats.oldest) {
            let age = oldest.entry(queue.clone()).or_default();
            *age = age.max(now.since(since).as_secs_f64());
        }
        *depths.entry((queue, stats.state.as_str())).or_default() += stats.count;
    }
    for ((queue, state), depth) in depths {
        #[expect(clippy::cast_precision_loss, reason = "gauges are floats; counts this large don't occur")]
        metrics::gauge!(metric::QUEUE_DEPTH, "queue" => queue, "state" => state).set(depth as f64);
    }
    for (queue, age) in oldest {
        metrics::gauge!(metric::QUEUE_OLDEST_AGE_SECONDS, "queue" => queue).set(age);
    }
    Ok(())
}

/// Queues that a live worker takes from, or an engine's tasks go to.
async fn named_queues(app: &App) -> Result<BTreeSet<String>, StoreError> {
    let workers = app.backend.store.live_workers().await?;
    #[expect(clippy::cast_precision_loss, reason = "gauges are floats; counts this large don't occur")]
    metrics::gauge!(metric::WORKERS, "state" => "live").set(workers.len() as f64);
    let served = workers.into_iter().flat_map(|worker| worker.queues);
    let engines = app.engines.known().await?.by_name.values().map(|engine| engine.queue.clone()).collect::<Vec<_>>();
    Ok(served.chain(engines).collect())
}

type JobStateName = &'static str;
