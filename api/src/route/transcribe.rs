//! `POST /agent/transcribe`

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    auth::{Permit, Write},
    idempotency::{IdempotencyKey, replayed},
    problem::{Problem, ProblemBody},
    state::AppState,
    transcription::{AudioForm, Upload},
};

/// What was said.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Transcript {
    /// Without white space around it; empty if nothing was heard.
    text: String,
}

/// Turns speech into text, and does nothing with it.
#[utoipa::path(
    post, path = "/api/v1/agent/transcribe", tag = "voice",
    request_body(content = AudioForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, body = Transcript),
        (status = 409, description = "`idempotency_in_flight`: the same key is being worked on", body = ProblemBody, content_type = "application/problem+json"),
        (status = 413, description = "`audio_too_large`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 502, description = "`transcription_failed`: the transcription server did not do it", body = ProblemBody, content_type = "application/problem+json"),
        (status = 503, description = "`transcription_unavailable`: none is configured, or it is away; `transcription_busy`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn transcribe(
    State(app): AppState,
    caller: Permit<Write>,
    key: IdempotencyKey,
    upload: Upload,
) -> Result<Response, Problem> {
    let begun = key.begin(&app, &caller).await?;
    if begun.is_answered() {
        let form = upload.digest(&app.transcriber).await?;
        let (_, stored) = begun.known(&caller, form.digest)?;
        let answer = stored.ok_or_else(Problem::internal)?.answer;
        return Ok(replayed(Json(answer).into_response()));
    }
    let heard = upload.hear(&app.transcriber).await?;
    let answer = json!(Transcript { text: heard.text.unwrap_or_default() });
    let (bound, _) = begun.known(&caller, heard.digest)?;
    let Some(bound) = bound else { return Ok(Json(answer).into_response()) };
    match app.backend.store.remember(bound.record(&app, StatusCode::OK, answer.clone())).await? {
        // Another process was faster.
        Some(stored) => Ok(replayed(Json(bound.same_request(stored)?.answer).into_response())),
        None => Ok(Json(answer).into_response()),
    }
}
