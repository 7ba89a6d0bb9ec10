//! A model's server that speaks the Messages API, on loopback, and answers by the script in the prompt.
//!
//! A prompt holds `SCRIPT` and a JSON array behind it, to its end: one entry for each request made with that prompt, of these
//! fields, all optional: `thinking`, `text` (pieces), `tool` (`{name, input}`), `status` (an error instead of an answer),
//! `retry_after` (seconds), `cut` (the connection breaks after the pieces), `stall` (nothing follows the pieces), `pause_ms`
//! (before each event).

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{Response, StatusCode, header},
    response::IntoResponse,
    routing::post,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// Begins a script in a prompt.
const MARK: &str = "SCRIPT ";
/// What each answer costs: tokens in and out.
pub const TOKENS: (u64, u64) = (25, 5);

/// A server until it is dropped.
#[derive(Debug)]
pub struct Model {
    address: SocketAddr,
    seen: Arc<Seen>,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct Seen {
    requests: Mutex<Vec<Value>>,
    /// Requests made with each script.
    turns: Mutex<HashMap<String, usize>>,
}

/// A prompt with a script.
#[must_use]
pub fn prompt(words: &str, script: &Value) -> String {
    format!("{words} [{}] {MARK}{script}", uuid::Uuid::new_v4())
}

/// How often the assistant said exactly this, by a request's account.
#[must_use]
pub fn said(request: &Value, text: &str) -> usize {
    let messages = request["messages"].as_array().into_iter().flatten();
    messages.filter(|message| message["role"] == "assistant").flat_map(texts).filter(|said| *said == text).count()
}

/// The texts of a message.
fn texts(message: &Value) -> impl DoubleEndedIterator<Item = &str> {
    let content = &message["content"];
    let blocks = content.as_array().into_iter().flatten().filter_map(|block| block["text"].as_str());
    content.as_str().into_iter().chain(blocks)
}

impl Model {
    /// Starts it.
    ///
    /// # Panics
    /// If it can't listen.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::<Seen>::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let app = Router::new().route("/v1/messages", post(answer)).with_state(Arc::clone(&seen));
        tokio::spawn(async move {
            let end = async { drop(stopped.await) };
            axum::serve(listener, app).with_graceful_shutdown(end).await.ok();
        });
        Self { address, seen, _stop: stop }
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Value> {
        lock(&self.seen.requests).clone()
    }

    /// How many requests were made with this prompt.
    #[must_use]
    pub fn asked(&self, prompt: &str) -> usize {
        lock(&self.seen.turns).get(prompt).copied().unwrap_or_default()
    }

