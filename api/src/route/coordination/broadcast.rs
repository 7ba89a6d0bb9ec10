//! `POST /agent/gateway/leads/broadcast`

use axum::{extract::State, response::Response};
use errand_common::domain::{GatewayId, JobId, JobState};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::AgentCaller,
    coordination::{
        answer,
        operation::{self, Order},
        places::Places,
        policy,
        request::BroadcastRequest,
    },
    extract::{JsonBody, Prefer},
    idempotency::IdempotencyKey,
    problem::Problem,
    state::AppState,
    submission,
    view::schema,
};

/// A broadcast as taken in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BroadcastAccepted {
    /// Its id. Its messages are its children: `GET /jobs?parent_id=…`.
    #[schema(schema_with = schema::uuid)]
    job_id: JobId,
    /// Where it starts.
    #[schema(schema_with = schema::job_state)]
    state: JobState,
    /// The gateway.
    #[schema(schema_with = schema::uuid)]
    gateway_id: GatewayId,
}

/// Sends a message from the gateway's own agent to the leads of its boards, newest board first: a job for each.
///
/// Answers 202 once all of them are durable; with `Prefer: wait=N`, `{ok, sent, failed, results}` once all have ended, whatever came
/// of each; `ok` says that none failed. `POST /jobs/{id}/retry` repeats those that failed.
#[utoipa::path(
    post, path = "/api/v1/agent/gateway/leads/broadcast", tags = ["coordination", "agent-main"],
    operation_id = "agent_main_broadcast_lead_message", request_body = BroadcastRequest,
    params(("Prefer" = Option<String>, Header, description = "`wait=N`, N from 1 to 60 seconds: hold the answer until all messages have ended")),
    responses(
        (status = 202, description = "Taken in; the work goes on", body = BroadcastAccepted),
        (status = 200, description = "All ended in time, well or badly", body = Value),
        (status = 422, description = "Something is wrong in the request; `too_many_boards`: more than 1,000", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn broadcast(
    State(app): AppState,
    caller: AgentCaller,
    key: IdempotencyKey,
    prefer: Prefer,
    body: JsonBody<BroadcastRequest>,
) -> Result<Response, Problem> {
    let gateway_id = caller.agent.gateway_id;
    let key = key.bind(&caller, body.digest);
    let new_job = async || {
        policy::main(&caller.agent)?;
        let mut places = Places::new(&app, &caller.tenant);
        let gateway = places.gateway(gateway_id).await?;
        operation::broadcast(&places, Order::of(&caller.agent, prefer.0.is_some()), gateway.id, body.value)
    };
    let accepted = submission::submit(&app, &caller, key.as_ref(), new_job).await?;
    let taken = BroadcastAccepted { job_id: accepted.id, state: accepted.state, gateway_id };
    submission::answer(&app, &caller, &accepted, prefer, taken, async |job| answer::result(&job)).await
}
