//! `POST /jobs/batch`

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use errand_common::{
    domain::{JobId, JobState, SessionId},
    port::store::{Created, NewJob, Refused, StoredAnswer, Submission, Submitted},
    wire::coordination::BROADCAST,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::{
    auth::{Caller, Permit, Write},
    extract::{JsonBody, Wanted, decode},
    idempotency::{self, IdempotencyKey},
    intake::Intake,
    job::{self, JobRequest},
    limit,
    problem::{Problem, ProblemBody},
    state::{App, AppState},
    submission,
    view::schema,
};

/// Why a session refused a job of a batch.
const BUSY: &str = "The session is busy with another task";
/// Why a broadcast of a batch was refused.
const TOO_MANY: &str = "The broadcast would go to more boards than one may";

/// Jobs to be made together.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchRequest {
    /// 1 to 1000 of them, each as the body of `POST /jobs`.
    #[schema(value_type = Vec<JobRequest>, min_items = 1, max_items = 1000)]
    jobs: Vec<Value>,
}

impl Wanted for BatchRequest {}

/// What became of each, in order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchAccepted {
    /// One entry a job.
    items: Vec<BatchItem>,
}

/// One job of a batch: made, or refused.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum BatchItem {
    /// Durable.
    Made {
        /// Its id.
        #[schema(schema_with = schema::uuid)]
        id: JobId,
        /// Where it starts.
        #[schema(schema_with = schema::job_state)]
        state: JobState,
        /// Its conversation.
        #[schema(schema_with = schema::uuid)]
        #[serde(skip_serializing_if = "Option::is_none")]
        session_id: Option<SessionId>,
        /// True if it was there before, under the same dedup key; `state` is where it is then.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        deduplicated: bool,
    },
    /// Not made.
    Refused {
        /// Why.
        problem: ProblemBody,
    },
}

impl From<Created> for BatchItem {
    fn from(created: Created) -> Self {
        let Created { id, state, session_id, deduplicated } = created;
        Self::Made { id, state, session_id, deduplicated }
    }
}

impl BatchItem {
    fn refused(problem: &Problem) -> Self {
        Self::Refused { problem: problem.body(None) }
    }
}

/// Submits up to 1000 jobs in one request. Each is judged by itself: one that is refused does not hold up the others.
#[utoipa::path(
    post, path = "/api/v1/jobs/batch", tag = "jobs", request_body = BatchRequest,
    responses((status = 202, description = "All that could be made are durable", body = BatchAccepted))
)]
pub(crate) async fn submit_batch(
    State(app): AppState,
    caller: Permit<Write>,
    key: IdempotencyKey,
    body: JsonBody<BatchRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    if let Some(key) = &key
        && let Some(stored) = key.recall(&app).await?
    {
        return again(&app, &caller, &stored).await;
    }
    let judged = judge(&app, &caller, body.value.jobs).await?;
    let ids: Vec<_> = judged.iter().map(|one| one.as_ref().ok().map(|job| job.id)).collect();
    let refusals: Vec<_> = judged.iter().map(|one| one.as_ref().err().map(|problem| problem.body(None))).collect();
    let jobs: Vec<NewJob> = judged.iter().filter_map(|one| one.as_ref().ok()).cloned().collect();
    if jobs.is_empty() {
        return Ok(accepted(judged.iter().filter_map(|one| one.as_ref().err()).map(BatchItem::refused).collect()));
    }
    let broadcasts: Vec<_> = jobs.iter().filter(|job| job.kind == BROADCAST).map(|job| job.id).collect();
    let answer = json!({ "items": ids, "problems": refusals, "broadcasts": broadcasts });
    let idempotency = key.as_ref().map(|key| key.record(&app, StatusCode::ACCEPTED, answer));
    match app.submitter.submit(Submission { jobs, idempotency }).await? {
        Submitted::Replayed(stored) => again(&app, &caller, &stored).await,
        Submitted::Mismatch => Err(idempotency::mismatch()),
        Submitted::Done(results) => {
            let mut results = results.into_iter();
            let items = judged.iter().map(|one| match one {
                Err(problem) => BatchItem::refused(problem),
                Ok(_) => match results.next() {
                    Some(Ok(made)) => made.into(),
                    // As a repeat will say it, which does not know by which task, nor how many boards there were.
                    Some(Err(Refused::SessionBusy { .. })) => BatchItem::refused(&submission::busy(BUSY)),
                    Some(Err(Refused::TooManyBoards { .. })) => {
                        BatchItem::refused(&submission::too_many_boards(TOO_MANY))
                    }
                    Some(Err(refused @ Refused::QuestionGone)) => BatchItem::refused(&submission::refusal(&refused)),
                    None => BatchItem::refused(&Problem::internal()),
                },
            });
            Ok(accepted(items.collect()))
        }
    }
}

async fn judge(app: &App, caller: &Caller, jobs: Vec<Value>) -> Result<Vec<Result<NewJob, Problem>>, Problem> {
    if jobs.is_empty() || jobs.len() > limit::BATCH_JOBS {
        let detail = format!("must hold 1 to {} jobs, not {}", limit::BATCH_JOBS, jobs.len());
        return Err(Problem::field("/jobs", detail));
    }
    let mut intake = Intake::open(app, caller).await?;
    let mut judged = Vec::with_capacity(jobs.len());
    for job in jobs {
        judged.push(judge_one(&mut intake, &job).await);
    }
    let all: usize = judged.iter().flatten().map(|job| job.children.len().max(1)).sum();
    if all > limit::BATCH_JOBS {
        let detail = format!("must hold {} jobs at most, those of its groups included, not {all}", limit::BATCH_JOBS);
        return Err(Problem::field("/jobs", detail));
    }
    intake.keep_attachments().await?;
    Ok(judged)
}

async fn judge_one(intake: &mut Intake<'_>, job: &Value) -> Result<NewJob, Problem> {
    let bytes = serde_json::to_vec(job).map_err(|_| Problem::internal())?;
    let request: JobRequest = decode(&bytes)?;
    job::new_job(intake, request).await
}

fn accepted(items: Vec<BatchItem>) -> Response {
    (StatusCode::ACCEPTED, Json(BatchAccepted { items })).into_response()
}

/// The answer given before, rendered again: jobs as they started, refusals as they were written down.
async fn again(app: &App, caller: &Caller, stored: &StoredAnswer) -> Result<Response, Problem> {
    let none = Vec::new();
    let list = |name: &str| stored.answer.get(name).and_then(Value::as_array).unwrap_or(&none).clone();
    let mut items = Vec::new();
    for (id, problem) in list("items").into_iter().zip(list("problems")) {
        let id: Option<JobId> = id.as_str().and_then(|id| id.parse().ok());
        let stood = id.and_then(|id| stored.deduplicated.get(&id));
        let item = match id {
            None => json!({ "problem": problem }),
            Some(_) if stood.is_some() => json!(stood.cloned().map(BatchItem::from)),
            Some(id) => match app.backend.store.job(&caller.tenant, id).await? {
                Some(job) => {
                    json!({ "id": id, "state": submission::born(app, &job).await?, "session_id": job.session_id })
                }
                // It was never made. Of what was judged right, broadcasts are refused for their size, and others by a busy session.
                None if list("broadcasts").contains(&json!(id)) => {
                    json!({ "problem": submission::too_many_boards(TOO_MANY).body(None) })
                }
                None => json!({ "problem": submission::busy(BUSY).body(None) }),
            },
        };
        items.push(item);
    }
    let response = (StatusCode::ACCEPTED, Json(json!({ "items": items }))).into_response();
    Ok(idempotency::replayed(response))
}
