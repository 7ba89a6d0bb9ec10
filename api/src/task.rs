//! From a request to a task: the same checks whichever route it came by.

use errand_common::{
    domain::{AttachmentRef, Job, JobId, OnBusy, RetryPolicy, SessionId, Timestamp},
    port::store::{Interruption, NewJob, NewTask},
    wire::{
        engine::EngineInfo,
        task::{KIND, TaskPayload, VERSION, default_max_context_messages, default_max_turns},
    },
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::{
    attachment::{self, Attachment},
    auth::Caller,
    budget::BudgetRequest,
    engines::Known,
    extract::{Int, Wanted},
    intake::Intake,
    job, limit,
    problem::{Faults, Problem},
    view::schema,
    webhook::WebhookTarget,
};

/// One prompt for an engine. Unknown fields are ignored.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TaskRequest {
    /// What to do; not blank.
    #[schema(example = "Summarise the open issues", min_length = 1)]
    pub(crate) prompt: String,
    /// The conversation to go on with. One that is unknown or closed opens a new one.
    #[serde(default, deserialize_with = "none_if_empty")]
    #[schema(schema_with = schema::uuid)]
    pub(crate) session_id: Option<SessionId>,
    /// For the engine.
    pub(crate) system_prompt: Option<String>,
    /// Bounds the engine's rounds; 10 if absent.
    #[schema(inline)]
    pub(crate) max_turns: Option<Int<1, 1000>>,
    /// Tools that need no approval; at most 256.
    pub(crate) allowed_tools: Option<Vec<String>>,
    /// One of `GET /agent/engines`; the default engine if absent.
    #[serde(default, deserialize_with = "none_if_empty")]
    pub(crate) engine_type: Option<String>,
    /// How many messages of the conversation the engine is given; 20 if absent.
    #[schema(inline)]
    pub(crate) max_context_messages: Option<Int<0, 1000>>,
    /// Asked by voice.
    pub(crate) voice_mode: Option<bool>,
    /// Images and documents, at most 20, for an engine whose capabilities have `attachments`. All of them together, decoded, may
    /// take `server.attachment_limit_mib`.
    pub(crate) attachments: Option<Vec<Attachment>>,
    /// What to do if the conversation is busy; `interrupt` if absent.
    #[serde(default, deserialize_with = "on_busy")]
    #[schema(schema_with = schema::on_busy)]
    pub(crate) on_busy: Option<OnBusy>,
    /// 0 first, 3 last; 2 if absent.
    #[schema(inline)]
    pub(crate) priority: Option<Int<0, 3>>,
    /// Not before; now if absent or past. At most ten years ahead.
    #[schema(schema_with = schema::time)]
    pub(crate) run_at: Option<Timestamp>,
    /// Expires if not started by then; must lie in the future, at most ten years ahead.
    #[schema(schema_with = schema::time)]
    pub(crate) expires_at: Option<Timestamp>,
    /// Bounds one attempt; 1800 if absent.
    #[schema(inline)]
    pub(crate) timeout_seconds: Option<Int<1, 86_400>>,
    /// No attempt beyond this one; 3 if absent.
    #[schema(inline)]
    pub(crate) max_attempts: Option<Int<1, 100>>,
    /// Who is told of its end, beside the tenant's endpoints.
    pub(crate) webhook: Option<WebhookTarget>,
    /// What the task may spend.
    pub(crate) budget: Option<BudgetRequest>,
    /// The client's own; an object of at most 16 KiB.
    #[schema(value_type = Option<Object>)]
    pub(crate) metadata: Option<Map<String, Value>>,
}

/// An empty text is how some clients say that they have none.
pub(crate) fn none_if_empty<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let given = Option::<Value>::deserialize(deserializer)?.filter(|value| !value.is_null() && value != "");
    given.map(|value| serde_json::from_value(value).map_err(D::Error::custom)).transpose()
}

