//! `GET /scaling`

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{Json, extract::State};
use errand_common::{
    domain::{JobState, Timestamp},
    port::{
        StoreError,
        store::{QueueStats, WorkerInfo},
    },
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    extract::Params,
    limit,
    problem::Problem,
    state::{App, AppState},
};

/// How many workers some queues want, for an autoscaler that takes the largest of several wishes.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct Scaling {
    /// Jobs that are due, of all tenants.
    queued: i64,
    /// Jobs in the hands of workers.
    running: i64,
    /// Both: divided by the jobs that one worker runs at once, it is how many workers are wanted.
    work: i64,
    /// How long the oldest due job has waited; 0 if none is due.
    oldest_age_seconds: f64,
    /// Workers that take from these queues. One that drains is on its way out, and counts no more.
    live_workers: usize,
    /// Those of them that run something: fewer must not be left.
    busy_workers: usize,
    /// As many as live, and at least 1, while the oldest due job has waited `late_seconds`; else 0. Who aims at half a one
    /// per worker doubles them for as long as that lasts.
    late_workers: usize,
}

/// What the answers are made from.
#[derive(Debug)]
pub(crate) struct FleetNumbers {
    stats: Vec<QueueStats>,
    workers: Vec<WorkerInfo>,
    at: Timestamp,
}

/// What an autoscaler of workers needs to know of some queues. It asks for no key, as `/metrics` does not, and is where
/// that is.
#[utoipa::path(
    get, path = "/scaling", tag = "operations",
    params(
        ("queues" = String, Query, description = "names of queues, comma-separated"),
        ("late_seconds" = Option<u32>, Query, minimum = 1, maximum = 86400, description = "60 if absent"),
    ),
    responses((status = 200, body = Scaling))
)]
pub(crate) async fn scaling(State(app): AppState, mut query: Params) -> Result<Json<Scaling>, Problem> {
    let queues = query.required("queues");
    let late = query.number("late_seconds", 1..=86_400).and_then(|late| u64::try_from(late).ok());
    query.finish()?;
    let queues: BTreeSet<&str> = queues.split(',').map(str::trim).collect();
    let numbers = match tokio::time::timeout(limit::SAMPLE_TIMEOUT, app.scaling.get(read(&app))).await {
        Ok(numbers) => numbers?,
        Err(_) => return Err(Problem::unavailable("store_unavailable", "The database does not answer")),
    };
    let late = Duration::from_secs(late.unwrap_or(limit::LATE_SECONDS));
    Ok(Json(numbers.of(&queues, late)))
}

async fn read(app: &App) -> Result<Arc<FleetNumbers>, StoreError> {
    let stats = app.backend.store.queue_stats(None).await?;
    let workers = app.backend.store.live_workers().await?;
    Ok(Arc::new(FleetNumbers { stats, workers, at: app.now() }))
}

impl FleetNumbers {
    fn of(&self, queues: &BTreeSet<&str>, late: Duration) -> Scaling {
        let stats = self.stats.iter().filter(|stats| queues.contains(stats.queue.as_str()));
        let (mut queued, mut running, mut oldest) = (0, 0, Duration::ZERO);
        for stats in stats {
            match stats.state {
                JobState::Queued => {
                    queued += stats.count;
                    oldest = stats.oldest.map_or(oldest, |since| oldest.max(self.at.since(since)));
                }
                JobState::Running => running += stats.count,
                _ => {}
            }
        }
        let takes = |worker: &&WorkerInfo| worker.queues.iter().any(|queue| queues.contains(queue.as_str()));
        let live: Vec<_> = self.workers.iter().filter(takes).filter(|worker| !worker.draining).collect();
        let is_late = queued > 0 && oldest >= late;
        Scaling {
            queued,
            running,
            work: queued + running,
            oldest_age_seconds: oldest.as_secs_f64(),
            live_workers: live.len(),
            busy_workers: live.iter().filter(|worker| worker.running > 0).count(),
            late_workers: if is_late { live.len().max(1) } else { 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use errand_common::domain::WorkerId;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    fn stats(queue: &str, state: JobState, count: i64, waited: u64) -> QueueStats {
        QueueStats { queue: queue.into(), state, count, oldest: Some(NOW.minus(Duration::from_secs(waited))) }
    }

    fn worker(queues: &[&str], running: u32, draining: bool) -> WorkerInfo {
        WorkerInfo {
            id: WorkerId::new(),
            host: "h".into(),
            version: "0".into(),
            queues: queues.iter().map(|queue| (*queue).to_owned()).collect(),
            kinds: BTreeMap::new(),
            engines: Vec::new(),
            concurrency: 4,
            running,
            draining,
            drainable: true,
            started_at: NOW,
            alive_until: NOW,
        }
    }

    fn numbers() -> FleetNumbers {
        FleetNumbers {
            stats: vec![
                stats("a", JobState::Queued, 7, 40),
                stats("a", JobState::Running, 2, 400),
                stats("a", JobState::Scheduled, 9, 0),
                stats("b", JobState::Queued, 1, 90),
                stats("c", JobState::Queued, 50, 900),
            ],
            workers: vec![
                worker(&["a"], 2, false),
                worker(&["a", "x"], 0, false),
                worker(&["a"], 3, true),
                worker(&["c"], 1, false),
            ],
            at: NOW,
        }
    }

    #[test]
    fn work_is_what_is_due_or_running_and_a_worker_that_drains_counts_no_more() {
        let scaling = numbers().of(&BTreeSet::from(["a"]), Duration::from_secs(60));
        let expected = Scaling {
            queued: 7,
            running: 2,
            work: 9,
            oldest_age_seconds: 40.0,
            live_workers: 2,
            busy_workers: 1,
            late_workers: 0,
        };
        assert_eq!(scaling, expected);
    }

    #[test]
    fn while_the_oldest_job_is_late_as_many_are_late_as_live_and_at_least_one() {
        let late =
            |queues: &[&str]| numbers().of(&queues.iter().copied().collect(), Duration::from_secs(60)).late_workers;
        assert_eq!(late(&["a", "b"]), 2);
        assert_eq!(late(&["b"]), 1, "nobody takes from it");
        assert_eq!(late(&["nothing"]), 0);
    }
}
