//! From a body of `POST /jobs` to a job, by its kind; and from a job to the one that repeats it.

use errand_common::{
    domain::{Job, JobId, RetryPolicy, Timestamp},
    port::store::NewJob,
    wire::{
        coordination::BROADCAST, group::KIND as GROUP, http::KIND as HTTP, instance::KIND as INSTANCE_TASK,
        task::KIND as TASK,
    },
};
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    coordination::payload::{
        self, AskUserPayload, BroadcastPayload, LeadMessagePayload, NudgePayload, OnAgent, SoulWritePayload,
    },
    dedup::DedupRequest,
    engines::Known,
    extract::{Int, Wanted, decode},
    group::{self, GroupRequest},
    http::{self, HttpRequest},
    instance::{self, InstanceTaskInput},
    intake::Intake,
    limit,
    problem::{Faults, Problem},
    state::App,
    task::{self, Beyond, TaskRequest},
    view::schema,
    webhook::WebhookTarget,
};

/// Kinds that can be submitted, beside those of [`payload`].
const KINDS: &[&str] = &[TASK, INSTANCE_TASK, HTTP, GROUP];
/// What the name of a queue must be.
pub(crate) const QUEUE_NAME: &str = "must be 1 to 64 of A-Z a-z 0-9 . _ -";

/// A job to be made.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobRequest {
    /// What sort of work it is: `task`, `instance_task`, `http`, `group`; `nudge`, `soul_read`, `soul_write`, `ask_user`, `lead_message`, `broadcast`.
    #[schema(example = "task")]
    pub(crate) kind: String,
    /// The input, by the kind's schema: for a `task`, the body of `POST /agent/tasks`.
    #[schema(value_type = Payload)]
    pub(crate) payload: Map<String, Value>,
    /// Which workers may take it: 1 to 64 of `A-Z a-z 0-9 . _ -`; for a task, its engine's queue if absent.
    pub(crate) queue: Option<String>,
    /// 0 first, 3 last; 2 if absent.
    #[schema(inline)]
    pub(crate) priority: Option<Int<0, 3>>,
    /// Not before; now if absent or past. At most ten years ahead.
    #[schema(schema_with = schema::time)]
    pub(crate) run_at: Option<Timestamp>,
    /// Expires if not started by then; must lie in the future, at most ten years ahead.
    #[schema(schema_with = schema::time)]
    pub(crate) expires_at: Option<Timestamp>,
    /// Ends by then, one way or another; must lie in the future, at most ten years ahead.
    #[schema(schema_with = schema::time)]
    pub(crate) deadline: Option<Timestamp>,
    /// Bounds one attempt; of an `http` job, its call: at most `outbound.call_seconds`.
    #[schema(inline)]
    pub(crate) timeout_seconds: Option<Int<1, 86_400>>,
    /// How it is retried.
    pub(crate) retry: Option<RetryRequest>,
    /// What it means if the same was submitted before.
    pub(crate) dedup: Option<DedupRequest>,
    /// Who is told of its end, beside the tenant's endpoints.
    pub(crate) webhook: Option<WebhookTarget>,
    /// The client's own; an object of at most 16 KiB.
    #[schema(value_type = Option<Object>)]
    pub(crate) metadata: Option<Map<String, Value>>,
}

impl Wanted for JobRequest {}

/// The input of a job, by its kind.
#[derive(ToSchema)]
#[schema(as = Payload)]
#[serde(untagged)]
#[expect(dead_code, reason = "described for clients; each kind reads its own")]
pub(crate) enum Payload {
    /// `task`
    Task(Box<TaskRequest>),
    /// `instance_task`
    InstanceTask(InstanceTaskInput),
    /// `http`
    Http(HttpRequest),
    /// `group`
    Group(GroupRequest),
    /// `nudge`
    Nudge(NudgePayload),
    /// `soul_read`
    SoulRead(OnAgent),
    /// `soul_write`
    SoulWrite(SoulWritePayload),
    /// `ask_user`
    AskUser(AskUserPayload),
    /// `lead_message`
    LeadMessage(LeadMessagePayload),
    /// `broadcast`
    Broadcast(BroadcastPayload),
}

