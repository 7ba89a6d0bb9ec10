//! From a request to an `instance_task`; and who may use an instance.

use axum::http::StatusCode;
use errand_common::{
    domain::{InstanceId, Job, JobId, OnBusy, RetryPolicy, Session, SessionId, instance::Instance},
    port::store::{Interruption, NewJob, NewTask},
    wire::{
        callback,
        instance::{ENGINE, InstanceTaskPayload, KIND, VERSION},
    },
};

use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    auth::Caller,
    extract::{Int, decode},
    job::{self, JobRequest},
    problem::{Faults, Problem},
    state::App,
    task::{none_if_empty, on_busy, title},
    view::schema,
};

/// Where prompts for instances go.
const QUEUE: &str = "default";

/// The instance, if it is there and this caller's to use.
pub(crate) async fn own(app: &App, caller: &Caller, id: InstanceId) -> Result<Instance, Problem> {
    let instance = app.backend.store.instance(&caller.tenant, id).await?;
    let instance = instance.ok_or_else(|| Problem::no_such("Instance", id))?;
    match (&instance.user_id, caller.confined_to()) {
        (Some(owner), Some(user)) if owner != user => {
            Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "Instance does not belong to you"))
        }
        _ => Ok(instance),
    }
}

/// The same, if it takes prompts.
pub(crate) async fn fit(app: &App, caller: &Caller, id: InstanceId) -> Result<Instance, Problem> {
    let instance = own(app, caller, id).await?;
    match instance.unfit() {
        None => Ok(instance),
        Some(why) => Err(Problem::new(StatusCode::BAD_REQUEST, "instance_not_ready", why)),
    }
}

/// The input of an `instance_task`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct InstanceTaskInput {
    /// Whose bridge answers.
    #[schema(schema_with = schema::uuid)]
    instance_id: InstanceId,
    /// What to do; not blank.
    #[schema(min_length = 1)]
    prompt: String,
    /// The conversation with this instance to go on with. One that is unknown, closed, or with another, opens a new one.
    #[serde(default, deserialize_with = "none_if_empty")]
    #[schema(schema_with = schema::uuid)]
    session_id: Option<SessionId>,
    /// What to do if the conversation is busy; `enqueue` if absent.
    #[serde(default, deserialize_with = "on_busy")]
    #[schema(schema_with = schema::on_busy)]
    on_busy: Option<OnBusy>,
    /// How long its bridge may take to call back, in seconds; `bridges.callback_seconds` if absent.
    #[schema(inline)]
    callback_seconds: Option<Int<1, 86_400>>,
}

/// The job of a body of `POST /jobs`, with every fault of the request found.
pub(crate) async fn of_request(app: &App, caller: &Caller, request: JobRequest) -> Result<NewJob, Problem> {
    let payload = serde_json::to_vec(&request.payload).map_err(|_| Problem::internal())?;
    let input: InstanceTaskInput = decode(&payload).map_err(|problem| problem.below("/payload"))?;
    let mut faults = Faults::default();
    faults.check(!input.prompt.trim().is_empty(), "/payload/prompt", || "must not be blank".to_owned());
    job::check_queue(request.queue.as_deref(), &mut faults);
    let ends = [("/expires_at", request.expires_at), ("/deadline", request.deadline)];
    job::check_times(("/run_at", request.run_at), ends, app.now(), &mut faults);
    job::check_metadata(request.metadata.as_ref(), "/metadata", &mut faults);
    let absent = request.timeout_seconds.is_none();
    faults.check(absent, "/timeout_seconds", || "must be absent: say callbackSeconds in the payload".to_owned());
    faults.finish()?;
    let instance = fit(app, caller, input.instance_id).await?;
    let prompt = Prompt {
        text: input.prompt,
        session_id: input.session_id,
        on_busy: input.on_busy.unwrap_or(OnBusy::Enqueue),
        interruption: Interruption::Task,
        callback_seconds: input.callback_seconds.map(Int::as_u32),
    };
    let made = new_job(app, caller, &instance, prompt)?;
    Ok(NewJob {
        queue: request.queue.unwrap_or(made.queue),
        priority: request.priority.and_then(|p| u8::try_from(p.get()).ok()?.try_into().ok()).unwrap_or_default(),
        run_at: request.run_at,
        expires_at: request.expires_at,
        deadline: request.deadline,
        retry: request.retry.map_or(RetryPolicy::HTTP, |retry| retry.over(RetryPolicy::HTTP)),
        metadata: request.metadata.map(Value::Object),
        ..made
    })
}

