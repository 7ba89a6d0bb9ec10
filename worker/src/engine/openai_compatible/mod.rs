//! `openai_compatible`: any server that speaks streaming chat completions, taken as they are rather than as they should be.

mod answer;
mod client;
mod failure;
mod stream;
mod wire;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use async_trait::async_trait;
use errand_common::{
    config::{OpenAiCompatibleEngine, Secret},
    domain::{EventType, FailureClass, NewEvent},
};
use reqwest::Response;
use serde_json::json;
use tokio::sync::Mutex;

use self::{
    answer::{Answer, Said},
    client::Client,
    stream::{Next, Pieces},
    wire::{Dialect, Request},
};
use super::{Availability, Capabilities, Engine, Turn, TurnContext, TurnEnd, TurnFailure, code};

/// How long an answer to "are you there" holds. Workers ask at each renewal of their registration.
const REACHABLE_FOR: Duration = Duration::from_secs(60);
/// Longest wait for that answer.
const REACHABLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Once an answer is complete, longest wait for the token counts that some servers send after it.
const EPILOGUE_TIMEOUT: Duration = Duration::from_secs(5);

/// A chat-completions server.
pub(super) struct OpenAiCompatible {
    config: OpenAiCompatibleEngine,
    client: Result<Client, String>,
    reachable: Mutex<Option<(Instant, Availability)>>,
}

impl OpenAiCompatible {
    /// The process must have a default cryptography provider by now, as each that speaks TLS.
    pub(super) fn new(name: &str, config: &OpenAiCompatibleEngine) -> Self {
        Self { config: config.clone(), client: Client::new(name, config), reachable: Mutex::new(None) }
    }

    /// The key as it is now; a sentence if it is named and not there.
    fn key(&self) -> Result<Option<Secret>, String> {
        let Some(name) = &self.config.api_key_env else { return Ok(None) };
        match std::env::var(name) {
            Ok(key) if !key.trim().is_empty() => Ok(Some(Secret::new(key.trim().to_owned()))),
            _ => Err(format!("the environment variable {name} is not set; it must hold the key (`api_key_env`)")),
        }
    }

    fn client(&self) -> Result<&Client, String> {
        self.client.as_ref().map_err(Clone::clone)
    }

    async fn converse(&self, turn: &Turn, context: &TurnContext) -> Result<TurnEnd, TurnFailure> {
        let unavailable = |reason| TurnFailure::new(FailureClass::Fatal, code::ENGINE_UNAVAILABLE, reason);
        let client = self.client().map_err(unavailable)?;
        let key = self.key().map_err(unavailable)?;
        let spending = context.ledger.begin();
        let response = match self.ask(client, turn, key.as_ref()).await {
            Ok(response) => response,
            Err(refusal) => {
                spending.nothing();
                return Err(refusal);
            }
        };
        let limit = usize::try_from(self.config.answer_limit_kib).unwrap_or(usize::MAX).saturating_mul(1024);
        let idle = Duration::from_secs(self.config.idle_timeout_seconds.into());
        let mut answer = Answer::new(limit, key);
        listen(Pieces::new(response, limit, idle), &mut answer, context).await?;
        if let Some(usage) = answer.usage() {
            spending.report(usage);
        }
        let (end, note) = answer.finish()?;
        if let Some(note) = note {
            let event = NewEvent::new(EventType::Progress, json!({ "message": note }));
            context.events.send(event).await.map_err(|_| TurnFailure::stopped())?;
        }
        Ok(end)
    }

    /// Asks in the newest dialect first, and again in a plainer one if the server refuses a parameter.
    async fn ask(&self, client: &Client, turn: &Turn, key: Option<&Secret>) -> Result<Response, TurnFailure> {
        let mut dialect = Dialect::default();
        loop {
            let refusal = match client.complete(&Request::new(&self.config, turn, dialect), key).await {
                Ok(response) => return Ok(response),
                Err(refusal) => refusal,
            };
            match dialect.instead(&refusal) {
                Some(plainer) => dialect = plainer,
                None => return Err(refusal.into_failure()),
            }
        }
    }
}

/// Passes an answer on as it comes, to its end.
async fn listen(mut pieces: Pieces, answer: &mut Answer, context: &TurnContext) -> Result<(), TurnFailure> {
    loop {
        let next = if answer.is_finished() {
            // Whatever goes wrong now, only the token counts are lost.
            match tokio::time::timeout(EPILOGUE_TIMEOUT, pieces.next()).await {
                Ok(next @ Next::Chunk(_)) => next,
                _ => return Ok(()),
            }
        } else {
            pieces.next().await
        };
        let chunk = match next {
            Next::Chunk(chunk) => chunk,
            Next::End => return Ok(()),
            Next::Failed(failure) => return Err(failure),
            Next::Done => {
                answer.done();
                return Ok(());
            }
        };
        for said in answer.take(&chunk)? {
            match said {
                Said::Text(text) => context.say(EventType::Text, &text).await?,
                Said::Thinking(text) => context.say(EventType::Thinking, &text).await?,
            }
        }
    }
}

#[async_trait]
impl Engine for OpenAiCompatible {
    fn capabilities(&self) -> Capabilities {
        Capabilities { streaming: true, history: true, metered: true, ..Capabilities::default() }
    }

    async fn availability(&self) -> Availability {
        let client = match self.client().and_then(|client| self.key().map(|_| client)) {
            Ok(client) => client,
            Err(reason) => return Availability::Unavailable(reason),
        };
        let mut reachable = self.reachable.lock().await;
        if let Some((asked, answer)) = reachable.as_ref()
            && asked.elapsed() < REACHABLE_FOR
        {
            return answer.clone();
        }
        let answer = match client.is_reachable(REACHABLE_TIMEOUT).await {
            Ok(()) => Availability::Available,
            Err(reason) => Availability::Unavailable(reason),
        };
        *reachable = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn run(&self, turn: Turn, context: TurnContext) -> Result<TurnEnd, TurnFailure> {
        // Dropping the conversation closes the connection, which tells the server to stop.
        tokio::select! {
            biased;
            () = context.stop.cancelled() => Err(TurnFailure::stopped()),
            end = self.converse(&turn, &context) => end,
        }
    }
}
