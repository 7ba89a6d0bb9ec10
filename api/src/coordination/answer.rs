//! From a job's end to what the caller reads, who knows statuses and sentences.

use axum::http::StatusCode;
use errand_common::{
    domain::{BoardId, FailureClass, Job, JobState},
    wire::coordination::{ASK_USER, LEAD_MESSAGE, NUDGE, PROVISION, PROVISION_FAILED, SOUL_READ, SOUL_WRITE},
};
use serde_json::{Value, json};

use crate::{problem::Problem, state::App};

/// What a failure's sentence begins with, by kind.
fn beginning(kind: &str) -> &'static str {
    match kind {
        NUDGE => "Gateway nudge failed",
        SOUL_READ => "Gateway SOUL read failed",
        SOUL_WRITE => "Gateway SOUL update failed",
        ASK_USER => "Gateway ask-user dispatch failed",
        LEAD_MESSAGE => "Gateway lead message dispatch failed",
        PROVISION => "Gateway provision failed",
        _ => "Gateway lead broadcast dispatch failed",
    }
}

/// `{"ok": true}`, once it is done.
pub(crate) fn done(job: &Job) -> Result<Value, Problem> {
    if job.state == JobState::Completed { Ok(json!({ "ok": true })) } else { Err(failed(job)) }
}

/// The job's own result, if it has one: a broadcast has one even where nobody was reached.
pub(crate) fn result(job: &Job) -> Result<Value, Problem> {
    let has_failed = matches!(job.state, JobState::Failed | JobState::Cancelled | JobState::Expired);
    match &job.result {
        Some(result) if !has_failed || result.get("results").is_some() => Ok(result.clone()),
        _ => Err(failed(job)),
    }
}

/// The text of a soul.
pub(crate) fn soul(job: &Job) -> Result<Value, Problem> {
    let content = job.result.as_ref().and_then(|result| result.get("content")).filter(|content| content.is_string());
    match content {
        Some(content) if job.state == JobState::Completed => Ok(content.clone()),
        // Why is told in the log and in the job only.
        _ => {
            let mut problem = failed(job);
            problem.detail = beginning(SOUL_READ).into();
            Err(problem)
        }
    }
}

/// A question that was brought to the gateway's own agent; it may have been answered by now.
pub(crate) async fn asked(app: &App, board_id: BoardId, job: &Job) -> Result<Value, Problem> {
    if !matches!(job.state, JobState::AwaitingAnswer | JobState::Completed) {
        return Err(failed(job));
    }
    let store = &app.backend.store;
    let gateway = store.board(&job.tenant, board_id).await?.and_then(|board| board.gateway_id);
    let main = match gateway {
        Some(gateway) => store.main_agent(&job.tenant, gateway).await?,
        None => None,
    };
    Ok(json!({
        "ok": true,
        "board_id": board_id,
        "main_agent_id": main.as_ref().map(|main| main.id),
        "main_agent_name": main.map(|main| main.name),
        "question_id": job.payload["question_id"],
    }))
}

/// 502 with the sentence of the job's kind. What can't be known is not worth another try: it might be done twice.
pub(crate) fn failed(job: &Job) -> Problem {
    let why = job.failure.as_ref().map_or_else(|| job.state.as_str(), |failure| failure.message.as_str());
    let class = job.failure.as_ref().map(|failure| failure.class);
    let code = if class == Some(FailureClass::Ambiguous) { "outcome_unknown" } else { "gateway_failed" };
    let is_whole = job.failure.as_ref().is_some_and(|failure| failure.code == PROVISION_FAILED);
    let detail = if is_whole { why.to_owned() } else { format!("{}: {why}", beginning(&job.kind)) };
    let mut problem = Problem::new(StatusCode::BAD_GATEWAY, code, detail);
    problem.retryable = matches!(
        class,
        Some(FailureClass::Transient | FailureClass::RateLimited | FailureClass::Timeout | FailureClass::Crash)
    );
    problem
}
