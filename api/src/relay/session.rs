//! One WebSocket: its credential, its subscriptions, its end.

use std::{collections::HashMap, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use errand_common::{
    domain::{EventType, Stream},
    port::store::Scope,
    telemetry::metric,
};
use futures::{
    StreamExt,
    stream::{self, BoxStream, SelectAll},
};
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    protocol::{ClientFrame, Close, ServerFrame},
    start::{Position, Started, start},
    watch::{Filter, Step, Watch},
};
use crate::{auth::Caller, limit, problem::Problem, state::App};

/// Serves a WebSocket to its end.
pub(crate) async fn serve(app: Arc<App>, mut socket: WebSocket, caller: Option<Arc<Caller>>, peer: IpAddr) {
    let _counted = Counted::new();
    let close = match admit(&app, &mut socket, caller, peer).await {
        Ok(caller) => {
            let mut session = Session::new(app, caller);
            session.run(&mut socket).await
        }
        Err(close) => close,
    };
    if let Some(close) = close {
        if close == Close::TooSlow {
            metrics::counter!(metric::WS_SLOW_CLOSED_TOTAL).increment(1);
        }
        say_goodbye(&mut socket, close).await;
    }
}

/// Closes, and reads until the client has closed too: to end the connection over unread frames would reset it, and the
/// client might never see why it was closed. Who does not read at all is not waited for.
async fn say_goodbye(socket: &mut WebSocket, close: Close) {
    let frame = CloseFrame { code: close.code(), reason: Utf8Bytes::from(close.reason().as_ref()) };
    if send(socket, Message::Close(Some(frame))).await.is_ok() {
        let _ = timeout(limit::WS_CLOSE, async { while let Some(Ok(_)) = socket.recv().await {} }).await;
    }
}

/// An open socket, counted as long as it is, however its task ends.
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::gauge!(metric::WS_CONNECTIONS).increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!(metric::WS_CONNECTIONS).decrement(1.0);
    }
}

/// The caller, by header or by the first frame. `Err(None)`: the client went away.
async fn admit(
    app: &App,
    socket: &mut WebSocket,
    caller: Option<Arc<Caller>>,
    peer: IpAddr,
) -> Result<Arc<Caller>, Option<Close>> {
    let caller = match caller {
        Some(caller) => caller,
        None => {
            let token = tokio::select! {
                token = timeout(limit::WS_AUTH, first_token(socket)) => {
                    token.map_err(|_| Some(Close::NoCredential))??
                }
                () = app.shutdown.cancelled() => return Err(Some(shutting_down(app))),
            };
            app.auth.verify(&token, peer).await.map_err(|problem| Some(Close::unverified(&problem)))?
        }
    };
    if caller.may(Scope::JobsRead) { Ok(caller) } else { Err(Some(Close::Forbidden)) }
}

fn shutting_down(app: &App) -> Close {
    Close::ShuttingDown { retry_after_ms: app.retry_after_ms() }
}

/// The token of the first frame.
async fn first_token(socket: &mut WebSocket) -> Result<String, Ended> {
    let unexpected = || Err(Some(Close::Protocol("the first frame must be auth")));
    loop {
        return match socket.recv().await {
            Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                Ok(ClientFrame::Auth { token }) => Ok(token),
                _ => unexpected(),
            },
            // Some clients ping by themselves.
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Binary(_))) => unexpected(),
            Some(Err(error)) => Err(too_much(&error)),
            Some(Ok(Message::Close(_))) | None => Err(None),
        };
    }
}

/// What a subscription says next.
type Spoken = (Stream, Step);

struct Session {
    app: Arc<App>,
    caller: Arc<Caller>,
    steps: SelectAll<BoxStream<'static, Spoken>>,
    subscriptions: HashMap<Stream, CancellationToken>,
}

/// Nothing more is to be said to this socket.
type Ended = Option<Close>;

impl Session {
    fn new(app: Arc<App>, caller: Arc<Caller>) -> Self {
        Self { app, caller, steps: SelectAll::new(), subscriptions: HashMap::new() }
    }

    async fn run(&mut self, socket: &mut WebSocket) -> Ended {
        let shutdown = self.app.shutdown.clone();
        let period = Duration::from_secs(self.app.config.relay.ping_seconds.into());
        let mut ping = tokio::time::interval_at(Instant::now() + period, period);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = true;
        let mut expired = pin!(self.caller.expiry());
        loop {
            let went_on = tokio::select! {
                () = shutdown.cancelled() => Err(Some(shutting_down(&self.app))),
                () = &mut expired => Err(Some(Close::CredentialExpired)),
                received = socket.recv() => {
                    heard = true;
                    match received {
                        Some(Ok(message)) => self.hear(socket, message).await,
                        Some(Err(error)) => Err(too_much(&error)),
                        None => Err(None),
                    }
                }
                Some((stream, step)) = self.steps.next() => self.speak(socket, stream, step).await,
                _ = ping.tick() => {
                    // A client that answered nothing since the last ping is gone.
                    if std::mem::take(&mut heard) { self.check(socket).await } else { Err(None) }
                }
            };
            if let Err(ended) = went_on {
                return ended;
            }
        }
    }

