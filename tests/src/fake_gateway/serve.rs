//! Connections to the fake.

use std::{collections::VecDeque, sync::Arc};

use futures::{SinkExt, StreamExt};
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{broadcast, mpsc},
    time::{Instant, interval_at},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::{HeaderValue, StatusCode, header::RETRY_AFTER},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use uuid::Uuid;

use super::{
    Shared,
    fault::{Fault, invalid},
    greet::{self, Guest},
    method,
    world::{World, text},
};

/// To all connections.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// Tell of this.
    Event { name: &'static str, session_key: Option<String>, payload: Value },
    /// Leave so many events out.
    Lose(usize),
    /// End with this code.
    Close(u16, &'static str),
    /// Break.
    Cut,
}

/// From a request to its connection.
enum Out {
    Frame(String),
    /// The beginning of a frame, and the end of the connection.
    Torn(String),
    Close(u16, &'static str),
    Cut,
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}
type Socket = WebSocketStream<Box<dyn Wire>>;

pub(super) async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        if shared.world().away {
            stream.set_zero_linger().ok();
            continue;
        }
        shared.world().connections += 1;
        let connection = serve(shared.clone(), stream);
        shared.spawn(connection);
    }
}

async fn serve(shared: Arc<Shared>, stream: TcpStream) {
    stream.set_nodelay(true).ok();
    let stream: Box<dyn Wire> = match &shared.options.tls {
        None => Box::new(stream),
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => Box::new(stream),
            Err(_) => return,
        },
    };
    let (refused, retry_after) = match shared.world().next_fault("upgrade") {
        Some(Fault::Status(status)) => (StatusCode::from_u16(status).ok(), None),
        Some(Fault::ComeLater(when)) => (Some(StatusCode::SERVICE_UNAVAILABLE), Some(when)),
        _ => (None, None),
    };
    let mut origin = None;
    #[expect(clippy::result_large_err, reason = "the library's own callback type")]
    let judge = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        origin = request.headers().get("origin").and_then(|origin| origin.to_str().ok()).map(str::to_owned);
        match refused {
            None => Ok(response),
            Some(status) => {
                let mut refusal = ErrorResponse::new(None);
                *refusal.status_mut() = status;
                if let Some(when) = retry_after {
                    refusal.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(when));
                }
                Err(refusal)
            }
        }
    };
    let Ok(mut socket) = accept_hdr_async(stream, judge).await else { return };
    if let Some(guest) = welcome(&shared, &mut socket, origin.as_deref()).await {
        converse(&shared, socket, guest).await;
    }
}

async fn send(socket: &mut Socket, frame: Value) -> Option<()> {
    socket.send(Message::text(frame.to_string())).await.ok()
}

async fn close(socket: &mut Socket, code: u16, reason: &str) {
    let frame = CloseFrame { code: CloseCode::from(code), reason: reason.to_owned().into() };
    socket.close(Some(frame)).await.ok();
}

/// Greets; `None` if the client was turned away.
async fn welcome(shared: &Shared, socket: &mut Socket, origin: Option<&str>) -> Option<Guest> {
    let nonce = Uuid::new_v4().to_string();
    let challenge = json!({"nonce": nonce, "ts": chrono::Utc::now().timestamp_millis()});
    send(socket, json!({"type": "event", "event": "connect.challenge", "payload": challenge})).await?;
    let frame = loop {
        match socket.next().await? {
            Ok(Message::Text(text)) => break serde_json::from_str::<Value>(&text).ok()?,
            Ok(_) => {}
            Err(_) => return None,
        }
    };
    let id = frame["id"].clone();
    let params = frame["params"].as_object().cloned().unwrap_or_default();
    let fault = {
        let mut world = shared.world();
        world.requests.entry("connect".to_owned()).or_default().push(Value::Object(params.clone()));
        world.next_fault("connect")
    };
    match fault {
        Some(Fault::Hang) => std::future::pending::<()>().await,
        Some(Fault::CutBefore) => return None,
        Some(Fault::Close(code, reason)) => {
            close(socket, code, reason).await;
            return None;
        }
        Some(Fault::Refuse(error)) => {
            send(socket, json!({"type": "res", "id": id, "ok": false, "error": error})).await?;
            close(socket, 1008, "").await;
            return None;
        }
        Some(Fault::Answer(payload)) => {
            send(socket, json!({"type": "res", "id": id, "ok": true, "payload": payload})).await?;
            return None;
        }
        Some(Fault::Hello(payload)) => {
            send(socket, json!({"type": "res", "id": id, "ok": true, "payload": payload})).await?;
            let scopes = vec!["operator.admin".to_owned()];
            return Some(Guest { scopes, scoped_events: true, hello: payload });
        }
        _ => {}
    }
    let verdict = if frame["method"] == "connect" {
        greet::judge(shared, &params, &nonce, origin)
    } else {
        Err((invalid("the first request must be connect"), 1008))
    };
    match verdict {
        Ok(guest) => {
            send(socket, json!({"type": "res", "id": id, "ok": true, "payload": guest.hello})).await?;
            Some(guest)
        }
        Err((error, code)) => {
            let reason = error["message"].as_str().unwrap_or_default().to_owned();
            send(socket, json!({"type": "res", "id": id, "ok": false, "error": error})).await?;
            close(socket, code, &reason).await;
            None
        }
    }
}

