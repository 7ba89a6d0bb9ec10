//! One greeted connection: many requests at once, news, and a watch over whether the gateway is still there.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use errand_common::{domain::FailureClass, telemetry::metric};
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde_json::Value;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite::{
    self, Message, Utf8Bytes,
    protocol::{CloseFrame, frame::coding::CloseCode},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    GatewayFailure, Settings, Unanswered,
    failure::{self, code},
    frame::{self, Event, Incoming, Payload, Request},
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
        let text = serde_json::to_string(&Request::new(id, method, params))
            .map_err(|error| invalid(code::REFUSED, error.to_string()))?;
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

/// When a silent gateway counts as gone.
#[derive(Clone, Copy)]
struct Pulse {
    /// Between two pings of ours; the gateway must be heard within two of them.
    ping: Duration,
    /// Between two ticks of the gateway's own; it must say something within two of them.
    tick: Option<Duration>,
    /// How long a frame may take to be written.
    write_limit: Duration,
}

impl Pulse {
    /// Until when the gateway must be heard, and until when it must say something.
    fn deadline(&self, heard_at: Instant, said_at: Instant) -> Instant {
        let heard = heard_at + self.ping * 2;
        self.tick.map_or(heard, |tick| heard.min(said_at + tick * 2 + self.ping))
    }
}

/// Counts open connections.
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::gauge!(metric::GATEWAY_CONNECTIONS, "state" => "open").increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!(metric::GATEWAY_CONNECTIONS, "state" => "open").decrement(1.0);
    }
}

/// Ends what is in flight, also when the task itself is ended.
struct End(Arc<Requests>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end(GatewayFailure::new(FailureClass::Transient, code::CLOSED, "the connection was given up"));
    }
}

async fn drive(
    socket: Socket,
    queued: mpsc::Receiver<Outgoing>,
    requests: Arc<Requests>,
    watchers: Arc<Watchers>,
    pulse: Pulse,
) {
    let _counted = Counted::new();
    let _end = End(requests.clone());
    let (sink, stream) = socket.split();
    let failure = tokio::select! {
        failure = write(sink, queued, &pulse) => failure,
        failure = read(stream, &requests, &watchers, &pulse) => failure,
    };
    tracing::info!(code = failure.code, reason = failure.message, "a connection to a gateway has ended");
    requests.end(failure);
}

async fn write(
    mut sink: SplitSink<Socket, Message>,
    mut queued: mpsc::Receiver<Outgoing>,
    pulse: &Pulse,
) -> GatewayFailure {
    let mut pings = interval_at(Instant::now() + pulse.ping, pulse.ping);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            next = queued.recv() => match next {
                Some(Outgoing::Frame { text, stage }) if stage.send() => Message::Text(text),
                Some(Outgoing::Frame { .. }) => continue,
                Some(Outgoing::Close) | None => {
                    let goodbye = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("unused") };
                    timeout(CLOSE_LIMIT, sink.send(Message::Close(Some(goodbye)))).await.ok();
                    return GatewayFailure::new(FailureClass::Transient, code::CLOSED, "the connection was not used");
                }
            },
            _ = pings.tick() => Message::Ping(Vec::new().into()),
        };
        match timeout(pulse.write_limit, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return broken(&error),
            Err(_) => return failure::silent("take what is sent", pulse.write_limit),
        }
    }
}

async fn read(
    mut stream: SplitStream<Socket>,
    requests: &Requests,
    watchers: &Watchers,
    pulse: &Pulse,
) -> GatewayFailure {
    let (mut heard_at, mut said_at) = (Instant::now(), Instant::now());
    let mut last_seq = None;
    loop {
        let deadline = pulse.deadline(heard_at, said_at);
        let Ok(next) = timeout_at(deadline, stream.next()).await else {
            return failure::silent("say anything", deadline - heard_at.min(said_at));
        };
        heard_at = Instant::now();
        match next {
            Some(Ok(Message::Text(text))) => {
                said_at = heard_at;
                match frame::decode(&text) {
                    Incoming::Response(response) => requests.answer(response),
                    Incoming::Event(event) => news(&event, &mut last_seq, watchers),
                    Incoming::Other => tracing::debug!("a gateway sent a frame of an unknown kind"),
                }
            }
            Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                return failure::closed(code.into(), &reason);
            }
            Some(Ok(Message::Close(None))) => return failure::closed(1005, ""),
            Some(Ok(_)) => {}
            Some(Err(error)) => return broken(&error),
            None => return failure::closed(1006, ""),
        }
    }
}

fn news(event: &Event, last_seq: &mut Option<u64>, watchers: &Watchers) {
    if let Some(seq) = event.seq {
        if last_seq.is_some_and(|last| seq > last + 1) {
            watchers.missed();
        }
        *last_seq = Some(seq);
    }
    match event.name.as_str() {
        "chat" => match event.payload.read() {
            Ok(chat) => watchers.chat(&chat),
            Err(error) => tracing::debug!(%error, "a gateway's news of a chat can't be read"),
        },
        "shutdown" => tracing::info!("a gateway says that it is stopping"),
        _ => {}
    }
}

fn broken(error: &tungstenite::Error) -> GatewayFailure {
    match error {
        tungstenite::Error::Capacity(_) => {
            let message = "the gateway sent a frame over `frame_limit_kib`; the connection was closed";
            // Whatever else was in flight has no part in it, so it is worth another try.
            GatewayFailure::new(FailureClass::Transient, code::TOO_LARGE, message)
        }
        error => {
            let message = format!("the connection to the gateway broke: {error}");
            GatewayFailure::new(FailureClass::Transient, code::CLOSED, message)
        }
    }
}
