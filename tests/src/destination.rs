//! An HTTP destination on loopback that keeps a ledger: which calls came, and what they did.
//!
//! It does what a careful destination does with an `Idempotency-Key`: the first call under a key is applied, a further one
//! applies nothing. A call without a key is always applied. So an effect that was meant once and is in the ledger twice
//! was sent under two keys. How calls are answered, and whether the connection survives, is scripted.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, Response},
};
use bytes::Bytes;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

/// Largest body it takes, in bytes.
const BODY_LIMIT: usize = 16 << 20;

/// A call as it came.
#[derive(Clone, Debug)]
pub struct Call {
    /// Number of its connection, from 1.
    pub connection: u64,
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its `Idempotency-Key`.
    pub key: Option<String>,
    /// Its body as it came.
    pub bytes: Bytes,
    /// Its body as JSON; null if it is none.
    pub body: Value,
    /// When it had been read.
    pub at: Instant,
    /// The same by the calendar.
    pub time: SystemTime,
    /// Whether this call applied its effect: it was the first of its key that was to be applied.
    pub applied: bool,
}

impl Call {
    /// A header as text; empty if it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// How a call ends.
#[derive(Clone, Debug)]
enum End {
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: Bytes,
    },
    /// A head, a piece of the body, then nothing more.
    Broken,
    /// The connection closes without a byte.
    Closed,
    /// Nothing, for good.
    Silence,
}

/// What is done with one call.
#[derive(Clone, Debug)]
pub struct Reply {
    delay: Duration,
    applies: bool,
    end: End,
}

impl Reply {
    /// Applies the effect and says so.
    #[must_use]
    pub fn ok() -> Self {
        Self::answer(200, r#"{"ok":true}"#).with_header("content-type", "application/json")
    }

    /// Any answer; a success applies the effect, all else does not.
    #[must_use]
    pub fn answer(status: u16, body: impl Into<Bytes>) -> Self {
        let end = End::Answer { status, headers: Vec::new(), body: body.into() };
        Self { delay: Duration::ZERO, applies: (200..300).contains(&status), end }
    }

    /// A status with an empty body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::answer(status, "")
    }

    /// Reads the call, applies the effect, and closes without an answer: what nobody can tell from [`Reply::dropped`].
    #[must_use]
    pub const fn lost() -> Self {
        Self { delay: Duration::ZERO, applies: true, end: End::Closed }
    }

    /// Reads the call and closes without an answer; nothing is applied.
    #[must_use]
    pub const fn dropped() -> Self {
        Self { delay: Duration::ZERO, applies: false, end: End::Closed }
    }

    /// Applies the effect and never answers.
    #[must_use]
    pub const fn hang() -> Self {
        Self { delay: Duration::ZERO, applies: true, end: End::Silence }
    }