/// Names what is allowed, whatever else was given.
pub(crate) fn on_busy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OnBusy>, D::Error> {
    let given = Option::<Value>::deserialize(deserializer)?.filter(|value| !value.is_null());
    let Some(given) = given else { return Ok(None) };
    given.as_str().and_then(|name| name.parse().ok()).map(Some).ok_or_else(|| {
        let known: Vec<_> = OnBusy::ALL.iter().map(|value| value.as_str()).collect();
        D::Error::custom(format_args!("must be one of {}", known.join(", ")))
    })
}

impl Wanted for TaskRequest {
    const ATTACHMENTS: bool = true;
}

/// Every field of a [`TaskRequest`], for routes that refuse others.
pub(crate) const FIELDS: &[&str] = &[
    "prompt",
    "sessionId",
    "systemPrompt",
    "maxTurns",
    "allowedTools",
    "engineType",
    "maxContextMessages",
    "voiceMode",
    "attachments",
    "onBusy",
    "priority",
    "runAt",
    "expiresAt",
    "timeoutSeconds",
    "maxAttempts",
    "webhook",
    "budget",
    "metadata",
];

/// What only `POST /jobs` can say of a task.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beyond {
    /// Where the engine's queue isn't wanted.
    pub(crate) queue: Option<String>,
    /// Ends by then.
    pub(crate) deadline: Option<Timestamp>,
    /// How it is retried.
    pub(crate) retry: Option<RetryPolicy>,
}

/// The job of a task, with every fault of the request found. `at` is where the request lies in the body.
pub(crate) fn new_job(
    intake: &mut Intake<'_>,
    mut request: TaskRequest,
    beyond: Beyond,
    at: &str,
) -> Result<NewJob, Problem> {
    let now = intake.app.now();
    let mut faults = Faults::default();
    check_content(&request, at, &mut faults);
    check_times(&request, beyond.deadline, now, at, &mut faults);
    let engine = match intake.engine(request.engine_type.as_deref(), &format!("{at}/engineType")) {
        Ok(engine) => Some(engine),
        Err(problem) if problem.errors.is_empty() => return Err(problem),
        Err(problem) => {
            for error in problem.errors {
                faults.add(error.pointer, error.detail);
            }
            None
        }
    };
    let webhook = match request.webhook.take().map(|target| target.judge(intake.app, &format!("{at}/webhook"))) {
        Some(Ok(webhook)) => Some(webhook),
        Some(Err(problem)) => {
            for error in problem.errors {
                faults.add(error.pointer, error.detail);
            }
            None
        }
        None => None,
    };
    let attachments = request.attachments.take().unwrap_or_default();
    let pointer = format!("{at}/attachments");
    match &engine {
        Some(engine) if !attachments.is_empty() && engine.capabilities["attachments"] != true => {
            faults.add(&pointer, format!("must be empty: engine {:?} takes no attachments", engine.name));
        }
        _ => attachment::check(intake.app, &attachments, &pointer, &mut faults)?,
    }
    faults.finish()?;
    let engine = engine.ok_or_else(Problem::internal)?;
    let attachments = intake.attach(attachments);
    Ok(NewJob { webhook, ..assemble(intake.caller, &engine, request, attachments, beyond) })
}

fn check_content(request: &TaskRequest, at: &str, faults: &mut Faults) {
    faults.check(!request.prompt.trim().is_empty(), &format!("{at}/prompt"), || "must not be blank".to_owned());
    let tools = request.allowed_tools.as_deref().unwrap_or_default();
    faults.check(tools.len() <= limit::ALLOWED_TOOLS, &format!("{at}/allowedTools"), || {
        format!("may name {} tools at most", limit::ALLOWED_TOOLS)
    });
    for (index, tool) in tools.iter().enumerate().take(limit::ALLOWED_TOOLS) {
        let fits = !tool.is_empty() && tool.chars().count() <= limit::NAME_CHARS;
        faults.check(fits, &format!("{at}/allowedTools/{index}"), || {
            format!("must be 1 to {} characters", limit::NAME_CHARS)
        });
    }
    if let Some(budget) = &request.budget {
        budget.check(&format!("{at}/budget"), faults);
    }
    job::check_metadata(request.metadata.as_ref(), &format!("{at}/metadata"), faults);
}