/// How a job is retried.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryRequest {
    /// Attempts in all; 3 if absent, 8 for `http`.
    #[schema(inline)]
    max_attempts: Option<Int<1, 100>>,
    /// Longest wait before the second attempt, doubled with each further one; 1000 if absent.
    #[schema(inline)]
    base_ms: Option<Int<0, 3_600_000>>,
    /// The wait never exceeds this; 60000 if absent.
    #[schema(inline)]
    cap_ms: Option<Int<0, 86_400_000>>,
}

impl RetryRequest {
    /// With a kind's own where it says nothing.
    pub(crate) fn over(self, default: RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.max_attempts.map_or(default.max_attempts, Int::as_u32),
            base_ms: self.base_ms.map_or(default.base_ms, Int::as_u64),
            cap_ms: self.cap_ms.map_or(default.cap_ms, Int::as_u64),
        }
    }
}

/// Whether a queue may have this name.
pub(crate) fn is_queue_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The job, with every fault of the request found.
pub(crate) async fn new_job(intake: &mut Intake<'_>, request: JobRequest) -> Result<NewJob, Problem> {
    let known = [KINDS, payload::KINDS].concat();
    if !known.contains(&request.kind.as_str()) {
        let detail = format!("unknown kind {:?}; known are: {}", request.kind, known.join(", "));
        return Err(Problem::field("/kind", detail).coded("unknown_kind"));
    }
    let mut request = request;
    let dedup = request.dedup.take().map(|dedup| dedup.judge(&request.kind, request.run_at)).transpose();
    let webhook = request.webhook.take().map(|target| target.judge(intake.app, "/webhook")).transpose()?;
    let made = match request.kind.as_str() {
        // Its jobs are made by this function too.
        GROUP => Box::pin(group::new_job(intake, request)).await,
        INSTANCE_TASK => instance::of_request(intake.app, intake.caller, request).await,
        HTTP => http::new_job(intake.app, intake.caller, request),
        kind if payload::KINDS.contains(&kind) => payload::new_job(intake, request).await,
        _ => task_of(request)
            .and_then(|(task, beyond)| task::new_job(intake, task, beyond, "/payload").map_err(above_payload)),
    };
    match (made, dedup) {
        (Ok(job), Ok(dedup)) => Ok(NewJob { dedup, webhook: webhook.or(job.webhook), ..job }),
        (Err(problem), Ok(_)) | (Ok(_), Err(problem)) => Err(problem),
        // All faults at once, if the first are faults.
        (Err(problem), Err(_)) if problem.errors.is_empty() => Err(problem),
        (Err(mut problem), Err(dedup)) => {
            problem.errors.extend(dedup.errors);
            Err(Problem::invalid(problem.errors))
        }
    }
}

/// The task in the payload; what the job says itself wins.
fn task_of(request: JobRequest) -> Result<(TaskRequest, Beyond), Problem> {
    let mut faults = Faults::default();
    for name in request.payload.keys().filter(|name| !task::FIELDS.contains(&name.as_str())) {
        if faults.full() {
            break;
        }
        faults.add(format!("/payload/{name}"), format!("unknown field; known are: {}", task::FIELDS.join(", ")));
    }
    check_queue(request.queue.as_deref(), &mut faults);
    faults.finish()?;
    let payload = serde_json::to_vec(&request.payload).map_err(|_| Problem::internal())?;
    let mut task: TaskRequest = decode(&payload).map_err(|problem| problem.below("/payload"))?;
    task.priority = request.priority.or(task.priority);
    task.run_at = request.run_at.or(task.run_at);
    task.expires_at = request.expires_at.or(task.expires_at);
    task.timeout_seconds = request.timeout_seconds.or(task.timeout_seconds);
    task.metadata = request.metadata.or(task.metadata);
    if request.retry.as_ref().is_some_and(|retry| retry.max_attempts.is_some()) {
        task.max_attempts = None;
    }
    let beyond = Beyond {
        queue: request.queue,
        deadline: request.deadline,
        retry: request.retry.map(|retry| retry.over(RetryPolicy::TASK)),
    };
    Ok((task, beyond))
}

/// Checks the name of a queue.
pub(crate) fn check_queue(queue: Option<&str>, faults: &mut Faults) {
    let Some(queue) = queue else { return };
    faults.check(is_queue_name(queue), "/queue", || QUEUE_NAME.to_owned());
}

