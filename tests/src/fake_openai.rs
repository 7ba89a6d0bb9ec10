//! A server that speaks chat completions and responses as scripted, on loopback.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
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

pub use crate::fake_answer::Gate;
use crate::fake_answer::HangUps;

/// One step of an answer.
#[derive(Clone, Debug)]
pub enum Step {
    /// A piece of the answer's text.
    Text(String),
    /// A piece of the answer's text that tells when it is sent: `<microseconds since 1970> `.
    Stamp,
    /// A piece of the model's reasoning.
    Reasoning(String),
    /// Any bytes, written and flushed on their own.
    Bytes(Vec<u8>),
    /// Any object as one `data:` line.
    Data(Value),
    /// Silence.
    Pause(Duration),
    /// Silence until the gate is opened.
    Gate(Gate),
    /// The chunk that says why the answer ends.
    Finish(&'static str),
    /// The chunk with the token counts: in, out.
    Usage(u64, u64),
    /// The last line, `[DONE]`.
    Done,
    /// The connection breaks.
    Cut,
}

/// One whole answer.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status with headers and a body, at once.
    Status(u16, Vec<(&'static str, String)>, String),
    /// A stream of events.
    Stream(Vec<Step>),
    /// No answer, not even a head.
    Hang,
}

impl Reply {
    /// A good answer in these pieces.
    #[must_use]
    pub fn text(pieces: &[&str]) -> Self {
        let mut steps: Vec<Step> = pieces.iter().map(|piece| Step::Text((*piece).to_owned())).collect();
        steps.extend([Step::Finish("stop"), Step::Usage(11, 7), Step::Done]);
        Self::Stream(steps)
    }

    /// Asks for these tools: id, tool, input.
    #[must_use]
    pub fn tools(calls: &[(&str, &str, Value)]) -> Self {
        let call = |(index, (id, tool, input)): (usize, &(&str, &str, Value))| {
            let function = json!({"name": tool, "arguments": input.to_string()});
            json!({"index": index, "id": id, "type": "function", "function": function})
        };
        let calls: Vec<Value> = calls.iter().enumerate().map(call).collect();
        let delta = json!({"choices": [{"index": 0, "delta": {"tool_calls": calls}, "finish_reason": null}]});
        Self::Stream(vec![Step::Data(delta), Step::Finish("tool_calls"), Step::Usage(11, 7), Step::Done])
    }

    /// An error of the server's own.
    #[must_use]
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({"error": {"message": message, "type": "fake", "param": null, "code": code}});
        Self::Status(status, vec![("content-type", "application/json".to_owned())], body.to_string())
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(self, name: &'static str, value: &str) -> Self {
        match self {
            Self::Status(status, mut headers, body) => {
                headers.push((name, value.to_owned()));
                Self::Status(status, headers, body)
            }
            other => other,
        }
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Value,
    /// When.
    pub at: Instant,
}

#[derive(Debug)]
struct Script {
    replies: VecDeque<Reply>,
    /// What is answered after those.
    usual: Reply,
    requests: Vec<Recorded>,
    hang_ups: HangUps,
}

type Shared = Arc<Mutex<Script>>;

/// The server. Dropping it stops it.
#[derive(Debug)]
pub struct FakeOpenAi {
    address: SocketAddr,
    script: Shared,
    _stop: oneshot::Sender<Infallible>,
}

impl FakeOpenAi {
    /// Starts it. Beyond the scripted replies it answers `hello from the model`.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::serve(replies.into_iter().collect(), Reply::text(&["hello ", "from the ", "model"])).await
    }

    /// Starts it; it answers every request alike.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn always(usual: Reply) -> Self {
        Self::serve(VecDeque::new(), usual).await
    }

    async fn serve(replies: VecDeque<Reply>, usual: Reply) -> Self {
        let script =
            Arc::new(Mutex::new(Script { replies, usual, requests: Vec::new(), hang_ups: HangUps::default() }));
        let router = Router::new()
            .route("/v1/chat/completions", post(answer))
            .route("/v1/responses", post(answer))
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

    /// Where it is, up to and including `/v1`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// The lines that configure an engine with it, which sends no request twice within one attempt: each reply is seen.
    #[must_use]
    pub fn engine(&self) -> String {
        let url = self.base_url();
        format!("type = \"openai_compatible\"\nbase_url = \"{url}\"\nmodel = \"fake-model\"\nrequest_retries = 0")
    }

    /// The requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        lock(&self.script).requests.clone()
    }

    /// How many answers were left before their end: by a client that hung up, or by the script's cut.
    #[must_use]
    pub fn hang_ups(&self) -> usize {
        lock(&self.script).hang_ups.count()
    }
}

fn lock(script: &Shared) -> std::sync::MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(script): State<Shared>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let (reply, hang_ups) = {
        let mut script = lock(&script);
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        script.requests.push(Recorded { headers, body, at: Instant::now() });
        let reply = script.replies.pop_front().unwrap_or_else(|| script.usual.clone());
        (reply, script.hang_ups.clone())
    };
    match reply {
        Reply::Hang => std::future::pending().await,
        Reply::Status(status, headers, body) => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Body::from(body)).expect("a scripted response")
        }
        Reply::Stream(steps) => {
            let pieces = stream::iter(steps).then(perform).filter_map(std::future::ready);
            Response::builder()
                .status(StatusCode::OK)
                .header(header::CONTENT_TYPE, "text/event-stream")
                .body(Body::from_stream(hang_ups.watch(pieces)))
                .expect("a stream")
        }
    }
}

async fn perform(step: Step) -> Option<Result<Bytes, std::io::Error>> {
    let delta = |delta: Value| chunk(&json!([{"index": 0, "delta": delta, "finish_reason": null}]), &Value::Null);
    let bytes = match step {
        Step::Text(text) => delta(json!({"content": text})),
        Step::Stamp => delta(json!({"content": format!("{} ", chrono::Utc::now().timestamp_micros())})),
        Step::Reasoning(text) => delta(json!({"reasoning_content": text})),
        Step::Bytes(bytes) => bytes.into(),
        Step::Data(value) => format!("data: {value}\n\n").into(),
        Step::Finish(reason) => chunk(&json!([{"index": 0, "delta": {}, "finish_reason": reason}]), &Value::Null),
        Step::Usage(input, output) => {
            let usage = json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output});
            chunk(&json!([]), &usage)
        }
        Step::Done => Bytes::from_static(b"data: [DONE]\n\n"),
        Step::Cut => return Some(Err(std::io::Error::other("cut by the script"))),
        Step::Pause(pause) => {
            tokio::time::sleep(pause).await;
            return None;
        }
        Step::Gate(gate) => {
            gate.pass().await;
            return None;
        }
    };
    Some(Ok(bytes))
}

fn chunk(choices: &Value, usage: &Value) -> Bytes {
    let chunk = json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake-model",
        "choices": choices, "usage": usage,
    });
    format!("data: {chunk}\n\n").into()
}

/// A text chunk cut in the middle of a character: two pieces of bytes.
#[must_use]
pub fn split_inside(text: &str, at: usize) -> [Step; 2] {
    let whole = chunk(&json!([{"index": 0, "delta": {"content": text}, "finish_reason": null}]), &Value::Null);
    let content = whole.windows(text.len()).position(|window| window == text.as_bytes()).unwrap_or(0);
    let (head, tail) = whole.split_at(content + at);
    [Step::Bytes(head.to_vec()), Step::Bytes(tail.to_vec())]
}