fn check_times(request: &TaskRequest, deadline: Option<Timestamp>, now: Timestamp, at: &str, faults: &mut Faults) {
    let (run_at, expires_at) = (format!("{at}/runAt"), format!("{at}/expiresAt"));
    let ends = [(expires_at.as_str(), request.expires_at), ("/deadline", deadline)];
    job::check_times((&run_at, request.run_at), ends, now, faults);
}

fn assemble(
    caller: &Caller,
    engine: &EngineInfo,
    request: TaskRequest,
    attachments: Vec<AttachmentRef>,
    beyond: Beyond,
) -> NewJob {
    let payload = TaskPayload {
        prompt: request.prompt.clone(),
        engine_type: engine.name.clone(),
        system_prompt: request.system_prompt.clone(),
        max_turns: request.max_turns.map_or_else(default_max_turns, Int::as_u32),
        allowed_tools: request.allowed_tools.unwrap_or_default(),
        max_context_messages: request.max_context_messages.map_or_else(default_max_context_messages, Int::as_u32),
        voice_mode: request.voice_mode.unwrap_or_default(),
        attachments: attachments.clone(),
        user: caller.as_user().cloned(),
        budget: request.budget.map(BudgetRequest::keep),
    };
    let mut retry = beyond.retry.unwrap_or(RetryPolicy::TASK);
    if let Some(max_attempts) = request.max_attempts {
        retry.max_attempts = max_attempts.as_u32();
    }
    let timeout_seconds = request.timeout_seconds.map_or(limit::TASK_TIMEOUT_SECONDS, Int::get);
    NewJob {
        id: JobId::new(),
        tenant: caller.tenant.clone(),
        kind: KIND.to_owned(),
        queue: beyond.queue.unwrap_or_else(|| engine.queue.clone()),
        priority: request.priority.and_then(|p| u8::try_from(p.get()).ok()?.try_into().ok()).unwrap_or_default(),
        // A payload of ours always serialises: it has string keys only.
        payload: serde_json::to_value(&payload).unwrap_or_default(),
        payload_version: VERSION,
        retry,
        timeout_ms: Some(timeout_seconds * 1_000),
        run_at: request.run_at,
        expires_at: request.expires_at,
        deadline: beyond.deadline,
        metadata: request.metadata.map(Value::Object),
        retry_of: None,
        user_id: caller.as_user().map(|user| user.id.clone()),
        dedup: None,
        children: Vec::new(),
        task: Some(NewTask {
            session_id: request.session_id,
            fresh: SessionId::new(),
            engine: engine.name.clone(),
            system_prompt: request.system_prompt,
            title: title(&request.prompt, payload.voice_mode),
            prompt: request.prompt,
            voice_mode: payload.voice_mode,
            on_busy: request.on_busy.unwrap_or_default(),
            attachments,
            metered: engine.capabilities["metered"] == true,
            interruption: Interruption::Task,
            instance_id: None,
        }),
        coordination: None,
        webhook: None,
        trace: None,
    }
}

/// The title of the session a task opens: the beginning of its prompt, and nothing for what was said by voice.
pub(crate) fn title(prompt: &str, voice_mode: bool) -> String {
    const CHARS: usize = 40;
    if voice_mode { String::new() } else { prompt.chars().take(CHARS).collect::<String>().trim().to_owned() }
}

