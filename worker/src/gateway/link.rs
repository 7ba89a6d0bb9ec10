//! One gateway with one credential: its connection, made when it is wanted, and what follows when it can't be.

mod state;

use std::{sync::Arc, time::Duration};

use errand_common::{config::Secret, domain::FailureClass};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{sync::Mutex, time::timeout};

use state::State;

use super::{
    Access, Devices, GatewayFailure, Settings, Target, Turn, Unanswered, Watch,
    connection::Connection,
    device::{Device, Form, fresh_seed},
    failure::{self, code},
    handshake::{self, Hello, Introduction, Token},
    transport,
    turn::Turns,
    watch::Watchers,
};

/// Most ways to introduce ourselves that one attempt to connect tries.
const INTRODUCTIONS: usize = 3;

/// One gateway, as one credential sees it. Clones share its connection.
#[derive(Clone)]
pub struct Gateway(Arc<Link>);

struct Link {
    target: Target,
    settings: Arc<Settings>,
    devices: Arc<dyn Devices>,
    state: Mutex<State>,
    watchers: Arc<Watchers>,
    turns: Turns,
}

impl Gateway {
    pub(super) fn new(target: Target, settings: Arc<Settings>, devices: Arc<dyn Devices>) -> Self {
        let watchers = Arc::new(Watchers::new(settings.event_buffer));
        let state = Mutex::new(State::new());
        Self(Arc::new(Link { target, settings, devices, state, watchers, turns: Turns::default() }))
    }

    /// `host:port`, for people and for the gate.
    #[must_use]
    pub fn destination(&self) -> String {
        self.0.target.destination()
    }

