//! A server that speaks audio transcription as scripted, on loopback; and the form that clients send.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Multipart, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use reqwest::RequestBuilder;
use serde_json::json;
use tokio::sync::oneshot;

use crate::fake_answer::Gate;

/// One answer.
#[derive(Clone, Debug)]
pub enum Hearing {
    /// This was said.
    Text(&'static str),
    /// The same, once the gate is open.
    Gated(Gate, &'static str),
    /// A status with an error of this code.
    Status(u16, &'static str),
}

/// A form as it came.
#[derive(Clone, Debug, Default)]
pub struct Form {
    /// The `Authorization` header.
    pub authorization: String,
    /// Its `traceparent`.
    pub traceparent: String,
    /// The fields that are no file.
    pub fields: BTreeMap<String, String>,
    /// Name of the file.
    pub file_name: String,
    /// Its media type.
    pub media_type: String,
    /// Its content.
    pub audio: Vec<u8>,
}

#[derive(Debug, Default)]
struct Script {
    hearings: VecDeque<Hearing>,
    forms: Vec<Form>,
}

type Shared = Arc<Mutex<Script>>;

/// The server. Dropping it stops it.
#[derive(Debug)]
pub struct FakeTranscription {
    address: SocketAddr,
    script: Shared,
    _stop: oneshot::Sender<Infallible>,
}

impl FakeTranscription {
    /// Starts it. Beyond the script it hears `hello there`.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(hearings: impl IntoIterator<Item = Hearing>) -> Self {
        let script = Shared::default();
        lock(&script).hearings.extend(hearings);
        let router = Router::new()
            .route("/v1/audio/transcriptions", post(answer))
            .layer(DefaultBodyLimit::disable())
            .with_state(script.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<Infallible>();
        tokio::spawn(async move {
            tokio::select! {
                served = async { axum::serve(listener, router).await } => served.expect("the fake serves"),
                _ = stopped => {}
            }
        });
        Self { address, script, _stop: stop }
    }

    /// The lines of `[transcription]` that name it.
    #[must_use]
    pub fn settings(&self) -> String {
        format!("base_url = \"http://{}/v1\"\nmodel = \"fake-whisper\"", self.address)
    }

    /// The whole forms so far.
    #[must_use]
    pub fn forms(&self) -> Vec<Form> {
        lock(&self.script).forms.clone()
    }
}

fn lock(script: &Shared) -> std::sync::MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(script): State<Shared>, headers: HeaderMap, mut parts: Multipart) -> Response {
    let mut form = Form::default();
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    (form.authorization, form.traceparent) = (header("authorization"), header("traceparent"));
    loop {
        let Ok(part) = parts.next_field().await else { return StatusCode::BAD_REQUEST.into_response() };
        let Some(part) = part else { break };
        let name = part.name().unwrap_or_default().to_owned();
        let file = part.file_name().map(str::to_owned);
        let media_type = part.content_type().unwrap_or_default().to_owned();
        let Ok(content) = part.bytes().await else { return StatusCode::BAD_REQUEST.into_response() };
        match file {
            Some(file_name) => {
                (form.file_name, form.media_type, form.audio) = (file_name, media_type, content.to_vec());
            }
            None => drop(form.fields.insert(name, String::from_utf8_lossy(&content).into_owned())),
        }
    }
    let hearing = {
        let mut script = lock(&script);
        script.forms.push(form);
        script.hearings.pop_front().unwrap_or(Hearing::Text("hello there"))
    };
    match hearing {
        Hearing::Text(text) => Json(json!({ "text": text })).into_response(),
        Hearing::Gated(gate, text) => {
            gate.pass().await;
            Json(json!({ "text": text })).into_response()
        }
        Hearing::Status(status, code) => {
            let status = StatusCode::from_u16(status).expect("a status");
            (status, Json(json!({"error": {"message": "as scripted", "code": code}}))).into_response()
        }
    }
}

/// A field of a form: its name, the file's name and type if it is one, and its content.
pub type Field<'a> = (&'a str, Option<(&'a str, &'a str)>, &'a [u8]);

/// Gives a request a form.
pub fn with_form(request: RequestBuilder, fields: &[Field<'_>]) -> RequestBuilder {
    const BOUNDARY: &str = "a-boundary-of-the-tests";
    let mut body = Vec::new();
    for (name, file, content) in fields {
        let file = file.map(|(name, media_type)| format!("; filename=\"{name}\"\r\nContent-Type: {media_type}"));
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{}\r\n\r\n",
            file.unwrap_or_default()
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    request.header("content-type", format!("multipart/form-data; boundary={BOUNDARY}")).body(body)
}