/// The job that repeats a task, in the same conversation.
pub(crate) fn repeat(known: &Known, job: &Job) -> Result<NewJob, Problem> {
    let payload: TaskPayload = serde_json::from_value(job.payload.clone()).map_err(|error| {
        tracing::error!(job_id = %job.id, %error, "a stored task can't be read");
        Problem::internal()
    })?;
    Ok(NewJob {
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
        task: Some(NewTask {
            session_id: job.session_id,
            fresh: SessionId::new(),
            metered: known.metered(&payload.engine_type),
            engine: payload.engine_type,
            system_prompt: payload.system_prompt,
            title: title(&payload.prompt, payload.voice_mode),
            prompt: payload.prompt,
            voice_mode: payload.voice_mode,
            // A repetition is no new word of the user's: it waits rather than cut off what runs.
            on_busy: OnBusy::Enqueue,
            attachments: payload.attachments,
            interruption: Interruption::Task,
            instance_id: None,
        }),
        coordination: None,
        webhook: None,
        trace: Some(job.trace_context()),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::extract::decode;

    pub(crate) fn any_job() -> NewJob {
        let engine = EngineInfo {
            name: "echo".into(),
            engine_type: "echo".into(),
            available: true,
            reason: None,
            queue: "default".into(),
            capabilities: Value::Null,
        };
        assemble(&Caller::key_for_tests(&[]), &engine, request(r#"{"prompt":"hello"}"#), Vec::new(), Beyond::default())
    }

    fn request(text: &str) -> TaskRequest {
        decode(text.as_bytes()).expect("a task")
    }

    fn faults(text: &str, now: Timestamp) -> Vec<String> {
        let (request, mut faults) = (request(text), Faults::default());
        check_content(&request, "", &mut faults);
        check_times(&request, None, now, "", &mut faults);
        faults.finish().map_or_else(|problem| problem.errors.into_iter().map(|e| e.pointer).collect(), |()| Vec::new())
    }

    #[test]
    fn what_the_client_left_out_gets_the_documented_default() {
        let job = any_job();
        assert_eq!((job.timeout_ms, job.priority.get(), job.retry.max_attempts), (Some(1_800_000), 2, 3));
        assert_eq!(job.payload["maxTurns"], 10);
        assert_eq!(job.task.expect("a task").on_busy, OnBusy::Interrupt);
    }

    #[test]
    fn every_fault_of_a_task_is_named() {
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        assert_eq!(faults(r#"{"prompt":" \n "}"#, now), ["/prompt"]);
        assert_eq!(faults(r#"{"prompt":"x","expiresAt":"2020-01-01T00:00:00Z"}"#, now), ["/expiresAt"]);
        assert_eq!(faults(r#"{"prompt":"x","expiresAt":"2400-01-01T00:00:00Z"}"#, now), ["/expiresAt"]);
        assert_eq!(faults(r#"{"prompt":"x","allowedTools":["a",""]}"#, now), ["/allowedTools/1"]);
        assert_eq!(faults(r#"{"prompt":"x","budget":{"maxCostUsd":-1}}"#, now), ["/budget/maxCostUsd"]);
        let metadata = format!(r#"{{"prompt":"x","metadata":{{"a":"{}"}}}}"#, "b".repeat(limit::METADATA_BYTES));
        assert_eq!(faults(&metadata, now), ["/metadata"]);
    }

    #[test]
    fn a_start_in_the_past_means_now_and_one_too_far_ahead_is_refused() {
        let now = Timestamp::from_micros(1_800_000_000_000_000);
        assert!(faults(r#"{"prompt":"x","runAt":"2020-01-01T00:00:00Z"}"#, now).is_empty());
        assert_eq!(faults(r#"{"prompt":"x","runAt":"2400-01-01T00:00:00Z"}"#, now), ["/runAt"]);
    }

    #[test]
    fn the_list_of_fields_is_that_of_the_schema() {
        let schema = serde_json::to_value(<TaskRequest as utoipa::PartialSchema>::schema()).expect("json");
        let mut described: Vec<_> = schema["properties"].as_object().expect("fields").keys().cloned().collect();
        let mut listed = FIELDS.to_vec();
        described.sort();
        listed.sort_unstable();
        assert_eq!(described, listed);
    }

    #[test]
    fn an_empty_session_or_engine_is_none() {
        let empty = request(r#"{"prompt":"x","sessionId":"","engineType":""}"#);
        assert!(empty.session_id.is_none() && empty.engine_type.is_none());
        assert!(decode::<TaskRequest>(br#"{"prompt":"x","sessionId":" "}"#).is_err());
    }

    #[test]
    fn a_title_is_the_beginning_of_the_prompt_and_nothing_for_voice() {
        assert_eq!(title("  hello world", false), "hello world");
        assert_eq!(title(&"ä".repeat(200), false).chars().count(), 40);
        assert_eq!(title("hello", true), "");
    }
}
