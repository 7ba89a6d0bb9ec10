//! The fake's side of the greeting: who comes, with which right, and as what.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::{
    digest::{SHA256, digest},
    signature::{ED25519, UnparsedPublicKey},
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    Shared,
    fault::{detailed, invalid},
    world::{PairedDevice, text},
};

/// Fields that `connect` takes.
const CONNECT: &[&str] =
    &["minProtocol", "maxProtocol", "client", "role", "scopes", "caps", "auth", "device", "locale", "userAgent"];

/// A client that was let in.
pub(super) struct Guest {
    pub(super) scopes: Vec<String>,
    /// It hears of those sessions only that it asks for.
    pub(super) scoped_events: bool,
    pub(super) hello: Value,
}

/// Why one was not: the error, and the code of the close.
pub(super) type TurnedAway = (Value, u16);

/// Judges a `connect`.
pub(super) fn judge(
    shared: &Shared,
    params: &Map<String, Value>,
    nonce: &str,
    origin: Option<&str>,
) -> Result<Guest, TurnedAway> {
    if let Some(unknown) = params.keys().find(|name| !CONNECT.contains(&name.as_str())) {
        return Err((invalid(format!("invalid connect params: at root: unexpected property '{unknown}'")), 1008));
    }
    let version =
        |name: &str| params.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    let (oldest, newest) = (version("minProtocol"), version("maxProtocol"));
    let spoken = shared.options.protocol.clone().rev().find(|version| (oldest..=newest).contains(version));
    let Some(protocol) = spoken else {
        let details = json!({"code": "PROTOCOL_MISMATCH", "expectedProtocol": shared.options.protocol.end()});
        return Err((detailed("INVALID_REQUEST", "protocol mismatch", &details), 1002));
    };
    let client = params.get("client").and_then(Value::as_object).cloned().unwrap_or_default();
    let who = (text(&client, "id"), text(&client, "mode"));
    let control_page = who == ("openclaw-control-ui".to_owned(), "ui".to_owned());
    if !control_page && who != ("gateway-client".to_owned(), "backend".to_owned()) {
        return Err((invalid("invalid connect params: at /client/id"), 1008));
    }
    if control_page && origin.is_none() {
        return Err((refusal("CONTROL_UI_ORIGIN_NOT_ALLOWED", "origin not allowed"), 1008));
    }
    let device = params.get("device").and_then(Value::as_object);
    if let Some(device) = device {
        signature(shared, params, device, nonce).map_err(|code| (refusal(code, "device identity refused"), 1008))?;
    } else if !control_page {
        let details = json!({"code": "DEVICE_IDENTITY_REQUIRED"});
        return Err((detailed("NOT_PAIRED", "device identity required", &details), 1008));
    }
    let device_token = admit(shared, params, device.map(|device| text(device, "id")))?;
    let asked = params.get("scopes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let scopes: Vec<String> = asked.filter(|scope| shared.options.scopes.contains(scope)).map(str::to_owned).collect();
    let caps = params.get("caps").and_then(Value::as_array).into_iter().flatten();
    let mut auth = json!({"method": "token", "role": "operator", "scopes": scopes});
    if let Some(token) = device_token {
        auth["deviceToken"] = json!(token);
    }
    let hello = json!({
        "type": "hello-ok",
        "protocol": protocol,
        "server": {"version": "fake", "bootId": shared.world().boot_id, "connId": Uuid::new_v4()},
        "features": {"methods": [], "events": ["chat", "tick"]},
        "snapshot": {"presence": [], "health": {}, "uptimeMs": 1},
        "auth": auth,
        "policy": {
            "maxPayload": 26_214_400,
            "maxBufferedBytes": 52_428_800,
            "tickIntervalMs": u64::try_from(shared.options.tick.as_millis()).unwrap_or(u64::MAX),
        },
    });
    let scoped_events = caps.filter_map(Value::as_str).any(|cap| cap == "session-scoped-events");
    Ok(Guest { scopes, scoped_events, hello })
}

fn refusal(code: &str, message: &str) -> Value {
    detailed("INVALID_REQUEST", message, &json!({"code": code}))
}

/// Whether the device has the key that it names, and signed what it sends.
fn signature(
    shared: &Shared,
    params: &Map<String, Value>,
    device: &Map<String, Value>,
    nonce: &str,
) -> Result<(), &'static str> {
    let decode = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(text(device, name)).unwrap_or_default();
    let (id, public) = (text(device, "id"), decode("publicKey"));
    let of_key: String = digest(&SHA256, &public).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if of_key != id {
        return Err("DEVICE_AUTH_DEVICE_ID_MISMATCH");
    }
    if text(device, "nonce") != nonce {
        return Err("DEVICE_AUTH_NONCE_MISMATCH");
    }
    let section = |name: &str| params.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
    let (client, auth) = (section("client"), section("auth"));
    let scopes = params.get("scopes").and_then(Value::as_array).into_iter().flatten();
    let scopes = scopes.filter_map(Value::as_str).collect::<Vec<_>>().join(",");
    let token = [text(&auth, "token"), text(&auth, "deviceToken")].into_iter().find(|token| !token.is_empty());
    let parts = [
        id,
        text(&client, "id"),
        text(&client, "mode"),
        text(params, "role"),
        scopes,
        device.get("signedAt").and_then(Value::as_u64).unwrap_or(0).to_string(),
        token.unwrap_or_default(),
        nonce.to_owned(),
    ];
    let common = parts.join("|");
    let newer = format!("v3|{common}|{}|{}", text(&client, "platform"), text(&client, "deviceFamily"));
    let key = UnparsedPublicKey::new(&ED25519, public);
    let signed = |text: &str| key.verify(text.as_bytes(), &decode("signature")).is_ok();
    if signed(&format!("v2|{common}")) || (!shared.options.old_signatures && signed(&newer)) {
        Ok(())
    } else {
        Err("DEVICE_AUTH_SIGNATURE_INVALID")
    }
}

