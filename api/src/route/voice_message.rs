//! `POST /agent/sessions/{id}/voice-message`

use axum::{
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, request::Parts},
    response::Response,
};
use errand_common::{
    domain::{JobId, Session, SessionId, SessionStatus},
    port::store::{Interruption, NewJob},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::{Caller, Permit, Write},
    extract::Prefer,
    idempotency::IdempotencyKey,
    instance,
    intake::Intake,
    problem::{Problem, ProblemBody},
    scope,
    state::{App, AppState},
    submission,
    task::{self, Beyond, TaskRequest},
    transcription::{AudioForm, Upload},
    view::{TaskView, schema},
};

/// A conversation that may not be there yet.
const NEW: &str = "new";

/// The `{id}` of the path: a session's, or `new`.
#[derive(Debug)]
pub(crate) struct SessionOrNew(Option<SessionId>);

impl<S: Send + Sync> FromRequestParts<S> for SessionOrNew {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let malformed = || Problem::field("path:id", "must be `new`, or a UUID");
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| malformed())?;
        if text == NEW { Ok(Self(None)) } else { text.parse().map(|id| Self(Some(id))).map_err(|_| malformed()) }
    }
}

/// A voice message as taken in.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VoiceAccepted {
    /// Its conversation.
    #[schema(schema_with = schema::uuid_or_null)]
    session_id: Option<SessionId>,
    /// The task that answers it; the job's id too.
    #[schema(schema_with = schema::uuid)]
    task_id: JobId,
    /// What was heard, without white space around it.
    transcript: String,
}

/// Says something by voice: the transcript becomes the prompt of a task, which interrupts the conversation's running one.
///
/// The task runs on the conversation's engine with its system prompt, 10 turns, 20 messages of context and no tools that need no
/// approval. An id that is `new`, unknown, another's or closed opens a conversation. Answers 202 once the task is durable; with
/// `Prefer: wait=N`, 200 with the finished task if it ends in time.
#[utoipa::path(
    post, path = "/api/v1/agent/sessions/{id}/voice-message", tag = "voice",
    params(
        ("id" = String, Path, description = "a session's id, or `new`"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`, N from 1 to 60 seconds: hold the answer until the task has ended"),
    ),
    request_body(content = AudioForm, content_type = "multipart/form-data"),
    responses(
        (status = 202, description = "Taken in; the work goes on", body = VoiceAccepted),
        (status = 200, description = "Ended in time, well or badly", body = TaskView),
        (status = 400, description = "`empty_transcript`: nothing was heard, or the form is wrong", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`idempotency_in_flight`: the same key is being worked on", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "`audio_too_large`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 502, description = "`transcription_failed`: the transcription server did not do it", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "`transcription_unavailable`: none is configured, or it is away; `transcription_busy`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn send_voice_message(
    State(app): AppState,
    caller: Permit<Write>,
    key: IdempotencyKey,
    prefer: Prefer,
    SessionOrNew(session): SessionOrNew,
    upload: Upload,
) -> Result<Response, Problem> {
    let begun = key.begin(&app, &caller).await?;
    let transcriber = &app.transcriber;
    let heard = if begun.is_answered() { upload.digest(transcriber).await? } else { upload.hear(transcriber).await? };
    let (key, _) = begun.known(&caller, heard.digest)?;
    let said = heard.text.unwrap_or_default();
    let accepted =
        submission::submit(&app, &caller, key.as_ref(), async || new_job(&app, &caller, session, &said).await).await?;
    let transcript = if accepted.replayed { prompt_of(&app, &caller, accepted.id).await? } else { said.clone() };
    let taken = VoiceAccepted { session_id: accepted.session_id, task_id: accepted.id, transcript };
    submission::answer(&app, &caller, &accepted, prefer, taken, async |job| Ok(TaskView::new(job))).await
}

async fn new_job(app: &App, caller: &Caller, id: Option<SessionId>, said: &str) -> Result<NewJob, Problem> {
    if said.is_empty() {
        let detail = "Could not transcribe audio — empty result";
        return Err(
            Problem::new(StatusCode::BAD_REQUEST, "empty_transcript", detail).with("form:audio", "must hold speech")
        );
    }
    let session = match id {
        Some(id) => scope::session(app, caller, id).await?,
        None => None,
    };
    let session = session.filter(|session| session.status == SessionStatus::Active);
    if let Some(session) = &session
        && let Some(instance) = session.instance_id
    {
        let said = (said.to_owned(), Interruption::Voice);
        return instance::interrupting(app, caller, session.clone(), instance, said).await;
    }
    let mut intake = Intake::open(app, caller).await?;
    let goes_on = session.as_ref().map(|session| session.user_id.clone());
    let mut job = task::new_job(&mut intake, request(session, said), Beyond::default(), "")?;
    if let Some(user_id) = goes_on {
        // Whoever may see the conversation may go on with it; it stays its user's.
        job.user_id = user_id;
    }
    if let Some(task) = &mut job.task {
        task.interruption = Interruption::Voice;
        // Only what was typed names a conversation.
        task.title = String::new();
    }
    Ok(job)
}

fn request(session: Option<Session>, said: &str) -> TaskRequest {
    let spoken = TaskRequest { prompt: said.to_owned(), ..TaskRequest::default() };
    match session {
        None => spoken,
        Some(session) => TaskRequest {
            session_id: Some(session.id),
            engine_type: Some(session.engine),
            system_prompt: session.system_prompt,
            ..spoken
        },
    }
}

/// What was heard when the key was first used.
async fn prompt_of(app: &App, caller: &Caller, id: JobId) -> Result<String, Problem> {
    let job = app.backend.store.job(&caller.tenant, id).await?.ok_or_else(|| Problem::no_such("Task", id))?;
    Ok(job.payload["prompt"].as_str().unwrap_or_default().to_owned())
}
