//! `soul_read`, `soul_write`: an agent's `SOUL.md`.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use errand_common::{
    config::Config,
    domain::{FailureClass, gate::Verdict},
    port::store::{AgentWritten, Claimed},
    wire::coordination::{FILE_READ, Recipient, SOUL_WRITE, SoulPayload, VERSION},
};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    Completion, Handler, HandlerFailure, RunContext,
    journal::{Journal, field},
    message::invalid,
    provision::wanted,
    recipient::{Reached, Recipients, gate_of, held_or_failed},
};
use crate::{
    directory::Directory,
    effect::{self, Asked, Call, Description, End, Sent},
    gate::Policies,
    gateway::{AgentFile, GatewayFailure, Unanswered, failure::code},
};

/// The file.
pub(crate) const SOUL: &str = "SOUL.md";
/// What an attempt may take beside its requests.
const BESIDE_THE_REQUESTS: Duration = Duration::from_secs(30);

/// SHA-256, in hex: as gateways reckon the hash of a file.
pub(crate) fn hash(content: &str) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads and writes souls.
pub(crate) struct SoulHandler {
    recipients: Recipients,
    gates: Policies,
    limit: Duration,
}

impl SoulHandler {
    pub(crate) fn new(directory: Arc<Directory>, config: &Config) -> Self {
        let own = &config.gateways;
        let connect = own.connect_timeout_seconds + own.handshake_timeout_seconds;
        let limit = Duration::from_secs((connect + 2 * own.request_timeout_seconds).into()) + BESIDE_THE_REQUESTS;
        Self { recipients: Recipients::new(directory), gates: Policies::new(&config.gates, limit), limit }
    }

    async fn work(
        &self,
        claimed: &Claimed,
        payload: &SoulPayload,
        context: &Arc<RunContext>,
    ) -> Result<Completion, HandlerFailure> {
        let recipient = Recipient::Agent { agent_id: payload.agent_id };
        let reached = self.recipients.find(context, claimed, recipient).await?;
        // Each run reads or writes, though an earlier one may have: another job may have come between, and what is kept with the
        // end of this one must be what the gateway has.
        let place = u32::try_from(claimed.fence.claim).unwrap_or(u32::MAX);
        let Some(content) = &payload.content else {
            let call = SoulRead { reached: &reached, content: OnceLock::new() };
            effect::perform(context, &self.gates, place, &call).await?;
            let content = call.content.into_inner().unwrap_or_default();
            let result = json!({"content": content, "hash": hash(&content)});
            return Ok(Completion::new(result));
        };
        wanted::files(context, claimed, payload.agent_id).await?;
        let call = SoulWrite { reached: &reached, content, expected_hash: payload.expected_hash.as_deref() };
        effect::perform(context, &self.gates, place, &call).await?;
        context.wrote_agent(AgentWritten::Soul {
            agent_id: payload.agent_id,
            content: content.clone(),
            hash: hash(content),
        });
        Ok(Completion::new(json!({"ok": true})))
    }
}

#[async_trait]
impl Handler for SoulHandler {
    fn version(&self) -> u32 {
        VERSION
    }

    fn default_timeout(&self) -> Duration {
        self.limit
    }

    /// The requests have their own, shorter limits.
    fn time_limit(&self, _claimed: &Claimed) -> Duration {
        self.limit
    }

    async fn run(&self, claimed: &Claimed, context: &Arc<RunContext>) -> Result<Completion, HandlerFailure> {
        let kind = claimed.job.kind.as_str();
        let payload = SoulPayload::deserialize(&claimed.job.payload).map_err(|error| invalid(kind, &error))?;
        if payload.content.is_some() != (kind == SOUL_WRITE) {
            return Err(invalid(kind, &"/content is for writing, and needed there"));
        }
        let journal = Journal {
            operation: kind,
            trace_id: &payload.trace_id,
            board_id: Some(payload.board_id.to_string()),
            actor_agent_id: field(payload.actor_id),
            target_agent_id: Some(payload.agent_id.to_string()),
        };
        journal.start();
        let done = self.work(claimed, &payload, context).await;
        let done = done.map_err(|failure| held_or_failed(failure, context.backend.clock.now()));
        journal.end(claimed, &done, context.backend.clock.now());
        done
    }
}

