//! The greeting: the gateway's challenge, our `connect`, its `hello-ok`.

use errand_common::{config::Secret, domain::FailureClass};
use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use super::{
    Access, GatewayFailure,
    device::{Device, Form, Statement},
    failure::{self, code},
    frame::{self, Incoming, Payload, Request},
    scope,
    transport::Socket,
};

/// Of the protocol.
const OLDEST: u32 = 3;
const NEWEST: u32 = 4;

const ROLE: &str = "operator";
/// Gateways pin it when a device is paired; one identity serves workers on any system.
const PLATFORM: &str = "linux";
/// News come of those sessions only that are asked for.
const CAPS: &[&str] = &["session-scoped-events"];
/// Most frames before the answer that are not it.
const IDLE_FRAMES: usize = 64;

/// What is shown as a token.
#[derive(Clone, Debug)]
pub(super) enum Token {
    /// Nothing.
    None,
    /// The gateway's own, shared by all.
    Shared(Secret),
    /// This device's.
    OfDevice(Secret),
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::None => "",
            Self::Shared(token) | Self::OfDevice(token) => token.expose(),
        }
    }

    fn auth(&self) -> Option<Value> {
        match self {
            Self::None => None,
            Self::Shared(token) => Some(json!({"token": token.expose()})),
            Self::OfDevice(token) => Some(json!({"deviceToken": token.expose()})),
        }
    }
}

/// How this installation introduces itself.
pub(super) struct Introduction<'a> {
    pub(super) access: Access,
    /// With [`Access::Device`].
    pub(super) device: Option<&'a Device>,
    pub(super) form: Form,
    pub(super) token: &'a Token,
}

/// What the gateway said of itself and of what we may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    pub(super) version: String,
    /// Another one means that the gateway has forgotten what it holds in memory.
    pub(super) boot_id: String,
    /// `None`: an old gateway that does not say.
    pub(super) scopes: Option<Vec<String>>,
    pub(super) device_token: Option<Secret>,
    /// Largest frame that it takes, in bytes.
    pub(super) max_payload: Option<usize>,
    pub(super) tick_millis: Option<u64>,
}

#[derive(Deserialize)]
struct Challenge {
    nonce: String,
    #[serde(default, deserialize_with = "frame::lenient")]
    ts: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawHello {
    #[serde(deserialize_with = "frame::lenient")]
    protocol: Option<u32>,
    server: RawServer,
    auth: Option<RawAuth>,
    policy: RawPolicy,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawServer {
    #[serde(deserialize_with = "frame::text")]
    version: String,
    #[serde(deserialize_with = "frame::text")]
    boot_id: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawAuth {
    #[serde(deserialize_with = "frame::lenient")]
    scopes: Option<Vec<String>>,
    #[serde(deserialize_with = "frame::lenient")]
    device_token: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawPolicy {
    #[serde(deserialize_with = "frame::lenient")]
    max_payload: Option<usize>,
    #[serde(deserialize_with = "frame::lenient")]
    tick_interval_ms: Option<u64>,
}

/// Greets. The caller bounds it in time.
pub(super) async fn greet(socket: &mut Socket, introduction: &Introduction<'_>) -> Result<Hello, GatewayFailure> {
    let challenge = challenge(socket).await?;
    let params = params(introduction, &challenge);
    let id = "connect";
    let request = serde_json::to_string(&Request::new(id, "connect", &params))
        .map_err(|error| GatewayFailure::new(FailureClass::Fatal, code::PROTOCOL, error.to_string()))?;
    socket.send(Message::text(request)).await.map_err(|error| broken(&error))?;
    for _ in 0..IDLE_FRAMES {
        let Incoming::Response(response) = next(socket).await? else { continue };
        // A frame that fails the gateway's own check is answered without our id.
        if response.id != id && response.id != "invalid" {
            continue;
        }
        return match response.outcome {
            Ok(payload) => hello(&payload),
            Err(error) => Err(failure::refused(&error)),
        };
    }
    Err(no_gateway())
}

async fn challenge(socket: &mut Socket) -> Result<Challenge, GatewayFailure> {
    for _ in 0..IDLE_FRAMES {
        if let Incoming::Event(event) = next(socket).await?
            && event.name == "connect.challenge"
            && let Ok(challenge) = event.payload.read::<Challenge>()
        {
            return Ok(challenge);
        }
    }
    Err(no_gateway())
}

fn params(introduction: &Introduction<'_>, challenge: &Challenge) -> Value {
    let (client_id, client_mode) = match introduction.access {
        Access::Device => ("gateway-client", "backend"),
        Access::ControlUi => ("openclaw-control-ui", "ui"),
    };
    let mut params = json!({
        "minProtocol": OLDEST,
        "maxProtocol": NEWEST,
        "client": {"id": client_id, "mode": client_mode, "version": env!("CARGO_PKG_VERSION"), "platform": PLATFORM},
        "role": ROLE,
        "scopes": scope::REQUESTED,
        "caps": CAPS,
    });
    if let Some(auth) = introduction.token.auth() {
        params["auth"] = auth;
    }
    if let Some(device) = introduction.device {
        // Judged by the gateway's clock, so that ours may be wrong.
        let signed_at = challenge.ts.unwrap_or_else(|| chrono::Utc::now().timestamp_millis());
        let statement = Statement {
            client_id,
            client_mode,
            role: ROLE,
            scopes: scope::REQUESTED,
            signed_at,
            token: introduction.token.text(),
            nonce: &challenge.nonce,
            platform: PLATFORM,
        };
        params["device"] = json!({
            "id": device.id(),
            "publicKey": device.public_key(),
            "signature": device.sign(introduction.form, &statement),
            "signedAt": signed_at,
            "nonce": challenge.nonce,
        });
    }
    params
}

fn hello(payload: &Payload) -> Result<Hello, GatewayFailure> {
    let raw: RawHello = payload.read().map_err(|_| no_gateway())?;
    let protocol = raw.protocol.unwrap_or(OLDEST);
    if !(OLDEST..=NEWEST).contains(&protocol) {
        let message =
            format!("protocol mismatch: the gateway speaks version {protocol}; known are {OLDEST} to {NEWEST}");
        return Err(GatewayFailure::new(FailureClass::Invalid, code::PROTOCOL, message));
    }
    let auth = raw.auth.unwrap_or_default();
    if auth.scopes.as_ref().is_some_and(Vec::is_empty) {
        let message = "the gateway let us in without any scope; give the gateway's token, and pair this device there";
        return Err(GatewayFailure::new(FailureClass::Auth, code::SCOPE, message));
    }
    Ok(Hello {
        protocol,
        version: raw.server.version,
        boot_id: raw.server.boot_id,
        scopes: auth.scopes,
        device_token: auth.device_token.map(Secret::new),
        max_payload: raw.policy.max_payload,
        tick_millis: raw.policy.tick_interval_ms,
    })
}

/// The next frame with text in it.
async fn next(socket: &mut Socket) -> Result<Incoming, GatewayFailure> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(frame::decode(&text)),
            Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                return Err(failure::turned_away(code.into(), &reason));
            }
            Some(Ok(Message::Close(None))) | None => return Err(failure::turned_away(1005, "")),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(broken(&error)),
        }
    }
}

