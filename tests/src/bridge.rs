//! A bridge: takes prompts over HTTP, answers them in its own time, and calls back. It keeps to `docs/bridges.md`, so it may serve as
//! an example (`src/bin/example-bridge.rs` runs it); for tests it can be told to misbehave.
//!
//! What a bridge must do is in three places here: `take` takes what comes twice under one key once, [`Bridge::call_back`] posts to
//! the whole `callbackUrl`, and `settle` tries again until it is told that the answer counts, or never will.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use ring::hmac;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot};

/// How often a callback is tried before it is given up.
const TRIES: u32 = 50;
/// How long after one that did not arrive it is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// A prompt as it came.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Prompt {
    /// What to do.
    pub prompt: String,
    /// The conversation: what was said under the same key before is its context.
    pub session_key: String,
    /// Names the prompt: what comes twice under one key is one prompt.
    pub idempotency_key: String,
    /// Where to post the answer: as it is, with its token.
    pub callback_url: String,
    /// To be given back with the answer.
    pub callback_data: Value,
}

/// What is done with a prompt.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How it is acknowledged: 2xx takes it.
    pub status: u16,
    /// With these headers.
    pub headers: Vec<(String, String)>,
    /// The connection is closed instead, after the prompt was taken or not.
    pub hangs_up: bool,
    /// It is said before the acknowledgement, and waited for.
    pub first: Vec<Value>,
    /// It is said afterwards, each so long after the one before.
    pub later: Vec<(Duration, Value)>,
}

impl Plan {
    /// Takes it, and says these things at once.
    #[must_use]
    pub fn says(said: impl IntoIterator<Item = Value>) -> Self {
        Self::later(said.into_iter().map(|said| (Duration::ZERO, said)))
    }

    /// Takes it, and says these things in time.
    #[must_use]
    pub fn later(said: impl IntoIterator<Item = (Duration, Value)>) -> Self {
        Self { status: 202, headers: Vec::new(), hangs_up: false, first: Vec::new(), later: said.into_iter().collect() }
    }

    /// Takes it, and says nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self::says([])
    }

    /// Does not take it.
    #[must_use]
    pub fn refuses(status: u16) -> Self {
        Self { status, ..Self::silent() }
    }
}

/// An answer.
#[must_use]
pub fn done(result: &str) -> Value {
    json!({"ok": true, "result": result})
}

type Rule = Arc<dyn Fn(&Prompt, usize) -> Plan + Send + Sync>;

struct World {
    /// Every request for a prompt, in order.
    came: Vec<(Prompt, Bytes)>,
    /// `traceparent` and `tracestate` of every request, in order; empty where there was none.
    traces: Vec<(String, String)>,
    /// Prompts that were taken, by key.
    taken: BTreeMap<String, Prompt>,
    /// What the bridge answers when it is asked about a key.
    known: BTreeMap<String, Value>,
    /// Answers to callbacks, in order: status and body.
    heard: Vec<(u16, Value)>,
    rule: Rule,
    /// In place of the scheme and host of `callbackUrl`, if the test has moved what it calls back.
    base: Option<String>,
    /// Signs what is called back with.
    secret: Option<String>,
    asked: usize,
}

#[derive(Clone)]
struct Shared {
    world: Arc<Mutex<World>>,
    http: reqwest::Client,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running bridge. Dropping it stops it.
pub struct Bridge {
    address: SocketAddr,
    shared: Shared,
    _stop: oneshot::Sender<Infallible>,
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bridge").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Bridge {
    /// Starts one that follows a rule: it is given the prompt, and how often that prompt came before.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start(rule: impl Fn(&Prompt, usize) -> Plan + Send + Sync + 'static) -> Self {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), rule).await.expect("a free port")
    }

    /// The same at an address.
    ///
    /// # Errors
    /// The address can't be had.
    ///
    /// # Panics
    /// If no HTTP client can be made.
    pub async fn listen(
        address: SocketAddr,
        rule: impl Fn(&Prompt, usize) -> Plan + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let world = World {
            came: Vec::new(),
            traces: Vec::new(),
            taken: BTreeMap::new(),
            known: BTreeMap::new(),
            heard: Vec::new(),
            rule: Arc::new(rule),
            base: None,
            secret: None,
            asked: 0,
        };
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        let shared = Shared { world: Arc::new(Mutex::new(world)), http };
        let router = Router::new()
            .route("/task-async", post(take))
            .route("/task-async/{key}", get(ask))
            .with_state(shared.clone());
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<Infallible>();
        tokio::spawn(async move {
            let served = axum::serve(listener, router);
            tokio::select! {
                _ = served => {}
                _ = stopped => {}
            }
        });
        Ok(Self { address, shared, _stop: stop })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Callbacks go there instead of where the prompt said: scheme and host.
    pub fn call_back_to(&self, base: &str) {
        self.shared.lock().base = Some(base.to_owned());
    }

    /// Callbacks are signed by this from now on.
    pub fn sign_with(&self, secret: Option<&str>) {
        self.shared.lock().secret = secret.map(str::to_owned);
    }

    /// What it answers from now on when it is asked about a key.
    pub fn know(&self, key: &str, answer: Value) {
        self.shared.lock().known.insert(key.to_owned(), answer);
    }

    /// It has lost a prompt.
    pub fn forget(&self, key: &str) {
        self.shared.lock().taken.remove(key);
    }

    /// Requests for prompts so far, in order, as they came and as bytes.
    #[must_use]
    pub fn came(&self) -> Vec<(Prompt, Bytes)> {
        self.shared.lock().came.clone()
    }

    /// `traceparent` and `tracestate` of every request so far, in order.
    #[must_use]
    pub fn traces(&self) -> Vec<(String, String)> {
        self.shared.lock().traces.clone()
    }

    /// Prompts that were taken, by key.
    #[must_use]
    pub fn taken(&self) -> BTreeMap<String, Prompt> {
        self.shared.lock().taken.clone()
    }

    /// What its callbacks were answered with, in order.
    #[must_use]
    pub fn heard(&self) -> Vec<(u16, Value)> {
        self.shared.lock().heard.clone()
    }

    /// How often it was asked about a key.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.shared.lock().asked
    }

