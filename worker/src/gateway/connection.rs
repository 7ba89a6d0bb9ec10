//! One greeted connection: many requests at once, news, and a watch over whether the gateway is still there.

mod drive;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use errand_common::{
    domain::FailureClass,
    telemetry::trace::{Kind, Span},
};
use serde_json::Value;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::task::AbortOnDropHandle;

use drive::{Pulse, drive};

use super::{
    GatewayFailure, Settings, Unanswered,
    failure::{self, code},
    frame::{self, Payload, Request},
    handshake::Hello,
    requests::{Requests, Stage},
    scope,
    transport::Socket,
    watch::Watchers,
};

/// Room for frames that no answer is awaited to.
const SPARE: usize = 16;
/// How long a close may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The first protocol whose requests may name a trace; before it, a field that is not known is refused.
const TRACED: u32 = 4;

/// What the writer is to do.
enum Outgoing {
    Frame { text: Utf8Bytes, stage: Arc<Stage> },
    Close,
}

/// One greeted connection. It ends when it is dropped.
pub(super) struct Connection {
    hello: Hello,
    requests: Arc<Requests>,
    outgoing: mpsc::Sender<Outgoing>,
    in_flight: Semaphore,
    max_in_flight: usize,
    frame_limit: usize,
    next_id: AtomicU64,
    opened_at: Instant,
    used_at: Mutex<Instant>,
    _task: AbortOnDropHandle<()>,
}

impl Connection {
    pub(super) fn start(socket: Socket, hello: Hello, settings: &Settings, watchers: Arc<Watchers>) -> Self {
        let requests = Arc::new(Requests::default());
        let (outgoing, queued) = mpsc::channel(settings.max_in_flight + SPARE);
        let pulse = Pulse {
            ping: settings.ping,
            tick: hello.tick_millis.map(Duration::from_millis),
            write_limit: settings.request_timeout,
        };
        let task = drive(socket, queued, requests.clone(), watchers, pulse);
        let now = Instant::now();
        Self {
            frame_limit: hello.max_payload.unwrap_or(usize::MAX).min(settings.frame_limit),
            hello,
            requests,
            outgoing,
            in_flight: Semaphore::new(settings.max_in_flight),
            max_in_flight: settings.max_in_flight,
            next_id: AtomicU64::new(1),
            opened_at: now,
            used_at: Mutex::new(now),
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        }
    }

    pub(super) const fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Why it ended, if it has.
    pub(super) fn ended(&self) -> Option<GatewayFailure> {
        self.requests.ended()
    }

    pub(super) async fn wait_for_end(&self) {
        self.requests.wait_for_end().await;
    }

    /// How long it has been open.
    pub(super) fn age(&self) -> Duration {
        self.opened_at.elapsed()
    }

    /// How long nothing was asked over it; nothing at all while something is in flight.
    pub(super) fn unused_for(&self) -> Duration {
        if self.in_flight.available_permits() < self.max_in_flight {
            return Duration::ZERO;
        }
        self.used_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn touch(&self) {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Asks, and waits for the answer for `limit` at most, its turn included.
    pub(super) async fn request(&self, method: &str, params: &Value, limit: Duration) -> Result<Payload, Unanswered> {
        let mut span = Span::child(Kind::Client, || method.to_owned());
        span.set("rpc.system.name", "openclaw");
        span.set("rpc.method", method);
        let answered = span.around(self.exchange(method, params, limit)).await;
        match &answered {
            Ok(_) => {}
            Err(Unanswered::Refused(failure) | Unanswered::Doubt(failure)) => span.fail(failure.code),
        }
        answered
    }

    async fn exchange(&self, method: &str, params: &Value, limit: Duration) -> Result<Payload, Unanswered> {
        let deadline = Instant::now() + limit;
        if let Some(scope) = self.hello.scopes.as_deref().and_then(|granted| scope::missing(method, granted)) {
            let message = format!("missing scope: {scope}; grant it to this device at the gateway");
            return Err(Unanswered::Refused(GatewayFailure::new(FailureClass::Auth, code::SCOPE, message)));
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed).to_string();
        let text = self.encode(&id, method, params).map_err(Unanswered::Refused)?;
        let Ok(permit) = timeout_at(deadline, self.in_flight.acquire()).await else {
            let message = format!("{} requests wait for this gateway's answers already", self.max_in_flight);
            let failure = GatewayFailure::new(FailureClass::Transient, code::WORKER_BUSY, message);
            return Err(Unanswered::Refused(failure));
        };
        let mut waiting = self.requests.enter(id).map_err(Unanswered::Refused)?;
        let stage = waiting.stage.clone();
        // A full queue, or none: the writer is gone or stuck, which its own limit finds out.
        if self.outgoing.try_send(Outgoing::Frame { text, stage: stage.clone() }).is_err() {
            let failure = self.ended().unwrap_or_else(|| failure::silent("take a request", limit));
            return Err(Unanswered::Refused(failure));
        }
        let answered = timeout_at(deadline, waiting.answer()).await;
        drop(permit);
        self.touch();
        match answered {
            Ok(Ok(Ok(payload))) => Ok(payload),
            Ok(Ok(Err(error))) => Err(error_answer(&error)),
            Ok(Err(unanswered)) => Err(unanswered),
            Err(_) => Err(stage.unanswered(failure::silent(&format!("answer {method}"), limit))),
        }
    }

    /// Says something whose answer nobody needs; it is lost if the connection is busy.
    pub(super) fn tell(&self, method: &str, params: &Value) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed).to_string();
        if let Ok(text) = self.encode(&id, method, params) {
            self.outgoing.try_send(Outgoing::Frame { text, stage: Arc::default() }).ok();
        }
    }

    fn encode(&self, id: &str, method: &str, params: &Value) -> Result<Utf8Bytes, GatewayFailure> {
        let invalid = |code, message| GatewayFailure::new(FailureClass::Invalid, code, message);
        let request = Request::new(id, method, params);
        let request = if self.hello.protocol >= TRACED { request.traced() } else { request };
        let text = serde_json::to_string(&request).map_err(|error| invalid(code::REFUSED, error.to_string()))?;
        if text.len() > self.frame_limit {
            let message =
                format!("the request has {} bytes; the gateway takes at most {}", text.len(), self.frame_limit);
            return Err(invalid(code::TOO_LARGE, message));
        }
        Ok(text.into())
    }

    /// Says goodbye, and waits a moment for it to be sent.
    pub(super) async fn close(&self) {
        if self.outgoing.try_send(Outgoing::Close).is_ok() {
            timeout(CLOSE_LIMIT, self.wait_for_end()).await.ok();
        }
    }
}

/// An error answer: nothing happened, unless the gateway says that it goes on by itself.
fn error_answer(error: &frame::ErrorFrame) -> Unanswered {
    let failure = failure::refused(error);
    if failure.class == FailureClass::Ambiguous { Unanswered::Doubt(failure) } else { Unanswered::Refused(failure) }
}
