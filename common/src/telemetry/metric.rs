//! Metrics: their names, what they mean, and how they are rendered. Labels never hold ids.

use std::time::Duration;

use metrics::Unit;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Jobs that ended: `{kind, outcome}`.
pub const JOBS_TOTAL: &str = "errand_jobs_total";
/// Jobs that have not ended: `{queue, state}`.
pub const QUEUE_DEPTH: &str = "errand_queue_depth";
/// How long the oldest due job has waited: `{queue}`.
pub const QUEUE_OLDEST_AGE_SECONDS: &str = "errand_queue_oldest_age_seconds";
/// From due to claimed.
pub const START_LATENCY_SECONDS: &str = "errand_start_latency_seconds";
/// Attempts that ended: `{kind, class}`.
pub const ATTEMPTS_TOTAL: &str = "errand_attempts_total";
/// How long attempts took.
pub const ATTEMPT_SECONDS: &str = "errand_attempt_seconds";
/// Leases that passed while held.
pub const LEASES_LOST_TOTAL: &str = "errand_leases_lost_total";
/// Writes under an old fence, refused.
pub const STALE_WRITES_REJECTED_TOTAL: &str = "errand_stale_writes_rejected_total";
/// Calls to the outside: `{kind, result}`.
pub const EFFECTS_TOTAL: &str = "errand_effects_total";
/// Watchers that came back: `{recovered}`.
pub const STREAM_RECOVERIES_TOTAL: &str = "errand_stream_recoveries_total";
/// Open WebSockets.
pub const WS_CONNECTIONS: &str = "errand_ws_connections";
/// WebSockets closed because their reader was too slow.
pub const WS_SLOW_CLOSED_TOTAL: &str = "errand_ws_slow_closed_total";
/// Gateways that workers have to do with, each counted by each worker: `{state}` is `open` (connected), `waiting` (away, tried
/// again) or `refused` (left alone until somebody may have corrected what was refused).
pub const GATEWAY_CONNECTIONS: &str = "errand_gateway_connections";
/// Tokens: `{engine, direction}`.
pub const ENGINE_TOKENS_TOTAL: &str = "errand_engine_tokens_total";
/// Workers: `{state}`.
pub const WORKERS: &str = "errand_workers";
/// Whether the database could be read for this very scrape: 1 or 0. Without it depths and workers would look alive.
pub const STORE_UP: &str = "errand_store_up";

/// How a metric behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Counter,
    Gauge,
    Histogram,
}

use Shape::{Counter, Gauge, Histogram};

/// All of them, with the help text of `/metrics`.
const CATALOGUE: &[(&str, Shape, Unit, &str)] = &[
    (JOBS_TOTAL, Counter, Unit::Count, "Jobs that reached a terminal state"),
    (QUEUE_DEPTH, Gauge, Unit::Count, "Jobs that have not ended, by queue and state"),
    (QUEUE_OLDEST_AGE_SECONDS, Gauge, Unit::Seconds, "How long the oldest due job of a queue has waited"),
    (START_LATENCY_SECONDS, Histogram, Unit::Seconds, "Time from a job being due to its claim"),
    (ATTEMPTS_TOTAL, Counter, Unit::Count, "Attempts that ended, by how"),
    (ATTEMPT_SECONDS, Histogram, Unit::Seconds, "How long attempts took"),
    (LEASES_LOST_TOTAL, Counter, Unit::Count, "Leases that passed while held"),
    (STALE_WRITES_REJECTED_TOTAL, Counter, Unit::Count, "Writes under an old fence that were refused"),
    (EFFECTS_TOTAL, Counter, Unit::Count, "Calls to the outside, by kind and result"),
    (STREAM_RECOVERIES_TOTAL, Counter, Unit::Count, "Watchers that came back with a position, by whether it was known"),
    (WS_CONNECTIONS, Gauge, Unit::Count, "Open WebSockets"),
    (WS_SLOW_CLOSED_TOTAL, Counter, Unit::Count, "WebSockets closed because their reader was too slow"),
    (
        GATEWAY_CONNECTIONS,
        Gauge,
        Unit::Count,
        "Gateways that workers are connected to (open), wait for (waiting) or are refused by (refused)",
    ),
    (ENGINE_TOKENS_TOTAL, Counter, Unit::Count, "Tokens used, by engine and direction"),
    (WORKERS, Gauge, Unit::Count, "Workers, by state"),
    (STORE_UP, Gauge, Unit::Count, "Whether the database could be read for this scrape"),
];

/// From a pick-up within a millisecond to a wait of minutes.
const LATENCY_BUCKETS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// From a no-op to the longest task.
const ATTEMPT_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0];

/// Metrics could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("metrics could not be installed: {0}")]
pub struct MetricError(#[from] BuildError);

/// Renders what this process has counted.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the recorder of this process; once. Opens no listener.
    ///
    /// # Errors
    /// Another recorder is installed.
    pub fn install() -> Result<Self, MetricError> {
        let handle = builder()?.install_recorder()?;
        describe();
        Ok(Self(handle))
    }

    /// The text of `/metrics`.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds what was recorded into the buckets, so that memory stays bounded when nobody scrapes. Call it again and
    /// again, at [`Metrics::UPKEEP`].
    pub fn run_upkeep(&self) {
        self.0.run_upkeep();
    }

    /// How often [`Metrics::run_upkeep`] is to be called.
    pub const UPKEEP: Duration = Duration::from_secs(5);
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(START_LATENCY_SECONDS.to_owned()), LATENCY_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(ATTEMPT_SECONDS.to_owned()), ATTEMPT_BUCKETS)
}

fn describe() {
    for &(name, shape, unit, help) in CATALOGUE {
        match shape {
            Counter => metrics::describe_counter!(name, unit, help),
            Gauge => metrics::describe_gauge!(name, unit, help),
            Histogram => metrics::describe_histogram!(name, unit, help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counted_job_is_rendered_with_its_help_and_a_latency_in_its_bucket() {
        let recorder = builder().expect("buckets").build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            metrics::counter!(JOBS_TOTAL, "kind" => "task", "outcome" => "completed").increment(2);
            metrics::histogram!(START_LATENCY_SECONDS).record(0.002);
        });
        let text = handle.render();
        assert!(text.contains("# HELP errand_jobs_total Jobs that reached a terminal state"), "{text}");
        assert!(text.contains("errand_jobs_total{kind=\"task\",outcome=\"completed\"} 2"), "{text}");
        assert!(text.contains("errand_start_latency_seconds_bucket{le=\"0.0025\"} 1"), "{text}");
    }

    #[test]
    fn names_tell_the_shape() {
        for (name, shape, ..) in CATALOGUE {
            assert!(name.starts_with("errand_"), "{name}");
            assert_eq!(name.ends_with("_total"), *shape == Counter, "{name}");
        }
    }
}