/// Checks when a job may start, and the ends of its time: each with its pointer.
pub(crate) fn check_times(
    run_at: (&str, Option<Timestamp>),
    ends: [(&str, Option<Timestamp>); 2],
    now: Timestamp,
    faults: &mut Faults,
) {
    let farthest = now.plus(limit::FARTHEST_AHEAD);
    let (pointer, run_at) = run_at;
    let starts_in_time = run_at.is_none_or(|run_at| run_at <= farthest);
    faults.check(starts_in_time, pointer, || "must lie within ten years from now".to_owned());
    for (pointer, end) in ends {
        let Some(end) = end else { continue };
        faults.check(end > now, pointer, || format!("must lie in the future; it is now {now}"));
        faults.check(end <= farthest, pointer, || "must lie within ten years from now".to_owned());
    }
}

/// Checks the size of a client's own data.
pub(crate) fn check_metadata(metadata: Option<&Map<String, Value>>, pointer: &str, faults: &mut Faults) {
    let bytes = metadata.map_or(0, |fields| serde_json::to_string(fields).unwrap_or_default().len());
    faults
        .check(bytes <= limit::METADATA_BYTES, pointer, || format!("may take {} bytes at most", limit::METADATA_BYTES));
}

/// The job that repeats one which has ended; of a group or a broadcast, with those of its jobs that did not complete. What else
/// was kept with a job of coordination is handed down by the store.
pub(crate) async fn repeat(app: &App, job: &Job) -> Result<NewJob, Problem> {
    let known = app.engines.known().await?;
    match job.kind.as_str() {
        GROUP | BROADCAST => group::repeat(app, &known, job).await,
        _ => repeat_alone(&known, job),
    }
}

/// As [`repeat`], of a job that is no group.
pub(crate) fn repeat_alone(known: &Known, job: &Job) -> Result<NewJob, Problem> {
    match job.kind.as_str() {
        TASK => task::repeat(known, job),
        INSTANCE_TASK => instance::repeat(job),
        _ => Ok(repeat_plain(job)),
    }
}

/// As [`repeat`], of a job that is in no conversation.
pub(crate) fn repeat_plain(job: &Job) -> NewJob {
    NewJob {
        id: JobId::new(),
        tenant: job.tenant.clone(),
        kind: job.kind.clone(),
        queue: job.queue.clone(),
        priority: job.priority,
        payload: job.payload.clone(),
        payload_version: job.payload_version,
        retry: job.retry,
        timeout_ms: job.timeout_ms,
        run_at: None,
        expires_at: None,
        deadline: None,
        metadata: job.metadata.clone(),
        retry_of: Some(job.id),
        user_id: job.user_id.clone(),
        dedup: None,
        children: Vec::new(),
        task: None,
        coordination: None,
        webhook: None,
        trace: Some(job.trace_context()),
    }
}

/// A time is checked where the task has it; it may have come from the job itself, whose field has another name.
fn above_payload(mut problem: Problem) -> Problem {
    for error in &mut problem.errors {
        for (inner, outer) in [("/payload/runAt", "/run_at"), ("/payload/expiresAt", "/expires_at")] {
            if error.pointer == inner {
                error.pointer = outer.to_owned();
            }
        }
    }
    problem
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(text: &str) -> Result<(TaskRequest, Beyond), Problem> {
        task_of(decode(text.as_bytes()).expect("a job"))
    }

    #[test]
    fn what_the_job_says_wins_over_its_payload() {
        let text = r#"{"kind":"task","priority":0,"retry":{"max_attempts":7},
            "payload":{"prompt":"x","priority":3,"maxAttempts":2,"timeoutSeconds":5}}"#;
        let (task, beyond) = task(text).expect("valid");
        assert_eq!((task.priority.map(Int::get), task.timeout_seconds.map(Int::get)), (Some(0), Some(5)));
        assert_eq!((task.max_attempts, beyond.retry.map(|retry| retry.max_attempts)), (None, Some(7)));
    }

    #[test]
    fn faults_of_the_payload_are_named_below_it() {
        let pointer = |text| task(text).expect_err("refused").errors[0].pointer.clone();
        assert_eq!(pointer(r#"{"kind":"task","payload":{"prompt":1}}"#), "/payload/prompt");
        assert_eq!(pointer(r#"{"kind":"task","payload":{}}"#), "/payload/prompt");
        assert_eq!(pointer(r#"{"kind":"task","payload":{"prompt":"x","colour":1}}"#), "/payload/colour");
        assert_eq!(pointer(r#"{"kind":"task","queue":"a b","payload":{"prompt":"x"}}"#), "/queue");
    }
}