/// Lets in whoever has the shared token or a paired device's; returns the device's token.
fn admit(shared: &Shared, params: &Map<String, Value>, device: Option<String>) -> Result<Option<String>, TurnedAway> {
    let auth = params.get("auth").and_then(Value::as_object).cloned().unwrap_or_default();
    let mut world = shared.world();
    let shared_token = world.token.clone().or_else(|| shared.options.token.clone());
    let (shown, shown_as_device) = (text(&auth, "token"), text(&auth, "deviceToken"));
    let paired = device.as_ref().and_then(|id| world.devices.get(id)).filter(|device| device.approved).cloned();
    let of_device = |shown: &str| paired.as_ref().is_some_and(|device| device.token.as_deref() == Some(shown));
    let by_device = of_device(&shown_as_device) || of_device(&shown);
    if !by_device && !shown_as_device.is_empty() {
        return Err((refusal("AUTH_DEVICE_TOKEN_MISMATCH", "unauthorized: device token mismatch"), 1008));
    }
    if !by_device && shared_token.as_ref().is_some_and(|token| *token != shown) {
        let details = json!({
            "code": "AUTH_TOKEN_MISMATCH",
            "canRetryWithDeviceToken": paired.is_some_and(|device| device.token.is_some()),
        });
        return Err((detailed("INVALID_REQUEST", "unauthorized: gateway token mismatch", &details), 1008));
    }
    let Some(id) = device else { return Ok(None) };
    let known = world.devices.entry(id).or_insert_with(|| PairedDevice {
        approved: !shared.options.approves,
        request_id: Uuid::new_v4().to_string(),
        token: None,
    });
    if known.approved {
        return Ok(known.token.clone());
    }
    let details = json!({"code": "PAIRING_REQUIRED", "reason": "not-paired", "requestId": known.request_id});
    Err((detailed("NOT_PAIRED", "pairing required: device is not approved yet", &details), 1008))
}