/// One reading. It changes nothing; it is an effect because a job's time to reach its gateway runs from its first intent.
struct SoulRead<'a> {
    reached: &'a Reached,
    /// What was read: not in the receipt, which would keep it twice.
    content: OnceLock<String>,
}

#[async_trait]
impl Call for SoulRead<'_> {
    fn describe(&self) -> Description {
        let parts = json!([self.reached.agent.key(), SOUL]);
        Description {
            kind: FILE_READ,
            destination: gate_of(self.reached.gateway.id),
            fingerprint: hash(&parts.to_string()),
        }
    }

    async fn send(&self, _key: &str) -> Sent {
        let Reached { agent, client, .. } = self.reached;
        match client.file(&agent.key(), SOUL).await {
            Ok(AgentFile { content: Some(content), .. }) => {
                drop(self.content.set(content));
                done()
            }
            Ok(AgentFile { content: None, .. }) => {
                let message = format!("the agent has no {SOUL}");
                let (class, code) = (FailureClass::Invalid, "SOUL_MISSING");
                let answer = json!({"code": code});
                Sent { end: End::Failed { class, code, message, answer }, verdict: Verdict::Success, pause: None }
            }
            // Also in doubt: what did not answer did nothing.
            Err(unanswered) => refused(unanswered.failure().clone()),
        }
    }

    fn deduplicates(&self) -> bool {
        true
    }
}

/// One writing.
struct SoulWrite<'a> {
    reached: &'a Reached,
    content: &'a str,
    expected_hash: Option<&'a str>,
}

#[async_trait]
impl Call for SoulWrite<'_> {
    fn describe(&self) -> Description {
        let parts = json!([self.reached.agent.key(), self.content, self.expected_hash]);
        Description {
            kind: "agent_file",
            destination: gate_of(self.reached.gateway.id),
            fingerprint: hash(&parts.to_string()),
        }
    }

    async fn send(&self, _key: &str) -> Sent {
        let Reached { agent, client, .. } = self.reached;
        match client.set_file(&agent.key(), SOUL, self.content, self.expected_hash).await {
            Ok(()) => done(),
            Err(Unanswered::Doubt(failure)) => {
                Sent { end: End::Doubt(failure.message.clone()), verdict: failure.verdict(), pause: None }
            }
            // What is there is what is wanted: an earlier attempt wrote it.
            Err(Unanswered::Refused(failure)) if self.is_conflict_with_ourselves(&failure) => done(),
            Err(Unanswered::Refused(failure)) => refused(failure),
        }
    }

    async fn ask(&self, _key: &str) -> Asked {
        match self.reached.client.file(&self.reached.agent.key(), SOUL).await {
            Ok(file) if file.content.as_deref() == Some(self.content) => Asked::Done(json!({"ok": true})),
            Ok(_) => Asked::NotThere,
            Err(_) => Asked::Unknown,
        }
    }

    /// The same content again is no harm.
    fn deduplicates(&self) -> bool {
        true
    }
}

impl SoulWrite<'_> {
    fn is_conflict_with_ourselves(&self, failure: &GatewayFailure) -> bool {
        let current = failure.details.get("currentHash").and_then(serde_json::Value::as_str);
        failure.code == code::FILE_CHANGED && current == Some(&hash(self.content))
    }
}

fn done() -> Sent {
    Sent { end: End::Done(json!({"ok": true})), verdict: Verdict::Success, pause: None }
}

/// Nothing happened.
pub(crate) fn refused(failure: GatewayFailure) -> Sent {
    let verdict = failure.verdict();
    let pause = failure.pause();
    let GatewayFailure { class, code, message, .. } = failure;
    let answer = json!({"code": code, "message": message});
    Sent { end: End::Failed { class, code, message, answer }, verdict, pause }
}