    async fn check(&mut self, socket: &mut WebSocket) -> Result<(), Ended> {
        if let Ok(false) = self.app.auth.still_valid(&self.caller).await {
            return Err(Some(Close::CredentialExpired));
        }
        send(socket, Message::Ping(bytes::Bytes::new())).await
    }

    async fn hear(&mut self, socket: &mut WebSocket, message: Message) -> Result<(), Ended> {
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Err(Some(Close::Protocol("frames must be JSON text"))),
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Close(_) => return Err(None),
        };
        let Ok(frame) = serde_json::from_str::<ClientFrame>(&text) else {
            return Err(Some(Close::Protocol("not a frame of errand.v1")));
        };
        match frame {
            ClientFrame::Auth { .. } => Err(Some(Close::Protocol("already authenticated"))),
            ClientFrame::Ping { id } => say(socket, &ServerFrame::Pong { id: &id }).await,
            ClientFrame::Unsubscribe { stream, .. } => {
                let subscribed = stream.parse().ok().and_then(|stream: Stream| self.subscriptions.remove(&stream));
                if let Some(token) = subscribed {
                    token.cancel();
                }
                Ok(())
            }
            ClientFrame::Subscribe { id, stream, epoch, after, types } => {
                let position =
                    (after.is_some() || epoch.is_some()).then(|| Position { epoch, after: after.unwrap_or_default() });
                self.subscribe(socket, &id, &stream, position, types).await
            }
        }
    }

    async fn subscribe(
        &mut self,
        socket: &mut WebSocket,
        id: &Value,
        stream: &str,
        position: Option<Position>,
        types: Option<Vec<EventType>>,
    ) -> Result<(), Ended> {
        let (stream, started) = match self.begin(stream, position, types).await {
            Ok(begun) => begun,
            Err(problem) => {
                let frame = ServerFrame::Error { id, code: problem.code, detail: &problem.detail };
                return say(socket, &frame).await;
            }
        };
        let Started { watch, epoch, state, snapshot } = started;
        let answer = ServerFrame::Subscribed {
            id,
            stream: stream.to_string(),
            epoch: &epoch,
            first_seq: state.first_seq,
            tail_seq: state.tail_seq,
            recovered: snapshot.is_none(),
        };
        say(socket, &answer).await?;
        if let Some(snapshot) = &snapshot {
            say(socket, &ServerFrame::Snapshot(snapshot)).await?;
        }
        let token = CancellationToken::new();
        self.steps.push(steps(stream, watch, token.clone()));
        self.subscriptions.insert(stream, token);
        Ok(())
    }

    async fn begin(
        &mut self,
        stream: &str,
        position: Option<Position>,
        types: Option<Vec<EventType>>,
    ) -> Result<(Stream, Started), Problem> {
        let refuse = |code, detail: String| Problem::new(axum::http::StatusCode::BAD_REQUEST, code, detail);
        let stream: Stream = stream.parse().map_err(|wanted: &str| refuse("invalid_stream", wanted.to_owned()))?;
        if position.as_ref().is_some_and(|position| position.after < 0) {
            return Err(refuse("invalid_position", "after must not be negative".to_owned()));
        }
        if self.subscriptions.contains_key(&stream) {
            return Err(refuse("already_subscribed", format!("{stream} is already watched by this socket")));
        }
        let most = self.app.config.relay.max_subscriptions as usize;
        if self.subscriptions.len() >= most {
            return Err(refuse("subscription_limit", format!("one socket may watch {most} streams")));
        }
        let started = start(&self.app, &self.caller, stream, position, Filter { types }).await?;
        Ok((stream, started))
    }

    async fn speak(&mut self, socket: &mut WebSocket, stream: Stream, step: Step) -> Result<(), Ended> {
        match step {
            Step::Event(frame, prev) => send(socket, Message::Text(frame.socket(prev))).await,
            Step::End => {
                self.subscriptions.remove(&stream);
                say(socket, &ServerFrame::End { stream: stream.to_string() }).await
            }
            Step::Slow => Err(Some(Close::TooSlow)),
            Step::Failed => Err(Some(Close::Unavailable)),
        }
    }
}

/// A watch as a stream of steps, up to the first that is no event, or until it is cancelled.
fn steps(stream: Stream, watch: Watch, cancelled: CancellationToken) -> BoxStream<'static, Spoken> {
    stream::unfold(Some(watch), move |watch| async move {
        let mut watch = watch?;
        let step = watch.next().await;
        let goes_on = matches!(step, Step::Event(..)).then_some(watch);
        Some(((stream, step), goes_on))
    })
    .take_until(cancelled.cancelled_owned())
    .boxed()
}

async fn say(socket: &mut WebSocket, frame: &ServerFrame<'_>) -> Result<(), Ended> {
    send(socket, Message::Text(frame.text().into())).await
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), Ended> {
    match timeout(limit::WS_SEND, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(None),
        Err(_) => Err(Some(Close::TooSlow)),
    }
}

/// A frame beyond its limit breaks the protocol; any other fault means the client is gone.
fn too_much(error: &axum::Error) -> Ended {
    let text = error.to_string();
    let capacity = text.contains("too long") || text.contains("too large") || text.contains("Space limit");
    capacity.then_some(Close::Protocol("the frame is larger than relay.frame_limit_kib"))
}
