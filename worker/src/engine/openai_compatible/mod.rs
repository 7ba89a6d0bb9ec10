//! `openai_compatible`: any server that speaks streaming chat completions, taken as they are rather than as they should be; the
//! Responses API where it is asked for.

mod chat;
mod responses;

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use errand_common::config::{OpenAiApi, OpenAiCompatibleEngine};
use reqwest::header::HeaderMap;

use self::{chat::Chat, responses::Responses};
use super::{
    Availability, Capabilities, Engine, Turn, TurnContext, TurnEnd, TurnFailure,
    prices::PriceTable,
    server::{Address, KeyHeader, Limits, Server},
    toolbox::Toolbox,
};

/// A server of that kind.
pub(super) struct OpenAiCompatible {
    config: OpenAiCompatibleEngine,
    server: Server,
}

impl OpenAiCompatible {
    pub(super) fn new(
        name: &str,
        config: &OpenAiCompatibleEngine,
        prices: PriceTable,
        guard_program: Arc<Path>,
    ) -> Self {
        let address = Address {
            engine: name,
            base_url: &config.base_url,
            prompts: match config.api {
                OpenAiApi::Chat => "chat/completions",
                OpenAiApi::Responses => "responses",
            },
            models: "models",
            provider: "openai",
            form: "up to and including /v1",
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
        let (key_env, headers) = (config.api_key_env.as_deref(), HeaderMap::new());
        let server = Server::new(&address, &config.model, key_env, KeyHeader::Bearer, headers, limits, tools, prices);
        Self { config: config.clone(), server }
    }
}

#[async_trait]
impl Engine for OpenAiCompatible {
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
        match self.config.api {
            OpenAiApi::Chat => self.server.run(&mut Chat::new(&self.config, &turn), &turn, &context).await,
            OpenAiApi::Responses => {
                self.server.run(&mut Responses { config: &self.config, turn: &turn }, &turn, &context).await
            }
        }
    }
}

/// A model writes them itself: what is not JSON the tool gets to see as text.
fn parse_arguments(arguments: &str) -> serde_json::Value {
    if arguments.trim().is_empty() {
        return serde_json::json!({});
    }
    serde_json::from_str(arguments).unwrap_or_else(|_| serde_json::json!({ "unreadable": arguments }))
}
