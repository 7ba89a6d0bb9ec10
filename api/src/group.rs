//! From a body of `POST /jobs` to a group: a job with children.

use errand_common::{
    domain::{Job, JobId, JobState, OnBusy, RetryPolicy},
    port::store::{JobFilter, NewJob},
    wire::{
        coordination::BROADCAST,
        group::{GroupPayload, KIND, VERSION},
    },
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    engines::Known,
    extract::decode,
    intake::Intake,
    job::{self, JobRequest},
    limit,
    problem::{Faults, Problem},
    state::App,
};

const QUEUE: &str = "default";

/// Jobs that belong together: the group is done when all of them are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupRequest {
    /// 1 to 1000 of them, each as the body of `POST /jobs`, without groups, dedup keys and `onBusy: reject`. The group's own
    /// `queue`, `priority`, `run_at` and `expires_at` are theirs too, unless they say otherwise.
    #[schema(value_type = Vec<JobRequest>, min_items = 1, max_items = 1000, no_recursion)]
    jobs: Vec<Value>,
}

/// The group with its jobs, with every fault of the request found.
pub(crate) async fn new_job(intake: &mut Intake<'_>, request: JobRequest) -> Result<NewJob, Problem> {
    let now = intake.app.now();
    let mut faults = Faults::default();
    for (pointer, given) in
        [("/timeout_seconds", request.timeout_seconds.is_some()), ("/retry", request.retry.is_some())]
    {
        faults.check(!given, pointer, || "must be absent: a group is not run itself; set it on its jobs".to_owned());
    }
    if let Some(queue) = &request.queue {
        faults.check(job::is_queue_name(queue), "/queue", || job::QUEUE_NAME.to_owned());
    }
    let ends = [("/expires_at", request.expires_at), ("/deadline", request.deadline)];
    job::check_times(("/run_at", request.run_at), ends, now, &mut faults);
    job::check_metadata(request.metadata.as_ref(), "/metadata", &mut faults);
    let payload = serde_json::to_vec(&request.payload).map_err(|_| Problem::internal())?;
    let group: GroupRequest = decode(&payload).map_err(|problem| problem.below("/payload"))?;
    if group.jobs.is_empty() || group.jobs.len() > limit::BATCH_JOBS {
        faults.add("/payload/jobs", format!("must hold 1 to {} jobs, not {}", limit::BATCH_JOBS, group.jobs.len()));
    }
    faults.finish()?;
    // Made first, so that it sorts before its jobs.
    let id = JobId::new();
    let mut children = Vec::with_capacity(group.jobs.len());
    let mut faults = Faults::default();
    for (index, value) in group.jobs.iter().enumerate() {
        match child(intake, &request, value).await {
            Ok(child) => children.push(child),
            Err(problem) if problem.errors.is_empty() => return Err(problem),
            Err(problem) => {
                for error in problem.below(&format!("/payload/jobs/{index}")).errors {
                    faults.add(error.pointer, error.detail);
                }
            }
        }
        if faults.full() {
            break;
        }
    }
    faults.finish()?;
    Ok(NewJob {
        id,
        tenant: intake.caller.tenant.clone(),
        kind: KIND.to_owned(),
        queue: request.queue.unwrap_or_else(|| QUEUE.to_owned()),
        priority: request.priority.and_then(|p| u8::try_from(p.get()).ok()?.try_into().ok()).unwrap_or_default(),
        payload: payload_of(children.len()),
        payload_version: VERSION,
        retry: RetryPolicy { max_attempts: 1, ..RetryPolicy::TASK },
        timeout_ms: None,
        run_at: None,
        expires_at: request.expires_at,
        deadline: request.deadline,
        metadata: request.metadata.map(Value::Object),
        retry_of: None,
        user_id: intake.caller.as_user().map(|user| user.id.clone()),
        task: None,
        dedup: None,
        children,
        coordination: None,
        webhook: None,
        trace: None,
    })
}

async fn child(intake: &mut Intake<'_>, group: &JobRequest, value: &Value) -> Result<NewJob, Problem> {
    let bytes = serde_json::to_vec(value).map_err(|_| Problem::internal())?;
    let mut request: JobRequest = decode(&bytes)?;
    let mut faults = Faults::default();
    let has_jobs = [KIND, BROADCAST].contains(&request.kind.as_str());
    faults.check(!has_jobs, "/kind", || "must be another kind: groups can't hold groups, nor broadcasts".to_owned());
    faults.check(request.dedup.is_none(), "/dedup", || {
        "must be absent in a group: give the group itself a dedup key".to_owned()
    });
    faults.finish()?;
    let silent = |request: &JobRequest, name: &str| !request.payload.contains_key(name);
    request.queue = request.queue.or_else(|| group.queue.clone());
    if silent(&request, "priority") {
        request.priority = request.priority.or(group.priority);
    }
    if silent(&request, "runAt") {
        request.run_at = request.run_at.or(group.run_at);
    }
    let child = job::new_job(intake, request).await?;
    if child.task.as_ref().is_some_and(|task| task.on_busy == OnBusy::Reject) {
        let detail = "must be another one in a group, whose jobs are all made or none: enqueue waits";
        return Err(Problem::field("/payload/onBusy", detail));
    }
    Ok(child)
}

fn payload_of(jobs: usize) -> Value {
    // It always serialises: it has string keys only.
    serde_json::to_value(GroupPayload { jobs }).unwrap_or_default()
}

/// The group, or the broadcast, that repeats those of its jobs that did not complete.
pub(crate) async fn repeat(app: &App, known: &Known, group: &Job) -> Result<NewJob, Problem> {
    let filter = JobFilter {
        parent_id: Some(group.id),
        states: JobState::ALL.iter().copied().filter(|state| state.is_unsuccessful()).collect(),
        limit: u32::try_from(limit::BATCH_JOBS).unwrap_or(u32::MAX),
        ..JobFilter::default()
    };
    let mut unsuccessful = app.backend.store.jobs(&group.tenant, &filter).await?;
    // Listed newest first; they run in their first order.
    unsuccessful.reverse();
    let id = JobId::new();
    let children = unsuccessful.iter().map(|job| job::repeat_alone(known, job)).collect::<Result<Vec<_>, _>>()?;
    let payload = if group.kind == KIND {
        payload_of(children.len())
    } else {
        let mut payload = group.payload.clone();
        payload["boards"] = children.len().into();
        payload
    };
    if children.is_empty() {
        tracing::error!(job_id = %group.id, "a group ended badly, but none of its jobs is there that did");
        return Err(Problem::internal());
    }
    Ok(NewJob {
        id,
        tenant: group.tenant.clone(),
        kind: group.kind.clone(),
        queue: group.queue.clone(),
        priority: group.priority,
        payload,
        payload_version: group.payload_version,
        retry: group.retry,
        timeout_ms: None,
        run_at: None,
        expires_at: None,
        deadline: None,
        metadata: group.metadata.clone(),
        retry_of: Some(group.id),
        user_id: group.user_id.clone(),
        task: None,
        dedup: None,
        children,
        coordination: None,
        webhook: None,
        trace: Some(group.trace_context()),
    })
}