    /// The last request.
    ///
    /// # Panics
    /// If there was none.
    #[must_use]
    pub fn last(&self) -> Value {
        self.requests().pop().expect("a request")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The script of the last prompt that has one, with that prompt.
fn script(request: &Value) -> Option<(String, Vec<Value>)> {
    let messages = request["messages"].as_array()?;
    let asked = messages.iter().rev().filter(|message| message["role"] == "user");
    asked.flat_map(|message| texts(message).rev()).find_map(|text| {
        let (_, script) = text.rsplit_once(MARK)?;
        let entries = serde_json::Deserializer::from_str(script).into_iter::<Vec<Value>>().next()?.ok()?;
        Some((text.to_owned(), entries))
    })
}

async fn answer(State(seen): State<Arc<Seen>>, Json(request): Json<Value>) -> axum::response::Response {
    let streamed = request["stream"] == true;
    let found = script(&request);
    lock(&seen.requests).push(request);
    let entry = found.map_or(Value::Null, |(text, entries)| {
        let mut turns = lock(&seen.turns);
        let turn = turns.entry(text).or_default();
        *turn += 1;
        entries.get(*turn - 1).cloned().unwrap_or_else(|| json!({ "text": ["(the script is over)"] }))
    });
    if let Some(status) = entry["status"].as_u64() {
        return refusal(u16::try_from(status).unwrap_or(500), &entry);
    }
    let events = events(&entry);
    if !streamed {
        return Json(whole(&entry)).into_response();
    }
    let lines = events.into_iter().map(|event| {
        let name = event["type"].as_str().unwrap_or_default();
        Ok(Bytes::from(format!("event: {name}\ndata: {event}\n\n")))
    });
    let cut = (entry["cut"] == true).then(|| Err(std::io::Error::other("cut")));
    // The pieces are to be on their way before a connection breaks.
    let pause = entry["pause_ms"].as_u64().or(cut.is_some().then_some(20)).map(Duration::from_millis);
    let paced = stream::iter(lines.chain(cut).collect::<Vec<_>>()).then(move |line| async move {
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        line
    });
    let body = if entry["stall"] == true { paced.chain(stream::pending()).boxed() } else { paced.boxed() };
    let response: Result<_, Infallible> = Ok(Response::builder()
        .header(header::CONTENT_TYPE, "text/event-stream")
        .body(Body::from_stream(body))
        .expect("a response"));
    response.into_response()
}

fn refusal(status: u16, entry: &Value) -> axum::response::Response {
    let kind = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    let body = json!({ "type": "error", "error": { "type": kind, "message": "by the script" } });
    let mut response = (StatusCode::from_u16(status).expect("a status"), Json(body)).into_response();
    if let Some(seconds) = entry["retry_after"].as_u64() {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn pieces(entry: &Value) -> Vec<&str> {
    entry["text"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn stop_reason(entry: &Value) -> &'static str {
    if entry["tool"].is_object() { "tool_use" } else { "end_turn" }
}

/// The answer in one piece.
fn whole(entry: &Value) -> Value {
    let mut content = Vec::new();
    if !pieces(entry).is_empty() {
        content.push(json!({ "type": "text", "text": pieces(entry).concat() }));
    }
    if let Value::Object(tool) = &entry["tool"] {
        content.push(json!({ "type": "tool_use", "id": tool_id(), "name": tool["name"], "input": tool["input"] }));
    }
    json!({
        "id": message_id(), "type": "message", "role": "assistant", "model": "claude-opus-5-5", "content": content,
        "stop_reason": stop_reason(entry), "usage": { "input_tokens": TOKENS.0, "output_tokens": TOKENS.1 },
    })
}

fn message_id() -> String {
    format!("msg_{}", uuid::Uuid::new_v4().simple())
}

fn tool_id() -> String {
    format!("toolu_{}", uuid::Uuid::new_v4().simple())
}

fn events(entry: &Value) -> Vec<Value> {
    let message = json!({
        "id": message_id(), "type": "message", "role": "assistant", "model": "claude-opus-5-5", "content": [],
        "stop_reason": null, "usage": { "input_tokens": TOKENS.0, "output_tokens": 1 },
    });
    let mut events = vec![json!({ "type": "message_start", "message": message })];
    let broken = entry["stall"] == true || entry["cut"] == true;
    let mut index = 0;
    let mut block = |start: Value, deltas: Vec<Value>, closed: bool| {
        events.push(json!({ "type": "content_block_start", "index": index, "content_block": start }));
        for delta in deltas {
            events.push(json!({ "type": "content_block_delta", "index": index, "delta": delta }));
        }
        if closed {
            events.push(json!({ "type": "content_block_stop", "index": index }));
        }
        index += 1;
    };
    if let Some(thinking) = entry["thinking"].as_str() {
        let deltas = vec![
            json!({ "type": "thinking_delta", "thinking": thinking }),
            json!({ "type": "signature_delta", "signature": "c2lnbmVk" }),
        ];
        block(json!({ "type": "thinking", "thinking": "", "signature": "" }), deltas, true);
    }
    if !pieces(entry).is_empty() {
        let deltas = pieces(entry).iter().map(|text| json!({ "type": "text_delta", "text": text })).collect();
        block(json!({ "type": "text", "text": "" }), deltas, !broken);
    }
    if let Value::Object(tool) = &entry["tool"] {
        let input = json!({ "type": "input_json_delta", "partial_json": tool["input"].to_string() });
        let start = json!({ "type": "tool_use", "id": tool_id(), "name": tool["name"], "input": {} });
        block(start, vec![input], true);
    }
    if !broken {
        let delta = json!({ "stop_reason": stop_reason(entry), "stop_sequence": null });
        events.push(json!({ "type": "message_delta", "delta": delta, "usage": { "output_tokens": TOKENS.1 } }));
        events.push(json!({ "type": "message_stop" }));
    }
    events
}
