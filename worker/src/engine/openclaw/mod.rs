//! `openclaw`: an agent of a gateway answers.
//!
//! Each conversation is a session of its own there, and the gateway remembers it. The prompt is a message under the task's key,
//! with an intent written before it: a run that takes over from a dead one finds it said, and goes on listening; nothing is said
//! twice. Only a turn that the gateway has failed or lost is asked again, by the next attempt, under the next key.
//!
//! * `listen`: from the agent's news to what a viewer sees, and to the whole answer.

mod listen;

use std::time::Duration;

use async_trait::async_trait;
use errand_common::{
    config::OpenClawEngine,
    domain::{FailureClass, GatewayId, Receipt, effect, gate::Verdict},
    port::store::NewEffect,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use self::listen::{Ended, Listener};
use super::{Availability, Capabilities, Engine, Turn, TurnContext, TurnEnd, TurnFailure, code};
use crate::gateway::{Gateway, GatewayFailure, Message, Undelivered};

/// How long the gateway may take to accept a message.
const ACCEPT_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to stop a turn: a run that is told to stop has little time.
const ABORT_LIMIT: Duration = Duration::from_secs(1);
/// The kind of the effect that a prompt is.
const KIND: &str = "gateway_prompt";

/// One agent of one gateway.
pub(super) struct OpenClaw {
    gateway: Option<GatewayId>,
    agent: String,
}

impl OpenClaw {
    pub(super) fn new(config: &OpenClawEngine) -> Self {
        Self { gateway: config.gateway.parse().ok(), agent: config.agent.clone() }
    }

    fn session_key(&self, turn: &Turn) -> String {
        let conversation = turn.session_id.map_or_else(|| turn.job_id.to_string(), |session| session.to_string());
        format!("agent:{}:errand-{conversation}", self.agent)
    }

    async fn gateway(&self, context: &TurnContext) -> Result<(GatewayId, Gateway), TurnFailure> {
        let Some(id) = self.gateway else {
            let message = "the engine's setting `gateway` is no gateway's id";
            return Err(TurnFailure::new(FailureClass::Invalid, code::ENGINE_UNAVAILABLE, message));
        };
        Ok((id, context.link.gateway(id).await?))
    }

    /// Says the prompt, once, and listens until it is answered.
    async fn converse(
        &self,
        (id, gateway): &(GatewayId, Gateway),
        turn: &Turn,
        context: &TurnContext,
    ) -> Result<TurnEnd, TurnFailure> {
        let session_key = self.session_key(turn);
        let text = message(turn);
        let in_turn = gateway.turn(&session_key).await;
        let destination = format!("gateway:{id}");
        let passage = context.link.enter(&destination).await?;
        let made = gateway.ensure_session(&session_key, None).await;
        let verdict = made.as_ref().map_or_else(|unanswered| unanswered.failure().verdict(), |_| Verdict::Success);
        let pause = made.as_ref().err().and_then(|unanswered| unanswered.failure().pause());
        passage.leave(verdict, pause).await;
        made.map_err(|unanswered| failed(unanswered.failure()))?;
        let mut ordinal = 1;
        loop {
            let key = effect::key(turn.job_id, ordinal);
            let mut listener = Listener::open(gateway, &session_key, &key).await?;
            let prompt = prompt_effect(ordinal, &destination, &session_key, &turn.prompt);
            let in_doubt = context.link.intend(prompt).await?;
            let message = Message { text: &text, key: &key, deliver: false, timeout: None, commands: false, in_doubt };
            let gone = match in_turn.deliver(&message, Instant::now() + ACCEPT_LIMIT).await {
                Ok(delivered) => match listener.until_over(delivered, context).await? {
                    Ended::Answered(text) => {
                        context.link.receipt(ordinal, Receipt::Done(json!({"answered": true})));
                        return Ok(TurnEnd { text, model: None });
                    }
                    Ended::Gone(failure) => failure,
                },
                Err(undelivered) => {
                    let failure = undelivered_as_failure(&undelivered);
                    let not_there = matches!(undelivered, Undelivered::Refused(_) | Undelivered::NewOrdinal(_));
                    if not_there {
                        let answer = json!({"code": failure.code, "message": failure.message});
                        context.link.receipt(ordinal, Receipt::Failed(answer));
                    }
                    if !matches!(undelivered, Undelivered::NewOrdinal(_)) {
                        return Err(failure);
                    }
                    failure
                }
            };
            // One new key an attempt: what stands in the way may need the pause between two.
            if ordinal >= turn.attempt {
                return Err(gone);
            }
            ordinal += 1;
        }
    }
}

/// By the prompt alone: what else is said with it may tell the day.
fn prompt_effect(ordinal: u32, destination: &str, session_key: &str, prompt: &str) -> NewEffect {
    let digest = Sha256::digest(json!([session_key, prompt]).to_string());
    let fingerprint = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    NewEffect { ordinal, kind: KIND.to_owned(), destination: destination.to_owned(), fingerprint }
}

/// What is said. The gateway knows no system prompt but its agents' own files: a task's goes before its conversation's first
/// prompt.
fn message(turn: &Turn) -> String {
    match &turn.system_prompt {
        Some(system) if turn.history.is_empty() => format!("{system}\n\n{}", turn.prompt),
        _ => turn.prompt.clone(),
    }
}

fn failed(failure: &GatewayFailure) -> TurnFailure {
    TurnFailure {
        retry_after: failure.retry_after,
        ..TurnFailure::new(failure.class, failure.code, failure.message.clone())
    }
}

/// A prompt in doubt is looked for by the next attempt, under the same key.
fn undelivered_as_failure(undelivered: &Undelivered) -> TurnFailure {
    match undelivered {
        Undelivered::Doubt(failure) => TurnFailure { class: FailureClass::Transient, ..failed(failure) },
        Undelivered::Ambiguous(failure) => TurnFailure { class: FailureClass::Ambiguous, ..failed(failure) },
        Undelivered::Refused(failure) | Undelivered::NewOrdinal(failure) => failed(failure),
    }
}

#[async_trait]
impl Engine for OpenClaw {
    fn capabilities(&self) -> Capabilities {
        Capabilities { streaming: true, ..Capabilities::default() }
    }

    async fn availability(&self) -> Availability {
        match self.gateway {
            Some(_) => Availability::Available,
            None => Availability::Unavailable("its setting `gateway` is no gateway's id".to_owned()),
        }
    }

    async fn run(&self, turn: Turn, context: TurnContext) -> Result<TurnEnd, TurnFailure> {
        let gateway = context.unless_stopped(self.gateway(&context)).await?;
        let end = context.unless_stopped(self.converse(&gateway, &turn, &context)).await;
        // A run that is handed on leaves the agent to its work: the next one listens.
        if context.stop.is_cancelled() && context.link.is_over() {
            let session_key = self.session_key(&turn);
            let abort = gateway.1.abort(&session_key, None);
            if !matches!(tokio::time::timeout(ABORT_LIMIT, abort).await, Ok(Ok(_))) {
                tracing::warn!("a gateway did not say that it stopped a cancelled turn");
            }
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::trial::turn;

    #[test]
    fn each_conversation_has_a_session_of_its_own() {
        let engine = OpenClaw { gateway: None, agent: "ada".to_owned() };
        let alone = turn("hi");
        assert_eq!(engine.session_key(&alone), format!("agent:ada:errand-{}", alone.job_id));
        let session = errand_common::domain::SessionId::new();
        let joined = Turn { session_id: Some(session), ..turn("hi") };
        assert_eq!(engine.session_key(&joined), format!("agent:ada:errand-{session}"));
    }

    #[test]
    fn a_system_prompt_goes_before_the_first_prompt_only() {
        let first = Turn { system_prompt: Some("be brief".to_owned()), ..turn("hi") };
        assert_eq!(message(&first), "be brief\n\nhi");
        assert_eq!(message(&turn("hi")), "hi");
    }
}
