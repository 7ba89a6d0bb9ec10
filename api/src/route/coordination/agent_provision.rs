//! `POST /agents/{id}/provision`

use axum::{extract::State, http::StatusCode, response::Response};
use errand_common::{
    domain::{AgentId, JobState},
    port::store::NewJob,
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::agent::missing;
use crate::{
    auth::{Admin, Permit},
    coordination::answer,
    extract::{JsonBody, PathId, Prefer, Wanted},
    idempotency::IdempotencyKey,
    problem::{Problem, ProblemBody},
    route::job_submit::JobAccepted,
    state::AppState,
    submission,
    view::AgentView,
};

/// How an agent is provisioned.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProvisionRequest {
    /// Write files anew that agents change themselves, too: `USER.md`, `MEMORY.md`.
    #[serde(default)]
    overwrite: bool,
}

impl Wanted for ProvisionRequest {}

/// Makes an agent in its gateway, or makes it again: its workspace, its files, its token. While one such job goes on, further ones
/// fall to it.
///
/// Answers 202 once the job is durable; with `Prefer: wait=N`, the agent once it is ready, or 502.
#[utoipa::path(
    post, path = "/api/v1/agents/{id}/provision", tag = "agents", request_body = ProvisionRequest,
    params(
        ("id" = uuid::Uuid, Path),
        ("Prefer" = Option<String>, Header, description = "`wait=N`, N from 1 to 60 seconds: hold the answer until it has ended"),
    ),
    responses(
        (status = 202, description = "Taken in, or under way; the work goes on", body = JobAccepted),
        (status = 200, description = "Ready in time", body = AgentView),
        (status = 409, description = "`bound_agent`: it is bound to a session, and never provisioned", body = ProblemBody, content_type = "application/problem+json"),
        (status = 502, description = "`gateway_failed`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn provision_agent(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<AgentId>,
    key: IdempotencyKey,
    prefer: Prefer,
    body: JsonBody<ProvisionRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let new_job = async || {
        let agent = app.backend.store.agent(&caller.tenant, id).await?.ok_or_else(missing)?;
        if agent.bound {
            let detail = "This agent is bound to a session that was there before; it is never provisioned";
            return Err(Problem::new(StatusCode::CONFLICT, "bound_agent", detail));
        }
        Ok(NewJob::provision(&agent, body.value.overwrite, caller.as_user().map(|user| user.id.clone())))
    };
    let mut accepted = submission::submit(&app, &caller, key.as_ref(), new_job).await?;
    // One that is under way is as good as a new one.
    accepted.deduplicated = false;
    let taken = JobAccepted { job_id: accepted.id, state: accepted.state, session_id: None };
    let shown = async |job: errand_common::domain::Job| {
        if job.state != JobState::Completed {
            return Err(answer::failed(&job));
        }
        let agent = app.backend.store.agent(&caller.tenant, id).await?.ok_or_else(missing)?;
        Ok(AgentView::new(agent, app.now()))
    };
    submission::answer(&app, &caller, &accepted, prefer, taken, shown).await
}