    /// The gateway's own version, and which run of it this is: another one has forgotten what it held in memory. Connects.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn identity(&self) -> Result<(String, String), Unanswered> {
        let connection = self.connection().await.map_err(Unanswered::Refused)?;
        let Hello { version, boot_id, .. } = connection.hello();
        Ok((version.clone(), boot_id.clone()))
    }

    /// Ends the pause after a refusal: for whoever has just corrected what was refused.
    pub async fn try_again(&self) {
        self.0.state.lock().await.wait = None;
    }

    /// Waits until nobody else of this worker speaks to the session. The caller bounds it in time.
    pub async fn turn(&self, session_key: &str) -> Turn {
        Turn::take(self.clone(), session_key).await
    }

    /// Watches a session, or one run of it, whose id is the key of the message that begins it. To miss nothing, watch before
    /// the message is sent.
    ///
    /// # Errors
    /// If the gateway can't be asked for its news.
    pub async fn watch(&self, session_key: &str, run_id: Option<&str>) -> Result<Watch, Unanswered> {
        Watch::open(self.clone(), session_key, run_id).await
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(super) fn watchers(&self) -> &Watchers {
        &self.0.watchers
    }

    pub(super) fn turns(&self) -> &Turns {
        &self.0.turns
    }

    /// Asks, within the usual time.
    pub(super) async fn call<T: DeserializeOwned>(&self, method: &str, params: &Value) -> Result<T, Unanswered> {
        self.call_within(method, params, self.settings().request_timeout).await
    }

    pub(super) async fn call_within<T: DeserializeOwned>(
        &self,
        method: &str,
        params: &Value,
        limit: Duration,
    ) -> Result<T, Unanswered> {
        let connection = self.connection().await.map_err(Unanswered::Refused)?;
        ask(&connection, method, params, limit).await
    }

    /// The connection, made now if there is none. While the gateway is left alone, says at once why and for how long.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, GatewayFailure> {
        let mut state = self.0.state.lock().await;
        if let Some(connection) = &state.connection {
            let Some(end) = connection.ended() else { return Ok(connection.clone()) };
            let lasted = connection.age() >= self.0.settings.reconnect_max;
            state.connection = None;
            state.lost(end, lasted, &self.0.settings);
        }
        if let Some(wait) = &state.wait {
            let left = wait.left();
            if !left.is_zero() {
                return Err(wait.why.clone().after(left));
            }
        }
        match self.dial(&mut state).await {
            Ok(connection) => {
                let connection = Arc::new(connection);
                state.met(&connection.hello().boot_id, &self.0.target);
                state.connection = Some(connection.clone());
                state.wait = None;
                Ok(connection)
            }
            Err(failure) => {
                let destination = self.destination();
                tracing::warn!(
                    destination,
                    code = failure.code,
                    reason = failure.message,
                    "no connection to a gateway"
                );
                Err(state.failed(failure, &self.0.settings))
            }
        }
    }

    /// Tries to connect, in other ways too where the gateway's refusal says that another may do.
    async fn dial(&self, state: &mut State) -> Result<Connection, GatewayFailure> {
        let Link { target, settings, devices, watchers, .. } = &*self.0;
        let away = |error: super::DevicesAway| {
            GatewayFailure::new(FailureClass::Transient, code::NO_IDENTITY, error.to_string())
        };
        let (device, kept) = match target.access() {
            Access::ControlUi => (None, None),
            Access::Device => {
                let kept = devices.device(target.gateway(), fresh_seed()).await.map_err(away)?;
                let device = Device::from_seed(&kept.seed).ok_or_else(|| {
                    let message = "the key kept for this gateway is none; delete it, and pair this installation anew";
                    GatewayFailure::new(FailureClass::Auth, code::AUTH, message)
                })?;
                (Some(device), Some(kept))
            }
        };
        let kept_token = kept.as_ref().and_then(|kept| kept.token.clone());
        let mut token = match (target.token(), &kept_token) {
            (Some(shared), _) => Token::Shared(shared.clone()),
            (None, Some(kept)) => Token::OfDevice(kept.clone()),
            (None, None) => Token::None,
        };
        let mut tries = 0;
        loop {
            tries += 1;
            let introduction =
                Introduction { access: target.access(), device: device.as_ref(), form: state.form, token: &token };
            let refusal = match self.greet(&introduction).await {
                Ok((socket, hello)) => {
                    if let (Some(given), Some(kept)) = (&hello.device_token, &kept)
                        && kept.token.as_ref() != Some(given)
                    {
                        devices.keep_token(target.gateway(), &kept.seed, Some(given.clone())).await.map_err(away)?;
                    }
                    return Ok(Connection::start(socket, hello, settings, watchers.clone()));
                }
                Err(refusal) => refusal,
            };
            let other = match (refusal.detail(), &token) {
                _ if tries == INTRODUCTIONS => None,
                ("DEVICE_AUTH_SIGNATURE_INVALID", _) if state.form == Form::V3 => {
                    state.form = Form::V2;
                    Some(token.clone())
                }
                ("AUTH_TOKEN_MISMATCH", Token::Shared(_)) if may_use_device_token(&refusal) => {
                    kept_token.clone().map(Token::OfDevice)
                }
                ("AUTH_DEVICE_TOKEN_MISMATCH", Token::OfDevice(_)) => {
                    if let Some(kept) = &kept {
                        devices.keep_token(target.gateway(), &kept.seed, None).await.map_err(away)?;
                    }
                    None
                }
                _ => None,
            };
            let Some(other) = other else { return Err(refusal) };
            token = other;
        }
    }

    async fn greet(&self, introduction: &Introduction<'_>) -> Result<(transport::Socket, Hello), GatewayFailure> {
        let Link { target, settings, .. } = &*self.0;
        let mut socket = transport::open(target, settings).await?;
        match timeout(settings.handshake_timeout, handshake::greet(&mut socket, introduction)).await {
            Ok(hello) => Ok((socket, without_secrets(hello, introduction.token)?)),
            Err(_) => Err(failure::silent("greet", settings.handshake_timeout)),
        }
    }

    /// How long nobody has used it.
    pub(super) fn unused_for(&self) -> Option<Duration> {
        if Arc::strong_count(&self.0) > 1 || !self.0.watchers.is_empty() {
            return None;
        }
        // Whoever holds the lock uses it.
        let state = self.0.state.try_lock().ok()?;
        Some(state.connection.as_ref().map_or(Duration::MAX, |connection| connection.unused_for()))
    }

    /// Whether it is left alone now: it must be remembered until that is over.
    pub(super) fn is_left_alone(&self) -> bool {
        self.0.state.try_lock().is_ok_and(|state| state.wait.as_ref().is_some_and(|wait| !wait.left().is_zero()))
    }

    /// Ends its connection, if it has one; the next request makes another.
    pub(super) async fn close(&self) {
        let connection = self.0.state.lock().await.connection.take();
        if let Some(connection) = connection {
            connection.close().await;
        }
    }
}

/// Asks over one connection.
pub(super) async fn ask<T: DeserializeOwned>(
    connection: &Connection,
    method: &str,
    params: &Value,
    limit: Duration,
) -> Result<T, Unanswered> {
    let payload = connection.request(method, params, limit).await?;
    payload.read().map_err(|error| {
        // It did what was asked; only its answer is lost.
        let message = format!("Invalid gateway response to {method}: {error}");
        Unanswered::Doubt(GatewayFailure::new(FailureClass::Invalid, code::BAD_ANSWER, message))
    })
}

fn may_use_device_token(refusal: &GatewayFailure) -> bool {
    refusal.details.get("canRetryWithDeviceToken").and_then(Value::as_bool) == Some(true)
}

/// A refusal that repeats our token does not tell it on.
fn without_secrets(hello: Result<Hello, GatewayFailure>, token: &Token) -> Result<Hello, GatewayFailure> {
    hello.map_err(|mut failure| {
        if let Token::Shared(secret) | Token::OfDevice(secret) = token {
            let secret: &Secret = secret;
            failure.message = failure.message.replace(secret.expose(), "***");
        }
        failure
    })
}
