//! `POST /jobs`

use axum::{extract::State, response::Response};
use errand_common::domain::{JobId, JobState, SessionId};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::{Permit, Write},
    extract::{JsonBody, Prefer},
    idempotency::IdempotencyKey,
    intake::Intake,
    job::{self, JobRequest},
    problem::Problem,
    shown,
    state::AppState,
    submission,
    view::{JobView, schema},
};

/// A job as taken in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobAccepted {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    pub(crate) job_id: JobId,
    /// Where it starts.
    #[schema(schema_with = schema::job_state)]
    pub(crate) state: JobState,
    /// Its conversation.
    #[schema(schema_with = schema::uuid)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) session_id: Option<SessionId>,
}

/// A job as it is when its submission is answered.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobAnswer {
    /// The job.
    #[serde(flatten)]
    job: JobView,
    /// Its id once more, under the name of the 202; only with `deduplicated`.
    #[schema(schema_with = schema::uuid)]
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<JobId>,
    /// True if it was there before, under the same dedup key: this submission made none.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deduplicated: bool,
}

/// Submits a job of any kind.
///
/// Answers 202 once the job is durable; with `Prefer: wait=N`, 200 with the finished job if it ends in time; one that asks a
/// person is answered once the question was delivered.
#[utoipa::path(
    post, path = "/api/v1/jobs", tag = "jobs", request_body = JobRequest,
    params(("Prefer" = Option<String>, Header, description = "`wait=N`, N from 1 to 60 seconds: hold the answer until the job has ended")),
    responses(
        (status = 202, description = "Taken in; the work goes on", body = JobAccepted),
        (status = 200, description = "Ended in time, well or badly; or, with `deduplicated`, the job that stands for it", body = JobAnswer),
        (status = 409, description = "`session_busy`: with `onBusy: reject`, the conversation has an unfinished task", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn submit_job(
    State(app): AppState,
    caller: Permit<Write>,
    key: IdempotencyKey,
    prefer: Prefer,
    body: JsonBody<JobRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let new_job = async || {
        let mut intake = Intake::open(&app, &caller).await?.awaited(prefer.0.is_some());
        let job = job::new_job(&mut intake, body.value).await?;
        intake.keep_attachments().await?;
        Ok(job)
    };
    let accepted = submission::submit(&app, &caller, key.as_ref(), new_job).await?;
    let taken = JobAccepted { job_id: accepted.id, state: accepted.state, session_id: accepted.session_id };
    let job_id = accepted.deduplicated.then_some(accepted.id);
    let shown =
        async |job| Ok(JobAnswer { job: shown::job(&app, job).await?, job_id, deduplicated: accepted.deduplicated });
    submission::answer(&app, &caller, &accepted, prefer, taken, shown).await
}
