//! A server that speaks the Messages API as scripted, on loopback, and keeps the account of what it bills.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, Response, StatusCode, header},
    routing::post,
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::fake_answer::{Gate, HangUps};

/// Tokens that each answer is billed for: in, out.
pub const BILL: (u64, u64) = (25, 5);

/// One step of an answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// A whole block of text, in these pieces.
    Text(Vec<String>),
    /// A whole block of signed thinking.
    Thinking(String),
    /// A whole tool call: id, tool, input.
    ToolUse(&'static str, &'static str, Value),
    /// Any event.
    Event(Value),
    /// Silence.
    Pause(Duration),
    /// Silence until the gate is opened.
    Gate(Gate),
    /// The end, and why.
    Stop(&'static str),
    /// The connection breaks.
    Cut,
}

/// One whole answer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status with headers and an error of this type.
    Error(u16, Vec<(&'static str, String)>, &'static str),
    /// A stream: its beginning comes by itself.
    Stream(Vec<Step>),
}

impl Reply {
    /// A good answer in these pieces.
    #[must_use]
    pub fn text(pieces: &[&str]) -> Self {
        Self::Stream(vec![Step::Text(pieces.iter().map(|piece| (*piece).to_owned()).collect()), Step::Stop("end_turn")])
    }

    /// Asks for these tools: id, tool, input.
    #[must_use]
    pub fn tools(calls: Vec<(&'static str, &'static str, Value)>) -> Self {
        let calls = calls.into_iter().map(|(id, tool, input)| Step::ToolUse(id, tool, input));
        Self::Stream(calls.chain([Step::Stop("tool_use")]).collect())
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Value,
}

#[derive(Debug, Default)]
struct Script {
    replies: VecDeque<Reply>,
    requests: Vec<Recorded>,
    /// Answers that came to their end.
    billed: u64,
    hang_ups: HangUps,
}

type Shared = Arc<Mutex<Script>>;

/// The server. Dropping it stops it.
#[derive(Debug)]
pub struct FakeMessages {
    address: SocketAddr,
    script: Shared,
    _stop: oneshot::Sender<Infallible>,
}

fn lock(script: &Shared) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeMessages {
    /// Starts it. Beyond the scripted replies it answers `hello from claude`.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let script = Shared::default();
        lock(&script).replies.extend(replies);
        let router = Router::new().route("/v1/messages", post(answer)).with_state(script.clone());
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

    /// The lines that configure an engine with it; its key is in `MODEL_KEY`.
    #[must_use]
    pub fn engine(&self) -> String {
        let url = format!("http://{}", self.address);
        format!("type = \"claude_api\"\nbase_url = \"{url}\"\nmodel = \"fake-claude\"\napi_key_env = \"MODEL_KEY\"")
    }

    /// The requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.script).requests.clone()
    }

    /// Tokens of all answers that came to their end: in, out.
    #[must_use]
    pub fn billed(&self) -> (u64, u64) {
        let answers = lock(&self.script).billed;
        (answers * BILL.0, answers * BILL.1)
    }

    /// How many answers were left before their end: by a client that hung up, or by the script's cut.
    #[must_use]
    pub fn hang_ups(&self) -> usize {
        lock(&self.script).hang_ups.count()
    }
}

async fn answer(State(script): State<Shared>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let (reply, hang_ups) = {
        let mut script = lock(&script);
        script.requests.push(Recorded { headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) });
        let reply = script.replies.pop_front().unwrap_or_else(|| Reply::text(&["hello ", "from claude"]));
        (reply, script.hang_ups.clone())
    };
    match reply {
        Reply::Error(status, headers, kind) => {
            let mut response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
            for (name, value) in headers {
                response = response.header(name, value);
            }
            let body = json!({"type": "error", "error": {"type": kind, "message": format!("a scripted {kind}")}});
            response.body(Body::from(body.to_string())).expect("a scripted response")
        }
        Reply::Stream(steps) => {
            let usage = json!({"input_tokens": BILL.0, "output_tokens": 1});
            let start =
                json!({"type": "message_start", "message": {"model": "fake-claude", "content": [], "usage": usage}});
            let steps = [Step::Event(start)].into_iter().chain(steps).enumerate();
            let pieces = stream::iter(steps)
                .then(move |(index, step)| perform(script.clone(), index, step))
                .filter_map(std::future::ready);
            Response::builder()
                .status(StatusCode::OK)
                .header(header::CONTENT_TYPE, "text/event-stream")
                .body(Body::from_stream(hang_ups.watch(pieces)))
                .expect("a stream")
        }
    }
}

async fn perform(script: Shared, index: usize, step: Step) -> Option<Result<Bytes, std::io::Error>> {
    let block = |block: Value, deltas: Vec<Value>| {
        let start = json!({"type": "content_block_start", "index": index, "content_block": block});
        let deltas =
            deltas.into_iter().map(|delta| json!({"type": "content_block_delta", "index": index, "delta": delta}));
        [start].into_iter().chain(deltas).chain([json!({"type": "content_block_stop", "index": index})]).collect()
    };
    let events: Vec<Value> = match step {
        Step::Text(pieces) => {
            let deltas = pieces.into_iter().map(|text| json!({"type": "text_delta", "text": text})).collect();
            block(json!({"type": "text", "text": ""}), deltas)
        }
        Step::Thinking(text) => block(
            json!({"type": "thinking", "thinking": "", "signature": ""}),
            vec![
                json!({"type": "thinking_delta", "thinking": text}),
                json!({"type": "signature_delta", "signature": "sig"}),
            ],
        ),
        Step::ToolUse(id, tool, input) => block(
            json!({"type": "tool_use", "id": id, "name": tool, "input": {}}),
            vec![json!({"type": "input_json_delta", "partial_json": input.to_string()})],
        ),
        Step::Event(event) => vec![event],
        Step::Stop(reason) => {
            lock(&script).billed += 1;
            let usage = json!({"output_tokens": BILL.1});
            vec![
                json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}),
                json!({"type": "message_stop"}),
            ]
        }
        Step::Pause(pause) => {
            tokio::time::sleep(pause).await;
            return None;
        }
        Step::Gate(gate) => {
            gate.pass().await;
            return None;
        }
        Step::Cut => return Some(Err(std::io::Error::other("cut by the script"))),
    };
    let named = |event: &Value| event["type"].as_str().unwrap_or_default().to_owned();
    let lines = events.iter().map(|event| format!("event: {}\ndata: {event}\n\n", named(event)));
    Some(Ok(Bytes::from(lines.collect::<String>())))
}
