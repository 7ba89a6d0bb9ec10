//! `POST /agent/instances/openclaw-app-callback`

use axum::{
    Json,
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, StatusCode},
};
use errand_common::{
    domain::instance::Instance,
    port::store::{Callback, Received},
    telemetry::trace,
    vault::Purpose,
    wire::{
        callback::Dispatch,
        instance::{CallbackBody, CallbackData},
    },
};
use ring::hmac;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    auth,
    extract::{Params, SignedBody, Wanted},
    problem::{Problem, ProblemBody},
    state::{App, AppState},
    traced,
};

/// Where the signature of the body is.
const SIGNATURE: &str = "x-errand-signature";

/// What a bridge says of a prompt, as it is described to clients.
#[derive(ToSchema)]
#[schema(as = InstanceCallback, rename_all = "camelCase")]
#[expect(dead_code, reason = "described for bridges; `CallbackBody` is read")]
pub(crate) struct Described {
    /// Whether it is answered; absent from pieces.
    ok: Option<bool>,
    /// The answer; may be empty.
    result: Option<String>,
    /// Why there is none.
    error: Option<String>,
    /// The bridge gave it up after its own time.
    is_timeout: Option<bool>,
    /// A piece of the answer, to be shown at once; more follows.
    partial: Option<String>,
    /// The piece's number, from 1 without gaps: one that was taken before is not shown again.
    #[schema(minimum = 1)]
    seq: Option<i64>,
    /// What it cost: `{inputTokens, outputTokens, cacheReadTokens, cacheWriteTokens, costUsd, model}`.
    #[schema(value_type = Option<Object>)]
    usage: Option<serde_json::Value>,
    /// What came with the prompt: `{sessionId, taskId}`.
    #[schema(value_type = Option<Object>)]
    callback_data: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct CallbackRequest(CallbackBody);

impl Wanted for CallbackRequest {}

/// `{"received": true}`
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CallbackReceived {
    /// Always true.
    received: bool,
}

/// Takes what a bridge says of a prompt. Who has the token may: no other credential is asked for.
///
/// `{"received": true}` says that it counts, now or since it came before. Every refusal changes nothing but that the first late
/// callback of a task is noted in its stream.
#[utoipa::path(
    post, path = "/api/v1/agent/instances/openclaw-app-callback", tag = "bridges", request_body = Described,
    params(
        ("token" = String, Query, description = "from the `callbackUrl` of the prompt"),
        ("X-Errand-Signature" = Option<String>, Header, description = "`sha256=` and the HMAC-SHA256 of the body in hex, by the instance's `callbackSecret`, if it has one"),
    ),
    responses(
        (status = 200, body = CallbackReceived),
        (status = 401, description = "`unauthenticated`: the token or the signature is missing or forged", body = ProblemBody, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`: there is no such task, or `callbackData` names another one", body = ProblemBody, content_type = "application/problem+json"),
        (status = 409, description = "`superseded`: the prompt was handed over again since", body = ProblemBody, content_type = "application/problem+json"),
        (status = 410, description = "`too_late`: the task has ended otherwise", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn take_callback(State(app): AppState, request: Request) -> Result<Json<CallbackReceived>, Problem> {
    let (mut parts, body) = request.into_parts();
    let peer = auth::peer(&parts);
    let mut query = Params::from_request_parts(&mut parts, &app).await?;
    let token = query.text("token").unwrap_or_default();
    let Some(dispatch) = Dispatch::verified(&token, &app.backend.vault) else {
        let detail = "The token of this callback is missing, or was not made here: post to the whole callbackUrl";
        return Err(app.auth.refuse_callback(peer, detail));
    };
    let headers = parts.headers.clone();
    let request = Request::from_parts(parts, body);
    let SignedBody { value: CallbackRequest(said), bytes } = SignedBody::read(request, &app).await?;
    let unknown = || Problem::not_found("Task");
    // An instance that is gone has no unfinished tasks: nothing is left to be decided, and the store says what was.
    let instance = app.backend.store.instance_of(&dispatch.tenant, dispatch.job_id).await?;
    if let Some(instance) = instance
        && !is_signed(&app, &instance, &headers, &bytes)?
    {
        let detail = "This instance signs its callbacks: X-Errand-Signature is missing or wrong";
        return Err(app.auth.refuse_callback(peer, detail));
    }
    if !is_about(said.callback_data.as_ref(), &dispatch) {
        return Err(unknown());
    }
    if said.seq.is_some_and(|seq| seq < 1) {
        return Err(Problem::field("/seq", "must be 1 or more"));
    }
    let locale = app.config.texts.locale;
    let said = said
        .said(locale.bridge_timed_out(), locale.bridge_failed())
        .ok_or_else(|| Problem::field("/ok", "must be true or false; only a piece, with partial, goes without it"))?;
    let Dispatch { tenant, job_id, ordinal } = dispatch;
    // Where nobody hears of it, its job need not be read.
    let job = if trace::is_recording() { app.backend.store.job(&tenant, job_id).await.ok().flatten() } else { None };
    let mut span = job.map(|job| traced::callback(&job, ordinal));
    let received = app.callbacks.enter(Callback { tenant, job_id, ordinal, said }).await?;
    if let Some(span) = &mut span {
        traced::received(span, received);
    }
    match received {
        Received::Accepted | Received::Repeated => Ok(Json(CallbackReceived { received: true })),
        Received::Unknown => Err(unknown()),
        Received::Superseded => {
            let detail = "The prompt was handed over again since, under another key; that one counts";
            Err(Problem::new(StatusCode::CONFLICT, "superseded", detail))
        }
        Received::Late => {
            let detail = "The task has ended; this was noted, and changes nothing";
            Err(Problem::new(StatusCode::GONE, "too_late", detail))
        }
    }
}

/// Whether the body was signed as the instance wants it; in constant time.
fn is_signed(app: &App, instance: &Instance, headers: &HeaderMap, body: &[u8]) -> Result<bool, Problem> {
    let Some(sealed) = &instance.callback_secret else { return Ok(true) };
    let secret = app.backend.vault.open(Purpose::CallbackSecret(instance.id), sealed).map_err(|error| {
        tracing::error!(instance_id = %instance.id, %error, "the secret of an instance's callbacks can't be opened");
        Problem::internal()
    })?;
    let given = headers.get(SIGNATURE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let Some(given) = given.strip_prefix("sha256=").and_then(bytes_of) else { return Ok(false) };
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    Ok(hmac::verify(&key, body, &given).is_ok())
}

/// Bytes from hex.
fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    digits.chunks(2).map(byte).collect()
}

/// A body that speaks of another task than its token was meant for somebody else.
fn is_about(data: Option<&CallbackData>, dispatch: &Dispatch) -> bool {
    let named = data.and_then(|data| data.task_id.as_deref());
    named.is_none_or(|task| task.is_empty() || task == dispatch.job_id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_read_and_nothing_else() {
        assert_eq!(bytes_of("00ffA1"), Some(vec![0, 255, 161]));
        for text in ["0", "0g", "+1", "é"] {
            assert_eq!(bytes_of(text), None, "{text}");
        }
    }
}