/// What one connection has asked to hear of; `None` is all.
struct Ears {
    subscribed: Option<Vec<String>>,
    /// Of events.
    seq: u64,
    lose: usize,
}

async fn converse(shared: &Arc<Shared>, mut socket: Socket, guest: Guest) {
    let mut orders = shared.orders.subscribe();
    let (out, mut outs) = mpsc::unbounded_channel();
    let mut ears = Ears { subscribed: guest.scoped_events.then(Vec::new), seq: 0, lose: 0 };
    let mut ticks = interval_at(Instant::now() + shared.options.tick, shared.options.tick);
    if shared.options.mute {
        // It neither reads nor writes: no ping is answered.
        return std::future::pending().await;
    }
    loop {
        let event = tokio::select! {
            incoming = socket.next() => match incoming {
                Some(Ok(Message::Text(text))) => {
                    if let Ok(frame) = serde_json::from_str::<Value>(&text) {
                        request(shared, &guest.scopes, &mut ears, &frame, out.clone());
                    }
                    continue;
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
            outgoing = outs.recv() => {
                let sent = match outgoing {
                    Some(Out::Frame(frame)) => socket.send(Message::text(frame)).await.is_ok(),
                    Some(Out::Torn(frame)) => {
                        tear(&mut socket, &frame).await;
                        false
                    }
                    Some(Out::Close(code, reason)) => {
                        close(&mut socket, code, reason).await;
                        false
                    }
                    Some(Out::Cut) | None => false,
                };
                if sent { continue } else { return }
            },
            order = orders.recv() => match order {
                Ok(Order::Cut) | Err(broadcast::error::RecvError::Closed) => return,
                Ok(Order::Close(code, reason)) => {
                    let stopping = json!({"type": "event", "event": "shutdown", "payload": {"reason": "gateway stopping"}});
                    let _ = send(&mut socket, stopping).await;
                    return close(&mut socket, code, reason).await;
                }
                Ok(Order::Lose(count)) => {
                    ears.lose = count;
                    continue;
                }
                Ok(order) if method::hears(&order, ears.subscribed.as_deref()) => order,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => continue,
            },
            _ = ticks.tick() => Order::Event { name: "tick", session_key: None, payload: json!({"ts": 0}) },
        };
        let Order::Event { name, payload, .. } = event else { continue };
        ears.seq += 1;
        if ears.lose > 0 {
            ears.lose -= 1;
            continue;
        }
        let frame = json!({"type": "event", "event": name, "seq": ears.seq, "payload": payload});
        if send(&mut socket, frame).await.is_none() {
            return;
        }
    }
}

/// Writes the head of a text frame, and half of its text.
async fn tear(socket: &mut Socket, frame: &str) {
    let length = u16::try_from(frame.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![0x81, 126];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&frame.as_bytes()[..frame.len() / 2]);
    let wire = socket.get_mut();
    wire.write_all(&bytes).await.ok();
    wire.flush().await.ok();
}

/// Takes one request: it is worked on beside others, and goes wrong as scripted.
fn request(shared: &Arc<Shared>, scopes: &[String], ears: &mut Ears, frame: &Value, out: mpsc::UnboundedSender<Out>) {
    let params = frame["params"].as_object().cloned().unwrap_or_default();
    let (id, method) = (frame["id"].clone(), frame["method"].as_str().unwrap_or_default().to_owned());
    if let Some(fault) = strange(frame) {
        out.send(Out::Frame(reply(&id, &Err(invalid(fault))))).ok();
        return;
    }
    let fault = {
        let mut world = shared.world();
        world.traces.push((method.clone(), frame["traceparent"].as_str().unwrap_or_default().to_owned()));
        world.requests.entry(method.clone()).or_default().push(Value::Object(params.clone()));
        world.calls.push(method.clone());
        world.next_fault(&method).or_else(|| world.fault_of_session(&method, &params))
    };
    subscribe(ears, &method, &params);
    let (weak, scopes) = (Arc::downgrade(shared), scopes.to_vec());
    shared.spawn(async move {
        let Some(shared) = weak.upgrade() else { return };
        let outs = answer(&shared, &scopes, &method, &params, fault, &id).await;
        for one in outs {
            out.send(one).ok();
        }
    });
}

/// What a gateway does not take of a request, whatever it asks for.
fn strange(frame: &Value) -> Option<String> {
    const FIELDS: &[&str] = &["type", "id", "method", "params", "traceparent", "expectedProfileId"];
    const TRACE_CHARS: usize = 128;
    let unknown = frame.as_object()?.keys().find(|name| !FIELDS.contains(&name.as_str()));
    let too_long = frame["traceparent"].as_str().is_some_and(|trace| trace.chars().count() > TRACE_CHARS);
    let unknown = unknown.map(|name| format!("invalid request frame: at root: unexpected property '{name}'"));
    unknown.or_else(|| too_long.then(|| "invalid request frame: at /traceparent: too long".to_owned()))
}

fn subscribe(ears: &mut Ears, method: &str, params: &Map<String, Value>) {
    let Some(subscribed) = &mut ears.subscribed else { return };
    let key = World::canonical(&text(params, "key"));
    match method {
        "sessions.messages.subscribe" => subscribed.push(key),
        "sessions.messages.unsubscribe" => subscribed.retain(|other| *other != key),
        _ => {}
    }
}

fn reply(id: &Value, outcome: &Result<Value, Value>) -> String {
    match outcome {
        Ok(payload) => json!({"type": "res", "id": id, "ok": true, "payload": payload}),
        Err(error) => json!({"type": "res", "id": id, "ok": false, "error": error}),
    }
    .to_string()
}

async fn answer(
    shared: &Arc<Shared>,
    scopes: &[String],
    method: &str,
    params: &Map<String, Value>,
    fault: Option<Fault>,
    id: &Value,
) -> VecDeque<Out> {
    match &fault {
        Some(Fault::CutBefore) => return [Out::Cut].into(),
        Some(Fault::Hang | Fault::Status(_) | Fault::ComeLater(_) | Fault::Hello(_)) => return VecDeque::new(),
        Some(Fault::Close(code, reason)) => return [Out::Close(*code, reason)].into(),
        Some(Fault::Refuse(error)) => return [Out::Frame(reply(id, &Err(error.clone())))].into(),
        Some(Fault::DoneLate(pause)) => tokio::time::sleep(*pause).await,
        _ => {}
    }
    let right = method::perform(shared, scopes, method, params).await;
    let frame = reply(id, &right);
    match fault {
        Some(Fault::CutAfter) => [Out::Cut].into(),
        Some(Fault::CutInFrame) => [Out::Torn(frame)].into(),
        Some(Fault::HangAfter) => VecDeque::new(),
        Some(Fault::Twice) => [Out::Frame(frame.clone()), Out::Frame(frame)].into(),
        Some(Fault::Late(pause)) => {
            tokio::time::sleep(pause).await;
            [Out::Frame(frame)].into()
        }
        Some(Fault::Answer(payload)) => [Out::Frame(reply(id, &Ok(payload)))].into(),
        Some(Fault::Huge(bytes)) => [Out::Frame(reply(id, &Ok(json!("x".repeat(bytes)))))].into(),
        Some(Fault::Garbage) => [Out::Frame("{half of a frame".to_owned())].into(),
        Some(Fault::Restart) => {
            shared.restart();
            VecDeque::new()
        }
        _ => [Out::Frame(frame)].into(),
    }
}
