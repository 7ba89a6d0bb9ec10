//! `POST /jobs/{id}/retry`

use axum::{extract::State, http::StatusCode, response::Response};
use errand_common::domain::JobId;

use super::{job_show::job_of, job_submit::JobAccepted};
use crate::{
    auth::{Permit, Write},
    extract::{NoBody, PathId, Prefer},
    idempotency::IdempotencyKey,
    job,
    problem::Problem,
    shown,
    state::AppState,
    submission,
    view::JobView,
};

/// Repeats a job that failed, was cancelled or expired: a new job, with `retry_of`. Of a group, those of its jobs that did
/// not complete.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/retry", tag = "jobs",
    params(
        ("id" = uuid::Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`wait=N`, N from 1 to 60 seconds: hold the answer until the new job has ended"),
    ),
    responses(
        (status = 202, description = "Taken in; the work goes on", body = JobAccepted),
        (status = 200, description = "Ended in time, well or badly", body = JobView),
        (status = 409, description = "`not_retryable`: it is still going on, or completed", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn retry_job(
    State(app): AppState,
    caller: Permit<Write>,
    PathId(id): PathId<JobId>,
    key: IdempotencyKey,
    prefer: Prefer,
    body: NoBody,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let new_job = async || {
        let job = job_of(&app, &caller, id).await?;
        if !job.state.is_unsuccessful() {
            let detail = format!("Only failed, partial, cancelled or expired jobs can be retried; it is {}", job.state);
            return Err(Problem::new(StatusCode::CONFLICT, "not_retryable", detail));
        }
        job::repeat(&app, &job).await
    };
    let accepted = submission::submit(&app, &caller, key.as_ref(), new_job).await?;
    let taken = JobAccepted { job_id: accepted.id, state: accepted.state, session_id: accepted.session_id };
    let shown = async |job| shown::job(&app, job).await;
    submission::answer(&app, &caller, &accepted, prefer, taken, shown).await
}
