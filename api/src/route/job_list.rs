//! `GET /jobs`

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use errand_common::{
    domain::{JobId, JobState},
    port::store::JobFilter,
};

use crate::{
    auth::{Permit, Read},
    extract::{Page, Params},
    problem::Problem,
    shown,
    state::AppState,
    view::{JobView, List},
};

/// Lists jobs, newest first.
#[utoipa::path(
    get, path = "/api/v1/jobs", tag = "jobs",
    params(
        ("kind" = Option<String>, Query, description = "of this kind"),
        ("state" = Option<String>, Query, description = "in one of these states, comma-separated; `live` means every non-terminal one"),
        ("queue" = Option<String>, Query, description = "in this queue"),
        ("session_id" = Option<uuid::Uuid>, Query, description = "of this conversation"),
        ("parent_id" = Option<uuid::Uuid>, Query, description = "children of this job"),
        ("since" = Option<String>, Query, description = "submitted at or after, RFC 3339"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<JobView>))
)]
pub(crate) async fn list_jobs(
    State(app): AppState,
    caller: Permit<Read>,
    mut query: Params,
) -> Result<Json<List<JobView>>, Problem> {
    let page: Page<JobId> = query.page();
    let since = query.parse::<DateTime<Utc>>("since", "an RFC 3339 time such as 2026-11-21T07:30:00Z");
    let filter = JobFilter {
        user_id: caller.confined_to().map(str::to_owned),
        kind: query.text("kind"),
        states: states(&mut query),
        queue: query.text("queue"),
        session_id: query.parse("session_id", "a UUID"),
        parent_id: query.parse("parent_id", "a UUID"),
        since: since.map(Into::into),
        before: page.after,
        limit: page.probe(),
    };
    query.finish()?;
    let mut jobs = app.backend.store.jobs(&caller.tenant, &filter).await?;
    let next_cursor = page.cut(&mut jobs, |job| job.id);
    Ok(Json(List { items: shown::jobs(&app, jobs).await?, next_cursor }))
}

pub(super) fn states(query: &mut Params) -> Vec<JobState> {
    let Some(text) = query.text("state") else { return Vec::new() };
    let mut states = Vec::new();
    for name in text.split(',').map(str::trim) {
        match (name, name.parse()) {
            ("live", _) => states.extend(JobState::ALL.iter().copied().filter(|state| !state.is_terminal())),
            (_, Ok(state)) => states.push(state),
            (_, Err(_)) => {
                let known: Vec<_> = JobState::ALL.iter().map(|state| state.as_str()).collect();
                query.fault("state", format!("unknown state {name:?}; known are: live, {}", known.join(", ")));
            }
        }
    }
    states
}
