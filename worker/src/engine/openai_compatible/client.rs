//! The connection to a server: one request, one answer's head.

use std::time::Duration;

use chrono::Utc;
use errand_common::{
    config::{OpenAiCompatibleEngine, Secret},
    domain::FailureClass,
};
use reqwest::{
    Response, Url,
    header::{AUTHORIZATION, HeaderValue},
    redirect::Policy,
};
use serde_json::Value;

use super::{
    failure::{Refusal, silent, transport},
    wire::{ErrorBody, Request},
};
use crate::{
    engine::{TurnFailure, code},
    retry_after::retry_after,
};

/// Most of a refusal's body that is read, in bytes.
const REFUSAL_LIMIT: usize = 64 * 1024;

/// A client of one server.
pub(super) struct Client {
    http: reqwest::Client,
    completions: Url,
    models: Url,
    first_byte: Duration,
}

impl Client {
    /// Or a sentence that says what to correct.
    pub(super) fn new(name: &str, config: &OpenAiCompatibleEngine) -> Result<Self, String> {
        let base = config.base_url.trim_end_matches('/');
        let url = |path: &str| match Url::parse(&format!("{base}/{path}")) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
            _ => Err(format!("the `base_url` of engine {name:?} must be an http or https URL up to and including /v1")),
        };
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(config.connect_timeout_seconds.into()))
            .redirect(Policy::none())
            .user_agent(concat!("errand/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("no HTTP client could be made: {error}"))?;
        Ok(Self {
            http,
            completions: url("chat/completions")?,
            models: url("models")?,
            first_byte: Duration::from_secs(config.first_byte_timeout_seconds.into()),
        })
    }

    /// Sends the request, and returns once the head of a good answer is there.
    pub(super) async fn complete(&self, request: &Request<'_>, key: Option<&Secret>) -> Result<Response, Refusal> {
        let mut call = self.http.post(self.completions.clone()).json(request);
        if let Some(key) = key {
            let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", key.expose())) else {
                let message = "the key holds characters that no HTTP header may hold; correct it";
                let failure = TurnFailure::new(FailureClass::Auth, code::ENGINE_AUTH, message);
                return Err(Refusal::without_answer(failure));
            };
            value.set_sensitive(true);
            call = call.header(AUTHORIZATION, value);
        }
        let response = match tokio::time::timeout(self.first_byte, call.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let host = place(&self.completions);
                let what = if error.is_connect() { "can't be reached" } else { "broke the connection" };
                return Err(Refusal::without_answer(transport(&format!("the server {host} {what}"), &error)));
            }
            Err(_) => return Err(Refusal::without_answer(silent(self.first_byte))),
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, retry_after) = (response.status(), retry_after(response.headers(), Utc::now()));
        // A refusal whose body does not come is judged by its status alone.
        let error = tokio::time::timeout(self.first_byte, read_error(response)).await.unwrap_or_default();
        Err(Refusal { status, error, retry_after, key: key.cloned(), failure: None })
    }

    /// Whether anything answers there. Asks for the list of models, which costs nothing; any answer will do.
    pub(super) async fn is_reachable(&self, limit: Duration) -> Result<(), String> {
        let host = place(&self.models);
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

/// Host and port: what a person needs to find a server, without what a URL may hide.
fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