fn broken(error: &tokio_tungstenite::tungstenite::Error) -> GatewayFailure {
    let message = format!("the connection broke before the gateway had greeted: {error}");
    GatewayFailure::new(FailureClass::Transient, code::CLOSED, message)
}

fn no_gateway() -> GatewayFailure {
    let message = "the server there does not greet as an OpenClaw gateway does";
    GatewayFailure::new(FailureClass::Invalid, code::PROTOCOL, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::device::fresh_seed;

    fn challenge() -> Challenge {
        Challenge { nonce: "n".into(), ts: Some(7) }
    }

    #[test]
    fn a_device_signs_what_the_gateway_sent() {
        let device = Device::from_seed(&fresh_seed()).expect("a key");
        let token = Token::Shared(Secret::new("t".into()));
        let introduction =
            Introduction { access: Access::Device, device: Some(&device), form: Form::V3, token: &token };
        let params = params(&introduction, &challenge());
        assert_eq!(params["auth"], json!({"token": "t"}));
        assert_eq!(params["device"]["id"], device.id());
        assert_eq!((&params["device"]["nonce"], &params["device"]["signedAt"]), (&json!("n"), &json!(7)));
        assert_eq!((&params["minProtocol"], &params["maxProtocol"]), (&json!(3), &json!(4)));
    }

    #[test]
    fn the_control_page_has_no_device() {
        let introduction =
            Introduction { access: Access::ControlUi, device: None, form: Form::V3, token: &Token::None };
        let params = params(&introduction, &challenge());
        assert_eq!((&params["client"]["id"], &params["client"]["mode"]), (&json!("openclaw-control-ui"), &json!("ui")));
        assert!(params.get("device").is_none() && params.get("auth").is_none());
    }

    #[test]
    fn a_hello_is_read_leniently_and_its_scopes_strictly() {
        let hello = |hello: Value| {
            let text = json!({"type": "res", "id": "connect", "ok": true, "payload": hello}).to_string();
            match frame::decode(&text) {
                Incoming::Response(response) => super::hello(&response.outcome.expect("ok")),
                other => panic!("{other:?}"),
            }
        };
        let old =
            hello(json!({"type": "hello-ok", "server": {"bootId": 4}, "policy": {"maxPayload": "much"}})).expect("old");
        assert_eq!((old.protocol, old.scopes, old.max_payload, old.boot_id.as_str()), (3, None, None, ""));
        let none = hello(json!({"protocol": 4, "auth": {"scopes": []}})).expect_err("no scopes");
        assert_eq!((none.class, none.code), (FailureClass::Auth, code::SCOPE));
        assert_eq!(hello(json!({"protocol": 5})).expect_err("too new").code, code::PROTOCOL);
    }
}
