//! A task as `GET /agent/tasks/{id}` shows it.

use errand_common::domain::{Approval, ApprovalId, Job, JobId, JobState, SessionId, Timestamp};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{job::FailureView, schema};

/// A task: the job that runs one prompt.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Task)]
pub(crate) struct TaskView {
    /// Its id; the job's id too.
    #[schema(schema_with = schema::uuid)]
    id: JobId,
    /// Its conversation.
    #[schema(schema_with = schema::uuid_or_null)]
    session_id: Option<SessionId>,
    /// What to do.
    prompt: String,
    /// Where it is in its life.
    #[schema(schema_with = schema::job_state)]
    status: JobState,
    /// What the engine answered, or why it failed.
    result: Option<String>,
    /// Tokens in and out, if the engine says.
    tokens_used: Option<i64>,
    /// Cost in US dollars, if the engine says.
    cost_usd: Option<f64>,
    /// The model that answered, if the engine says.
    model: Option<String>,
    /// Why it failed, or last failed.
    failure: Option<FailureView>,
    /// The attempt that runs or ran last.
    attempt: u32,
    /// No attempt beyond this one.
    max_attempts: u32,
    /// The engine that runs it.
    engine_type: Option<String>,
    /// The tool calls that wait for approval, oldest first; of `GET /agent/tasks/{id}` only, and only while it is
    /// `awaiting_approval`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    approvals: Vec<ApprovalView>,
    /// The client's own.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
    /// Submitted.
    #[schema(schema_with = schema::time)]
    created_at: Timestamp,
    /// First started.
    #[schema(schema_with = schema::time_or_null)]
    started_at: Option<Timestamp>,
    /// Reached a terminal state.
    #[schema(schema_with = schema::time_or_null)]
    completed_at: Option<Timestamp>,
}

impl TaskView {
    pub(crate) fn new(job: Job) -> Self {
        let of_result = |name: &str| job.result.as_ref().and_then(|result| result.get(name));
        let of_payload = |name: &str| job.payload.get(name).and_then(Value::as_str).map(str::to_owned);
        let summary = of_result("summary").and_then(Value::as_str).map(str::to_owned);
        Self {
            result: summary.or_else(|| {
                job.failure.as_ref().filter(|_| job.state.is_terminal()).map(|failure| failure.message.clone())
            }),
            tokens_used: of_result("tokensUsed").and_then(Value::as_i64),
            cost_usd: of_result("costUsd").and_then(Value::as_f64),
            model: of_result("model").and_then(Value::as_str).map(str::to_owned),
            prompt: of_payload("prompt").unwrap_or_default(),
            engine_type: of_payload("engineType"),
            failure: FailureView::of(&job),
            id: job.id,
            session_id: job.session_id,
            status: job.state,
            attempt: job.attempt,
            max_attempts: job.retry.max_attempts,
            approvals: Vec::new(),
            metadata: job.metadata,
            created_at: job.created_at,
            started_at: job.started_at,
            completed_at: job.finished_at,
        }
    }

    /// With the tool calls that wait.
    pub(crate) fn asking(mut self, approvals: impl IntoIterator<Item = Approval>) -> Self {
        self.approvals = approvals.into_iter().map(ApprovalView::from).collect();
        self
    }
}

/// A tool call that waits for a person, with the fields of its `approval_required` event.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Approval)]
pub(crate) struct ApprovalView {
    /// Its id: the `approvalId` of `POST /agent/tasks/{id}/approve`.
    #[schema(schema_with = schema::uuid)]
    approval_id: ApprovalId,
    /// The tool.
    #[schema(example = "Bash")]
    tool_name: String,
    /// What it is to be called with.
    #[schema(value_type = Object)]
    tool_input: Value,
    /// The engine's own id of the call.
    tool_use_id: String,
    /// Asked.
    #[schema(schema_with = schema::time)]
    created_at: Timestamp,
    /// Denied if nobody has decided by then.
    #[schema(schema_with = schema::time)]
    expires_at: Timestamp,
}

impl From<Approval> for ApprovalView {
    fn from(approval: Approval) -> Self {
        Self {
            approval_id: approval.id,
            tool_name: approval.call.tool,
            tool_input: approval.call.input,
            tool_use_id: approval.call.id,
            created_at: approval.created_at,
            expires_at: approval.expires_at,
        }
    }
}
