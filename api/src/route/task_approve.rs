//! `POST /agent/tasks/{id}/approve`

use axum::{extract::State, http::StatusCode, response::Response};
use errand_common::{
    domain::{Approval, ApprovalId, ApprovalScope, JobId},
    port::store::{Ruled, Ruling, Verdict},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::task_show::task_of;
use crate::{
    auth::{Approve, Caller, Permit},
    extract::{JsonBody, PathId, Wanted},
    idempotency::{self, IdempotencyKey},
    problem::{Faults, Problem},
    state::{App, AppState},
    view::schema,
};

/// What a person says about a tool call. Unknown fields are ignored.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApproveRequest {
    /// Whether the tool may be called. `false` alone rejects the whole task; with `message` it denies this call.
    approved: bool,
    /// Which call, as its `approval_required` event names it; needed only if several wait.
    #[schema(schema_with = schema::uuid)]
    approval_id: Option<ApprovalId>,
    /// With `approved: false`: tells the engine why, and the turn goes on. Not blank.
    message: Option<String>,
    /// With `approved: true`: this call, or every call of the tool in the session; `once` if absent.
    #[serde(default, deserialize_with = "scope")]
    #[schema(schema_with = schema::approval_scope)]
    scope: Option<ApprovalScope>,
}

impl Wanted for ApproveRequest {}

/// Names what is allowed, whatever else was given.
fn scope<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<ApprovalScope>, D::Error> {
    let given = Option::<serde_json::Value>::deserialize(deserializer)?.filter(|value| !value.is_null());
    let Some(given) = given else { return Ok(None) };
    given.as_str().and_then(|name| name.parse().ok()).map(Some).ok_or_else(|| {
        let known: Vec<_> = ApprovalScope::ALL.iter().map(|value| value.as_str()).collect();
        serde::de::Error::custom(format_args!("must be one of {}", known.join(", ")))
    })
}

/// What became of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TaskRuled {
    /// `Command approved`, `Command denied`, or `Command rejected`: the task is cancelled.
    message: &'static str,
    /// The task.
    #[schema(schema_with = schema::uuid)]
    task_id: JobId,
}

/// Decides about a tool call that waits for a person.
///
/// The run goes on in the worker that waits, within milliseconds, or in another if its process was let go meanwhile. The
/// same tool with the same input, asked again by a later run of the task, finds the decision.
#[utoipa::path(
    post, path = "/api/v1/agent/tasks/{id}/approve", tag = "tasks", request_body = ApproveRequest,
    params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, body = TaskRuled),
        (status = 400, description = "`not_awaiting_approval`: nothing waits; `detail` says in which state the task is. Or something in the request is wrong", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`several_pending`: several calls wait, which `errors` lists, and `approvalId` names none. `not_pending`: the call named was decided, expired or withdrawn before", body = crate::problem::ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn approve_task(
    State(app): AppState,
    caller: Permit<Approve>,
    PathId(id): PathId<JobId>,
    key: IdempotencyKey,
    body: JsonBody<ApproveRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let ruling = ruling(&body.value)?;
    idempotency::once(&app, key.as_ref(), async || {
        task_of(&app, &caller, id).await?;
        let message = rule(&app, &caller, id, body.value.approval_id, ruling).await?;
        serde_json::to_value(TaskRuled { message, task_id: id }).map_err(|_| Problem::internal())
    })
    .await
}

fn ruling(request: &ApproveRequest) -> Result<Ruling, Problem> {
    if request.approved {
        return Ok(Ruling::Approve(request.scope.unwrap_or_default()));
    }
    let Some(message) = request.message.clone() else { return Ok(Ruling::Reject) };
    let mut faults = Faults::default();
    faults.check(!message.trim().is_empty(), "/message", || {
        "must not be blank: say why the call is denied, or leave it out to reject the task".to_owned()
    });
    faults.finish()?;
    Ok(Ruling::Deny { message })
}

/// Decides; what to say about it.
async fn rule(
    app: &App,
    caller: &Caller,
    id: JobId,
    approval_id: Option<ApprovalId>,
    ruling: Ruling,
) -> Result<&'static str, Problem> {
    let message = match ruling {
        Ruling::Approve(_) => "Command approved",
        Ruling::Deny { .. } => "Command denied",
        Ruling::Reject => "Command rejected",
    };
    let verdict = Verdict {
        tenant: caller.tenant.clone(),
        job_id: id,
        approval_id,
        ruling,
        decided_by: caller.owner(),
        now: app.now(),
    };
    let ruled = app.backend.store.rule(verdict).await?;
    let (ruled, consequences) = ruled.ok_or_else(|| Problem::no_such("Task", id))?;
    app.backend.dispatch(consequences).await;
    match ruled {
        Ruled::Done(_) => Ok(message),
        Ruled::NotAwaiting(job) => {
            let detail = format!("Task {id} is not awaiting approval (current status: {})", job.state);
            Err(Problem::new(StatusCode::BAD_REQUEST, "not_awaiting_approval", detail))
        }
        Ruled::Several(approvals) => Err(several(&approvals)),
        Ruled::NotPending => {
            let detail =
                "This call waits no more: it was decided, expired or withdrawn; the task's timeline says which";
            Err(Problem::new(StatusCode::CONFLICT, "not_pending", detail).with("/approvalId", "names no waiting call"))
        }
    }
}

fn several(approvals: &[Approval]) -> Problem {
    let detail = format!("{} tool calls wait for approval; name one of them in approvalId", approvals.len());
    let problem = Problem::new(StatusCode::CONFLICT, "several_pending", detail);
    approvals.iter().take(crate::limit::FAULTS).fold(problem, |problem, approval| {
        problem.with("/approvalId", format!("{}: {} {}", approval.id, approval.call.tool, approval.call.input))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::decode;

    fn ruled(text: &str) -> Result<Ruling, Problem> {
        ruling(&decode::<ApproveRequest>(text.as_bytes())?)
    }

    #[test]
    fn no_alone_rejects_the_task_and_with_a_message_it_denies_the_call() {
        assert_eq!(ruled(r#"{"approved":false}"#).expect("valid"), Ruling::Reject);
        assert_eq!(
            ruled(r#"{"approved":false,"message":"no"}"#).expect("valid"),
            Ruling::Deny { message: "no".into() }
        );
        let blank = ruled(r#"{"approved":false,"message":" "}"#).expect_err("neither one nor the other");
        assert_eq!(blank.errors[0].pointer, "/message");
    }

    #[test]
    fn yes_is_for_once_unless_it_says_for_the_session() {
        assert_eq!(ruled(r#"{"approved":true,"message":"x"}"#).expect("valid"), Ruling::Approve(ApprovalScope::Once));
        let session = ruled(r#"{"approved":true,"scope":"session"}"#).expect("valid");
        assert_eq!(session, Ruling::Approve(ApprovalScope::Session));
        let unknown = ruled(r#"{"approved":true,"scope":"always"}"#).expect_err("unknown");
        assert!(unknown.errors[0].detail.contains("once, session"), "{unknown:?}");
        assert!(ruled("{}").is_err(), "it must say yes or no");
    }
}
