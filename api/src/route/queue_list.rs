//! `GET /queues`

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use errand_common::{
    domain::{JobState, Timestamp},
    port::store::QueueStats,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::{Permit, Read},
    extract::{Page, Params},
    problem::Problem,
    state::{App, AppState},
    view::List,
};

/// One queue at a glance: the caller's jobs in it.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = Queue)]
pub(crate) struct QueueView {
    /// Its name.
    name: String,
    /// Whether it hands out none of the caller's jobs.
    paused: bool,
    /// Whether it hands out nobody's: only an operator of the installation resumes it then.
    paused_for_all: bool,
    /// Due.
    queued: i64,
    /// Waiting for their conversation.
    blocked: i64,
    /// Waiting for their time.
    scheduled: i64,
    /// In the hands of workers.
    running: i64,
    /// Waiting for a person, a bridge or their children.
    waiting: i64,
    /// Waiting out their backoff.
    retrying: i64,
    /// How long the oldest due job has waited; null if none is due.
    oldest_age_seconds: Option<f64>,
}

impl QueueView {
    fn add(&mut self, stats: &QueueStats, now: Timestamp) {
        let count = match stats.state {
            JobState::Queued => &mut self.queued,
            JobState::Blocked => &mut self.blocked,
            JobState::Scheduled => &mut self.scheduled,
            JobState::Running => &mut self.running,
            JobState::Retrying => &mut self.retrying,
            JobState::AwaitingApproval
            | JobState::AwaitingAnswer
            | JobState::AwaitingCallback
            | JobState::AwaitingChildren => &mut self.waiting,
            JobState::Completed | JobState::Partial | JobState::Failed | JobState::Cancelled | JobState::Expired => {
                return;
            }
        };
        *count += stats.count;
        if let (JobState::Queued, Some(oldest)) = (stats.state, stats.oldest) {
            let age = now.since(oldest).as_secs_f64();
            self.oldest_age_seconds = Some(self.oldest_age_seconds.map_or(age, |known| known.max(age)));
        }
    }
}

/// Lists the queues that hold unfinished jobs of the caller's tenant, those that engines are fed from, and those that are
/// paused. A user needs the scope `admin` for it.
#[utoipa::path(
    get, path = "/api/v1/queues", tag = "fleet",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<QueueView>))
)]
pub(crate) async fn list_queues(
    State(app): AppState,
    caller: Permit<Read>,
    mut query: Params,
) -> Result<Json<List<QueueView>>, Problem> {
    let page: Page<String> = query.page();
    query.finish()?;
    caller.require_whole_tenant()?;
    let queues = overview(&app, &caller.tenant).await?;
    let mut items = page.of(queues, |queue, after| queue.name > *after);
    let next_cursor = page.cut(&mut items, |queue| queue.name.clone());
    Ok(Json(List { items, next_cursor }))
}

/// One queue as the list shows it, whether or not anything is known of it.
pub(super) async fn queue_of(app: &App, tenant: &str, name: &str) -> Result<QueueView, Problem> {
    let found = overview(app, tenant).await?.find(|queue| queue.name == name);
    Ok(found.unwrap_or_else(|| QueueView { name: name.to_owned(), ..QueueView::default() }))
}

/// The tenant's queues, by name: those with unfinished jobs, those that engines are fed from, and those that are paused.
async fn overview(app: &App, tenant: &str) -> Result<impl Iterator<Item = QueueView>, Problem> {
    let mut queues: BTreeMap<String, QueueView> = BTreeMap::new();
    for engine in app.engines.known().await?.by_name.values() {
        queues.entry(engine.queue.clone()).or_default();
    }
    let now = app.now();
    for stats in app.backend.store.queue_stats(Some(tenant)).await? {
        queues.entry(stats.queue.clone()).or_default().add(&stats, now);
    }
    for order in app.backend.store.paused(tenant).await? {
        let queue = queues.entry(order.queue).or_default();
        queue.paused = true;
        queue.paused_for_all |= order.tenant.is_none();
    }
    Ok(queues.into_iter().map(|(name, queue)| QueueView { name, ..queue }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_live_state_is_counted_and_only_due_jobs_have_an_age() {
        let now = Timestamp::from_micros(10_000_000);
        let mut view = QueueView::default();
        for &state in JobState::ALL {
            let oldest = Some(now.minus(Duration::from_secs(3)));
            view.add(&QueueStats { queue: "q".into(), state, count: 1, oldest }, now);
        }
        let live = view.queued + view.blocked + view.scheduled + view.running + view.waiting + view.retrying;
        assert_eq!(live, JobState::ALL.iter().filter(|state| !state.is_terminal()).count() as i64);
        assert_eq!(view.oldest_age_seconds, Some(3.0));
    }
}
