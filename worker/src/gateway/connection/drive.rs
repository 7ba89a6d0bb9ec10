//! The two directions of a socket, until one of them ends.

use std::{sync::Arc, time::Duration};

use errand_common::domain::FailureClass;
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite::{
    self, Message, Utf8Bytes,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{CLOSE_LIMIT, Outgoing};
use crate::gateway::{
    GatewayFailure,
    counted::{self, Counted},
    failure::{self, code},
    frame::{self, Event, Incoming},
    requests::Requests,
    transport::Socket,
    watch::Watchers,
};

/// When a silent gateway counts as gone.
#[derive(Clone, Copy)]
pub(super) struct Pulse {
    /// Between two pings of ours; the gateway must be heard within two of them.
    pub(super) ping: Duration,
    /// Between two ticks of the gateway's own; it must say something within two of them.
    pub(super) tick: Option<Duration>,
    /// How long a frame may take to be written.
    pub(super) write_limit: Duration,
}

impl Pulse {
    /// Until when the gateway must be heard, and until when it must say something.
    fn deadline(&self, heard_at: Instant, said_at: Instant) -> Instant {
        let heard = heard_at + self.ping * 2;
        self.tick.map_or(heard, |tick| heard.min(said_at + tick * 2 + self.ping))
    }
}

/// Ends what is in flight, also when the task itself is ended.
struct End(Arc<Requests>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end(GatewayFailure::new(FailureClass::Transient, code::CLOSED, "the connection was given up"));
    }
}

/// Runs a connection to its end.
pub(super) async fn drive(
    socket: Socket,
    queued: mpsc::Receiver<Outgoing>,
    requests: Arc<Requests>,
    watchers: Arc<Watchers>,
    pulse: Pulse,
) {
    let _counted = Counted::new(counted::State::Open);
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
