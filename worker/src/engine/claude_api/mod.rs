//! `claude_api`: Claude, over the Messages API.

mod answer;
mod request;

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use errand_common::config::{ClaudeApiEngine, ClaudeAuth};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use self::{answer::Message, request::request};
use super::{
    Availability, Capabilities, Engine, Turn, TurnContext, TurnEnd, TurnFailure,
    prices::PriceTable,
    server::{Address, KeyHeader, Limits, Listener, Protocol, Round, Server},
    toolbox::Toolbox,
};

/// The version of the API that is spoken here.
const API_VERSION: &str = "2023-06-01";

/// The Messages API.
pub(super) struct ClaudeApi {
    config: ClaudeApiEngine,
    server: Server,
}

impl ClaudeApi {
    pub(super) fn new(name: &str, config: &ClaudeApiEngine, prices: PriceTable, guard_program: Arc<Path>) -> Self {
        let address = Address {
            engine: name,
            base_url: &config.base_url,
            prompts: "v1/messages",
            models: "v1/models",
            provider: "anthropic",
            form: "without /v1",
        };
        let key_header = match config.auth {
            ClaudeAuth::XApiKey => KeyHeader::XApiKey,
            ClaudeAuth::Bearer => KeyHeader::Bearer,
        };
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let limits = Limits {
            connect: seconds(config.connect_timeout_seconds),
            first_byte: seconds(config.first_byte_timeout_seconds),
            idle: seconds(config.idle_timeout_seconds),
            answer: config.answer_limit_kib as usize * 1024,
            retries: config.request_retries,
            retry_wait: seconds(config.retry_wait_seconds),
        };
        let tools = Toolbox::new(&config.tools, guard_program);
        let key_env = Some(config.api_key_env.as_str());
        let server = Server::new(&address, &config.model, key_env, key_header, headers(config), limits, tools, prices);
        Self { config: config.clone(), server }
    }
}

fn headers(config: &ClaudeApiEngine) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("anthropic-version"), HeaderValue::from_static(API_VERSION));
    if let Ok(betas) = HeaderValue::from_str(&config.betas.join(","))
        && !betas.is_empty()
    {
        headers.insert(HeaderName::from_static("anthropic-beta"), betas);
    }
    headers
}

/// The Messages API in one turn.
struct Messages<'a> {
    config: &'a ClaudeApiEngine,
    turn: &'a Turn,
}

impl Protocol for Messages<'_> {
    fn request(&self, rounds: &[Round]) -> Value {
        request(self.config, self.turn, rounds)
    }

    fn listen(&self) -> Box<dyn Listener> {
        Box::new(Message::new(self.config.cache))
    }
}

#[async_trait]
impl Engine for ClaudeApi {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            streaming: true,
            steer: false,
            resume: true,
            approvals: true,
            attachments: true,
            history: true,
            metered: true,
        }
    }

    async fn availability(&self) -> Availability {
        self.server.availability().await
    }

    async fn run(&self, turn: Turn, context: TurnContext) -> Result<TurnEnd, TurnFailure> {
        self.server.run(&mut Messages { config: &self.config, turn: &turn }, &turn, &context).await
    }
}
