//! `GET /jobs/{id}`

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use errand_common::domain::{Job, JobId};

use crate::{
    auth::{Caller, Permit, Read},
    extract::{Params, PathId},
    limit,
    problem::Problem,
    scope, shown,
    state::{App, AppState},
    view::JobView,
    wait,
};

/// Shows a job. With `?wait=N` the answer is held until the job has ended or the time is up.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}", tag = "jobs",
    params(
        ("id" = uuid::Uuid, Path),
        ("wait" = Option<u32>, Query, minimum = 1, maximum = 60, description = "seconds: hold the answer until the job has ended"),
        ("If-None-Match" = Option<String>, Header, description = "an ETag of this job: 304 if it has not changed"),
    ),
    responses(
        (status = 200, body = JobView, headers(("ETag" = String, description = "another one after each change of the job or of its stream"))),
        (status = 304, description = "Not changed"),
    )
)]
pub(crate) async fn show_job(
    State(app): AppState,
    caller: Permit<Read>,
    PathId(id): PathId<JobId>,
    mut query: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let most = i64::try_from(limit::WAIT_SECONDS).unwrap_or(i64::MAX);
    let seconds = query.number("wait", 1..=most).and_then(|seconds| u64::try_from(seconds).ok());
    query.finish()?;
    let job = job_of(&app, &caller, id).await?;
    let job = match seconds {
        Some(seconds) if !job.state.is_terminal() => {
            let waited = wait::for_end(&app, &caller.tenant, id, Duration::from_secs(seconds)).await?;
            waited.ok_or_else(|| Problem::not_found("job"))?
        }
        _ => job,
    };
    let view = shown::job(&app, job).await?;
    let etag = view.etag();
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|theirs| {
        theirs.split(',').any(|one| one.trim() == "*" || one.trim().trim_start_matches("W/") == etag)
    });
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { Json(view).into_response() };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

/// The job; 404 if the caller may see none such.
pub(crate) async fn job_of(app: &App, caller: &Caller, id: JobId) -> Result<Job, Problem> {
    scope::job(app, caller, id).await?.ok_or_else(|| Problem::not_found("job"))
}
