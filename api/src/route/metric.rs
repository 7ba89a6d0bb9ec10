//! `GET /metrics`

use std::collections::BTreeMap;

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use errand_common::{domain::JobState, port::StoreError, telemetry::metric};

use crate::{
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
    if let Err(error) = app.depths.get(sample(&app)).await {
        tracing::warn!(error = chain(&error), "the queues' depths can't be read");
    }
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, content_type)], render()).into_response())
}

async fn sample(app: &App) -> Result<(), StoreError> {
    let stats = app.backend.store.queue_stats(None).await?;
    let now = app.now();
    let mut depths: BTreeMap<(String, JobStateName), i64> = BTreeMap::new();
    let mut oldest: BTreeMap<String, f64> = BTreeMap::new();
    let queues = app.engines.known().await?.by_name.values().map(|engine| engine.queue.clone()).collect::<Vec<_>>();
    // Zeros are said too: a queue that ran empty would otherwise show its last depth for ever.
    for queue in stats.iter().map(|stats| stats.queue.clone()).chain(queues) {
        for state in JobState::ALL.iter().filter(|state| !state.is_terminal()) {
            depths.entry((queue.clone(), state.as_str())).or_default();
        }
        oldest.entry(queue).or_default();
    }
    for stats in stats {
        if let (JobState::Queued, Some(since)) = (stats.state, stats.oldest) {
            let age = oldest.entry(stats.queue.clone()).or_default();
            *age = age.max(now.since(since).as_secs_f64());
        }
        *depths.entry((stats.queue, stats.state.as_str())).or_default() += stats.count;
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

type JobStateName = &'static str;
