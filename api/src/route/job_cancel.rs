//! `POST /jobs/{id}/cancel`

use axum::{extract::State, http::StatusCode, response::Response};
use errand_common::{domain::JobId, port::store::CancelResult};

use super::job_show::job_of;
use crate::{
    auth::{Cancel, Permit},
    cancel::cancel,
    extract::{NoBody, PathId},
    idempotency::{self, IdempotencyKey},
    problem::Problem,
    shown,
    state::AppState,
    view::JobView,
};

/// Cancels a job in any state that is not final, and with it those of its children that go on.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs", params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, body = JobView),
        (status = 409, description = "`already_terminal`: it had ended before", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn cancel_job(
    State(app): AppState,
    caller: Permit<Cancel>,
    PathId(id): PathId<JobId>,
    key: IdempotencyKey,
    body: NoBody,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    idempotency::once(&app, key.as_ref(), async || {
        job_of(&app, &caller, id).await?;
        let job = match cancel(&app, &caller.tenant, id).await? {
            Some(CancelResult::Cancelled(job)) => *job,
            Some(CancelResult::AlreadyTerminal(job)) => {
                let detail = format!("The job had ended before: it is {}", job.state);
                return Err(Problem::new(StatusCode::CONFLICT, "already_terminal", detail));
            }
            None => return Err(Problem::not_found("job")),
        };
        let view = shown::job(&app, job).await?;
        serde_json::to_value(&view).map_err(|_| Problem::internal())
    })
    .await
}