    /// Posts what it says of a prompt, once. `None`: no answer came.
    pub async fn call_back(&self, prompt: &Prompt, said: Value) -> Option<(u16, Value)> {
        post_back(&self.shared, prompt, said).await
    }

    /// Posts any bytes to any URL.
    pub async fn post_raw(&self, url: &str, body: &Value) -> Option<(u16, Value)> {
        send(&self.shared.http, url, body.to_string().into_bytes(), None).await
    }

    /// Where it would post what it says of a prompt.
    #[must_use]
    pub fn url_of(&self, prompt: &Prompt) -> String {
        url_of(&self.shared, prompt)
    }
}

/// Takes a prompt, unless it was taken before: then it is acknowledged once more, and nothing else happens.
async fn take(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    shared.lock().traces.push(traced(&headers));
    let Ok(prompt) = serde_json::from_slice::<Prompt>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let (plan, is_new) = {
        let mut world = shared.lock();
        let before = world.came.iter().filter(|(came, _)| came.idempotency_key == prompt.idempotency_key).count();
        world.came.push((prompt.clone(), body));
        let plan = (world.rule.clone())(&prompt, before);
        let takes = (200..300).contains(&plan.status);
        let is_new = takes && world.taken.insert(prompt.idempotency_key.clone(), prompt.clone()).is_none();
        (plan, is_new)
    };
    if is_new {
        for said in plan.first {
            settle(&shared, &prompt, said).await;
        }
        tokio::spawn(async move {
            for (pause, said) in plan.later {
                tokio::time::sleep(pause).await;
                settle(&shared, &prompt, said).await;
            }
        });
    }
    if plan.hangs_up {
        // Never answered: the caller's own patience ends it.
        std::future::pending::<()>().await;
    }
    let mut headers = HeaderMap::new();
    for (name, value) in plan.headers {
        if let (Ok(name), Ok(value)) =
            (axum::http::HeaderName::try_from(name), axum::http::HeaderValue::try_from(value))
        {
            headers.insert(name, value);
        }
    }
    let status = StatusCode::from_u16(plan.status).unwrap_or(StatusCode::ACCEPTED);
    (status, headers, Json(json!({"accepted": status.is_success()}))).into_response()
}

/// Which trace a request belongs to.
fn traced(headers: &HeaderMap) -> (String, String) {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    (text("traceparent"), text("tracestate"))
}

/// Says what became of a prompt.
async fn ask(State(shared): State<Shared>, headers: HeaderMap, Path(key): Path<String>) -> Response {
    let mut world = shared.lock();
    world.traces.push(traced(&headers));
    world.asked += 1;
    match world.known.get(&key) {
        Some(answer) => Json(answer.clone()).into_response(),
        None if world.taken.contains_key(&key) => Json(json!({"state": "running"})).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Calls back until the answer says that there is no more to do: it counts (2xx), or never will (4xx).
async fn settle(shared: &Shared, prompt: &Prompt, said: Value) {
    for _ in 0..TRIES {
        match post_back(shared, prompt, said.clone()).await {
            Some((status, _)) if status < 500 && status != 429 => return,
            _ => tokio::time::sleep(AGAIN).await,
        }
    }
}

async fn post_back(shared: &Shared, prompt: &Prompt, mut said: Value) -> Option<(u16, Value)> {
    if said.get("callbackData").is_none() {
        said["callbackData"] = prompt.callback_data.clone();
    }
    let body = said.to_string().into_bytes();
    let signature = shared.lock().secret.as_ref().map(|secret| sign(secret, &body));
    let heard = send(&shared.http, &url_of(shared, prompt), body, signature).await?;
    shared.lock().heard.push(heard.clone());
    Some(heard)
}

async fn send(http: &reqwest::Client, url: &str, body: Vec<u8>, signature: Option<String>) -> Option<(u16, Value)> {
    let mut request = http.post(url).header("content-type", "application/json").timeout(Duration::from_secs(30));
    if let Some(signature) = signature {
        request = request.header("x-errand-signature", signature);
    }
    let response = request.body(body).send().await.ok()?;
    let status = response.status().as_u16();
    Some((status, response.json().await.unwrap_or_default()))
}

fn url_of(shared: &Shared, prompt: &Prompt) -> String {
    match (&shared.lock().base, prompt.callback_url.find("/api/")) {
        (Some(base), Some(path)) => format!("{base}{}", &prompt.callback_url[path..]),
        _ => prompt.callback_url.clone(),
    }
}

/// The header's value: HMAC-SHA256 of the body, in hex.
fn sign(secret: &str, body: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body);
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}
