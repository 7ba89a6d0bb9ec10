//! One job from its request to its answer, whichever route it came by: key, commit, wait.

use std::{borrow::Cow, time::Duration};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use errand_common::{
    domain::{EventType, Job, JobId, JobState, SessionId, Stream},
    port::store::{Created, NewJob, Refused, StoredAnswer, Submission, Submitted},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    auth::Caller,
    extract::Prefer,
    idempotency::{self, Bound},
    problem::Problem,
    state::App,
    wait,
};

/// A job as taken in.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Accepted {
    pub(crate) id: JobId,
    /// Where it started.
    pub(crate) state: JobState,
    pub(crate) session_id: Option<SessionId>,
    /// It was taken in before, under the same key.
    pub(crate) replayed: bool,
    /// It was there before, under the same dedup key.
    pub(crate) deduplicated: bool,
}

impl Accepted {
    const fn new(created: &Created, replayed: bool) -> Self {
        let &Created { id, state, session_id, deduplicated } = created;
        Self { id, state, session_id, replayed, deduplicated }
    }
}

/// Makes one job durable, or finds the one that its key made. `new_job` is asked only if the key has made none, since a
/// request that was right then (its `expiresAt`) may be wrong by now.
pub(crate) async fn submit(
    app: &App,
    caller: &Caller,
    key: Option<&Bound>,
    new_job: impl AsyncFnOnce() -> Result<NewJob, Problem>,
) -> Result<Accepted, Problem> {
    if let Some(key) = key
        && let Some(answer) = key.recall(app).await?
    {
        return again(app, caller, &answer).await;
    }
    let job = new_job().await?;
    let answer = json!({ "jobs": [job.id] });
    let idempotency = key.map(|key| key.record(app, StatusCode::ACCEPTED, answer));
    let submission = Submission { jobs: vec![job], idempotency };
    match app.submitter.submit(submission).await? {
        Submitted::Done(results) => match results.into_iter().next() {
            Some(Ok(created)) => Ok(Accepted::new(&created, false)),
            Some(Err(refused)) => Err(refusal(&refused)),
            None => {
                tracing::error!("the store gave no result for a job");
                Err(Problem::internal())
            }
        },
        Submitted::Replayed(answer) => again(app, caller, &answer).await,
        Submitted::Mismatch => Err(idempotency::mismatch()),
    }
}

async fn again(app: &App, caller: &Caller, answer: &StoredAnswer) -> Result<Accepted, Problem> {
    let id = ids_of(&answer.answer).into_iter().next().ok_or_else(Problem::internal)?;
    if let Some(stood) = answer.deduplicated.get(&id) {
        return Ok(Accepted::new(stood, true));
    }
    let job = app.backend.store.job(&caller.tenant, id).await?.ok_or_else(|| Problem::not_found("job"))?;
    let state = born(app, &job).await?;
    Ok(Accepted { id, state, session_id: job.session_id, replayed: true, deduplicated: false })
}

/// The jobs that a stored answer names.
pub(crate) fn ids_of(answer: &Value) -> Vec<JobId> {
    let ids = answer.get("jobs").and_then(Value::as_array).into_iter().flatten();
    ids.filter_map(|id| id.as_str()?.parse().ok()).collect()
}

/// Where a job started, so that a repeated answer equals the first: its first `queued` event says so.
pub(crate) async fn born(app: &App, job: &Job) -> Result<JobState, Problem> {
    const FIRST_EVENTS: u32 = 8;
    let first = app.backend.store.events(Stream::Job(job.id), 0, FIRST_EVENTS).await?;
    let queued = first.iter().find(|event| event.kind == EventType::Queued);
    let state = queued.and_then(|event| event.data.get("state")?.as_str()?.parse().ok());
    Ok(state.unwrap_or(job.state))
}

/// Why a job was not made.
pub(crate) fn refusal(refused: &Refused) -> Problem {
    match refused {
        Refused::SessionBusy { .. } => busy(format!("The {refused}")),
        Refused::TooManyBoards { .. } => {
            too_many_boards(format!("{refused}: name fewer in board_ids, or send a shorter message"))
        }
        Refused::QuestionGone => {
            let detail = "the job asked a question on a board that was removed: ask on another board";
            Problem::new(StatusCode::CONFLICT, "question_gone", detail)
        }
    }
}

/// 422: a broadcast would go to more boards than one may.
pub(crate) fn too_many_boards(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "too_many_boards", detail)
}

/// 409: the session has an unfinished task, and the client asked to be refused then.
pub(crate) fn busy(detail: impl Into<Cow<'static, str>>) -> Problem {
    let mut problem = Problem::new(StatusCode::CONFLICT, "session_busy", detail);
    problem.retryable = true;
    problem
}

/// The answer to a submission: what `shown` makes of the job if the client waits and it ends in time, or if it was there
/// before; else the 202.
pub(crate) async fn answer<A: Serialize, E: Serialize>(
    app: &App,
    caller: &Caller,
    accepted: &Accepted,
    prefer: Prefer,
    body: A,
    shown: impl AsyncFnOnce(Job) -> Result<E, Problem>,
) -> Result<Response, Problem> {
    let waited = match prefer.0 {
        Some(wait) => end_within(app, caller, accepted.id, wait).await?,
        None => None,
    };
    let mut response = match waited {
        Some(job) => {
            let mut response = Json(shown(job).await?).into_response();
            response.headers_mut().insert("preference-applied", HeaderValue::from_static("wait"));
            response
        }
        None if accepted.deduplicated => {
            let job = app.backend.store.job(&caller.tenant, accepted.id).await?;
            Json(shown(job.ok_or_else(|| Problem::not_found("job"))?).await?).into_response()
        }
        None => (StatusCode::ACCEPTED, Json(body)).into_response(),
    };
    if let Ok(location) = HeaderValue::from_str(&format!("/api/v1/jobs/{}", accepted.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(if accepted.replayed { idempotency::replayed(response) } else { response })
}

async fn end_within(app: &App, caller: &Caller, id: JobId, wait: Duration) -> Result<Option<Job>, Problem> {
    match wait::for_outcome(app, &caller.tenant, id, wait).await {
        Ok(job) => Ok(job.filter(|job| wait::is_outcome(job.state))),
        // The job is durable: a store that is away for now must not make the answer an error.
        Err(problem) if problem.status == StatusCode::SERVICE_UNAVAILABLE => Ok(None),
        Err(problem) => Err(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_answer_names_its_jobs() {
        let ids = [JobId::new(), JobId::new()];
        assert_eq!(ids_of(&json!({ "jobs": ids })), ids);
        assert!(ids_of(&json!({})).is_empty());
    }
}