/// What a prompt brings beside its text.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    pub(crate) text: String,
    pub(crate) session_id: Option<SessionId>,
    pub(crate) on_busy: OnBusy,
    pub(crate) interruption: Interruption,
    /// How long its callback is waited for.
    pub(crate) callback_seconds: Option<u32>,
}

/// The job of a prompt for an instance.
pub(crate) fn new_job(app: &App, caller: &Caller, instance: &Instance, prompt: Prompt) -> Result<NewJob, Problem> {
    let Prompt { text, session_id, on_busy, interruption, callback_seconds } = prompt;
    let payload = InstanceTaskPayload {
        instance_id: instance.id,
        prompt: text,
        callback_seconds: callback_seconds.unwrap_or(app.config.bridges.callback_seconds),
        callback_url: format!("{}{}", app.config.server.callback_base(), callback::PATH),
        session_prefix: app.config.bridges.session_prefix.clone(),
    };
    Ok(NewJob {
        id: JobId::new(),
        tenant: caller.tenant.clone(),
        kind: KIND.to_owned(),
        queue: QUEUE.to_owned(),
        priority: errand_common::domain::Priority::default(),
        payload: serde_json::to_value(&payload).map_err(|_| Problem::internal())?,
        payload_version: VERSION,
        retry: RetryPolicy::HTTP,
        timeout_ms: None,
        run_at: None,
        expires_at: None,
        deadline: None,
        metadata: None,
        retry_of: None,
        user_id: caller.as_user().map(|user| user.id.clone()),
        dedup: None,
        children: Vec::new(),
        task: Some(joins(&payload, session_id, on_busy, interruption)),
        coordination: None,
        webhook: None,
        trace: None,
    })
}

fn joins(
    payload: &InstanceTaskPayload,
    session_id: Option<SessionId>,
    on_busy: OnBusy,
    interruption: Interruption,
) -> NewTask {
    NewTask {
        session_id,
        fresh: SessionId::new(),
        engine: ENGINE.to_owned(),
        system_prompt: None,
        title: title(&payload.prompt, false),
        prompt: payload.prompt.clone(),
        voice_mode: false,
        on_busy,
        attachments: Vec::new(),
        metered: false,
        interruption,
        instance_id: Some(payload.instance_id),
    }
}

/// The job with which the user goes on in a conversation with an instance, whatever runs there.
pub(crate) async fn interrupting(
    app: &App,
    caller: &Caller,
    session: Session,
    id: InstanceId,
    (text, interruption): (String, Interruption),
) -> Result<NewJob, Problem> {
    let instance = fit(app, caller, id).await?;
    let on_busy = OnBusy::Interrupt;
    let prompt = Prompt { text, session_id: Some(session.id), on_busy, interruption, callback_seconds: None };
    let mut job = new_job(app, caller, &instance, prompt)?;
    // Whoever may see the conversation may go on with it; it stays its user's.
    job.user_id = session.user_id;
    Ok(job)
}

/// The job that repeats one, in the same conversation: the bridge is given the prompt anew.
pub(crate) fn repeat(job: &Job) -> Result<NewJob, Problem> {
    let payload: InstanceTaskPayload = serde_json::from_value(job.payload.clone()).map_err(|error| {
        tracing::error!(job_id = %job.id, %error, "a stored task of an instance can't be read");
        Problem::internal()
    })?;
    // A repetition is no new word of the user's: it waits rather than cut off what runs.
    let task = joins(&payload, job.session_id, OnBusy::Enqueue, Interruption::Task);
    Ok(NewJob { task: Some(task), ..job::repeat_plain(job) })
}
