//! The connection to a server: one request, one answer's head.

use std::time::Duration;

use chrono::Utc;
use errand_common::{
    config::Secret,
    domain::FailureClass,
    telemetry::trace::{Kind, Span},
    wire::http,
};
use reqwest::{
    Response, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use serde_json::Value;

use super::failure::{ErrorBody, Refusal, silent, transport};
use crate::{
    engine::{TurnFailure, code},
    retry_after::retry_after,
    traced,
};

/// Most of a refusal's body that is read, in bytes.
const REFUSAL_LIMIT: usize = 64 * 1024;
/// Longest wait for a refusal's body.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a server is.
pub(in crate::engine) struct Address<'a> {
    /// The engine's name.
    pub(in crate::engine) engine: &'a str,
    /// As configured.
    pub(in crate::engine) base_url: &'a str,
    /// Where prompts go, below it.
    pub(in crate::engine) prompts: &'a str,
    /// What can be asked for nothing, below it.
    pub(in crate::engine) models: &'a str,
    /// Whose protocol it speaks, as traces name it.
    pub(in crate::engine) provider: &'static str,
    /// What `base_url` is to be, for a person who has it wrong.
    pub(in crate::engine) form: &'a str,
}

/// How a key is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) enum KeyHeader {
    /// `Authorization: Bearer …`
    Bearer,
    /// `x-api-key: …`
    XApiKey,
}

/// A client of one server.
pub(super) struct Client {
    http: reqwest::Client,
    prompts: Url,
    models: Url,
    first_byte: Duration,
    /// Sent with each request.
    headers: HeaderMap,
    key_header: KeyHeader,
    provider: &'static str,
}

impl Client {
    /// Or a sentence that says what to correct.
    pub(super) fn new(
        address: &Address<'_>,
        connect: Duration,
        first_byte: Duration,
        headers: HeaderMap,
        key_header: KeyHeader,
    ) -> Result<Self, String> {
        let base = address.base_url.trim_end_matches('/');
        let url = |path: &str| match Url::parse(&format!("{base}/{path}")) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
            _ => {
                let Address { engine, form, .. } = address;
                Err(format!("the `base_url` of engine {engine:?} must be an http or https URL {form}"))
            }
        };
        let http = reqwest::Client::builder()
            .connect_timeout(connect)
            .redirect(Policy::none())
            .user_agent(concat!("errand/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("no HTTP client could be made: {error}"))?;
        let (prompts, models, provider) = (url(address.prompts)?, url(address.models)?, address.provider);
        Ok(Self { http, prompts, models, first_byte, headers, key_header, provider })
    }

    /// Host and port: what a person needs to find it, without what a URL may hide; and the name of its gate.
    pub(super) fn destination(&self) -> String {
        http::destination(&self.prompts)
    }

    /// The span of one question to a model.
    pub(super) fn span(&self, model: &str) -> Span {
        let mut span = Span::child(Kind::Client, || format!("chat {model}"));
        span.set("gen_ai.operation.name", "chat");
        span.set("gen_ai.provider.name", self.provider);
        span.set("gen_ai.request.model", model);
        traced::at(&mut span, &self.prompts);
        span
    }

    /// Sends the request, and returns once the head of a good answer is there.
    pub(super) async fn post(&self, body: &Value, key: Option<&Secret>) -> Result<Response, Refusal> {
        let mut headers = self.headers.clone();
        traced::carry(&mut headers);
        let mut call = self.http.post(self.prompts.clone()).headers(headers).json(body);
        if let Some(key) = key {
            let (name, value) = self.key_header(key).map_err(|failure| Refusal::without_answer(failure, false))?;
            call = call.header(name, value);
        }
        let response = match tokio::time::timeout(self.first_byte, call.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let what = if error.is_connect() { "can't be reached" } else { "broke the connection" };
                let failure = transport(&format!("the server {} {what}", self.destination()), &error);
                return Err(Refusal::without_answer(failure, !error.is_connect()));
            }
            Err(_) => return Err(Refusal::without_answer(silent(self.first_byte), true)),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let retry_after = retry_after(response.headers(), Utc::now());
        let should_retry = response.headers().get("x-should-retry").and_then(|value| match value.as_bytes() {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        });
        // A refusal whose body does not come is judged by its status alone.
        let error = tokio::time::timeout(REFUSAL_TIMEOUT, read_error(response)).await.unwrap_or_default();
        Err(Refusal { status, error, retry_after, should_retry, key: key.cloned(), failure: None, in_doubt: false })
    }

    fn key_header(&self, key: &Secret) -> Result<(HeaderName, HeaderValue), TurnFailure> {
        let (name, text) = match self.key_header {
            KeyHeader::Bearer => (AUTHORIZATION, format!("Bearer {}", key.expose())),
            KeyHeader::XApiKey => (HeaderName::from_static("x-api-key"), key.expose().to_owned()),
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| {
            let message = "the key holds characters that no HTTP header may hold; correct it";
            TurnFailure::new(FailureClass::Auth, code::ENGINE_AUTH, message)
        })?;
        value.set_sensitive(true);
        Ok((name, value))
    }

    /// Whether anything answers there. Asks for the list of models, which costs nothing; any answer will do.
    pub(super) async fn is_reachable(&self, limit: Duration) -> Result<(), String> {
        let host = self.destination();
        match tokio::time::timeout(limit, self.http.get(self.models.clone()).send()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let reason = transport("it can't be reached", &error).message;
                Err(format!("{reason}; is the server at {host} running, and is `base_url` right?"))
            }
            Err(_) => Err(format!("the server at {host} did not answer within {} s", limit.as_secs())),
        }
    }
}

/// The error in a refusal's body, as far as there is one.
async fn read_error(mut response: Response) -> ErrorBody {
    let mut body = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        body.extend_from_slice(&piece);
        if body.len() > REFUSAL_LIMIT {
            return ErrorBody::default();
        }
    }
    let Ok(body) = serde_json::from_slice::<Value>(&body) else { return ErrorBody::default() };
    // Some put the error's fields at the top.
    ErrorBody::from(body.get("error").unwrap_or(&body))
}