    /// Applies the effect, begins an answer, and breaks off.
    #[must_use]
    pub const fn broken() -> Self {
        Self { delay: Duration::ZERO, applies: true, end: End::Broken }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        if let End::Answer { headers, .. } = &mut self.end {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// The same, so long after the call was read. The effect is applied at once.
    #[must_use]
    pub const fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Rule = Arc<dyn Fn(&Call) -> Reply + Send + Sync>;

struct Ledger {
    calls: Vec<Call>,
    script: VecDeque<Reply>,
    rule: Rule,
    /// Keys under which an effect was applied.
    applied: BTreeSet<String>,
    /// Connections that are closed unread.
    refusals: u32,
    at_once: usize,
    most_at_once: usize,
}

type Shared = Arc<Mutex<Ledger>>;

fn lock(ledger: &Shared) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The destination. Dropping it stops it and closes its connections.
pub struct Destination {
    address: SocketAddr,
    ledger: Shared,
    _stop: oneshot::Sender<Infallible>,
}

impl std::fmt::Debug for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Destination").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Destination {
    /// Starts it. Calls are answered with these replies in turn, and with [`Reply::ok`] beyond them.
    pub async fn start(script: impl IntoIterator<Item = Reply>) -> Self {
        let destination = Self::ruled(|_| Reply::ok()).await;
        destination.then(script);
        destination
    }

    /// Starts it with a rule instead of a script.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn ruled(rule: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger {
            calls: Vec::new(),
            script: VecDeque::new(),
            rule: Arc::new(rule),
            applied: BTreeSet::new(),
            refusals: 0,
            at_once: 0,
            most_at_once: 0,
        }));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let served = ledger.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = accept(listener, served) => {}
                _ = stopped => {}
            }
        });
        Self { address, ledger, _stop: stop }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL of it; `path` begins with a slash.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Adds to the script.
    pub fn then(&self, script: impl IntoIterator<Item = Reply>) {
        lock(&self.ledger).script.extend(script);
    }

    /// Replaces what answers calls beyond the script.
    pub fn rule(&self, rule: impl Fn(&Call) -> Reply + Send + Sync + 'static) {
        lock(&self.ledger).rule = Arc::new(rule);
    }

    /// Closes the next so many connections as soon as they are made, without reading.
    pub fn refuse_connections(&self, count: u32) {
        lock(&self.ledger).refusals = count;
    }

    /// The calls so far, in the order in which they had been read.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.ledger).calls.clone()
    }

    /// How many calls came so far.
    #[must_use]
    pub fn call_count(&self) -> usize {
        lock(&self.ledger).calls.len()
    }

    /// The calls that applied an effect.
    #[must_use]
    pub fn applied(&self) -> Vec<Call> {
        lock(&self.ledger).calls.iter().filter(|call| call.applied).cloned().collect()
    }

    /// The most calls that were being served at one time.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        lock(&self.ledger).most_at_once
    }
}

async fn accept(listener: TcpListener, ledger: Shared) {
    // Owned, so that stopping the destination closes its connections.
    let mut connections = tokio::task::JoinSet::new();
    let mut number = 0;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        {
            let mut ledger = lock(&ledger);
            if ledger.refusals > 0 {
                ledger.refusals -= 1;
                continue;
            }
        }
        number += 1;
        connections.spawn(serve(stream, number, ledger.clone()));
    }
}

async fn serve(stream: TcpStream, connection: u64, ledger: Shared) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| answer(request, connection, ledger.clone()));
    // An error is a connection that the script or the client broke.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Counts a call as being served while it lives.
struct Serving(Shared);

impl Serving {
    fn new(shared: Shared) -> Self {
        let mut ledger = lock(&shared);
        ledger.at_once += 1;
        ledger.most_at_once = ledger.most_at_once.max(ledger.at_once);
        drop(ledger);
        Self(shared)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        lock(&self.0).at_once -= 1;
    }
}

/// An error closes the connection without an answer.
async fn answer(request: Request<Incoming>, connection: u64, ledger: Shared) -> io::Result<Response<Body>> {
    let _serving = Serving::new(ledger.clone());
    let (head, body) = request.into_parts();
    let bytes = axum::body::to_bytes(Body::new(body), BODY_LIMIT).await.map_err(io::Error::other)?;
    let mut call = Call {
        connection,
        key: head.headers.get("idempotency-key").and_then(|key| key.to_str().ok()).map(str::to_owned),
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        method: head.method,
        target: head.uri.to_string(),
        headers: head.headers,
        bytes,
        at: Instant::now(),
        time: SystemTime::now(),
        applied: false,
    };
    let reply = {
        let mut ledger = lock(&ledger);
        let rule = ledger.rule.clone();
        let reply = ledger.script.pop_front().unwrap_or_else(|| rule(&call));
        if reply.applies {
            call.applied = match &call.key {
                None => true,
                Some(key) => ledger.applied.insert(key.clone()),
            };
        }
        ledger.calls.push(call);
        reply
    };
    tokio::time::sleep(reply.delay).await;
    match reply.end {
        End::Silence => std::future::pending().await,
        End::Closed => Err(io::Error::other("closed by the script")),
        End::Broken => {
            let pieces = futures::stream::iter([
                Ok(Bytes::from_static(b"{\"ok\":")),
                Err(io::Error::other("broken off by the script")),
            ]);
            Ok(Response::new(Body::from_stream(pieces)))
        }
        End::Answer { status, headers, body } => {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            Ok(response.body(Body::from(body)).expect("a scripted response"))
        }
    }
}
