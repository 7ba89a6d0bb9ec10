//! One message to one session: said once, one at a time.
//!
//! ```text
//! turn (this worker) ─► gate of the session (all workers) ─► gate of the gateway ─► intent ─► session, message ─► receipt
//! ```

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use errand_common::{
    config::Config,
    domain::{FailureClass, GatewayId, Receipt, gate, gate::Verdict},
    port::store::Claimed,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::{
    effect::{self, Asked, Call, Description, End, Sent},
    gate::{Closed, Passage, Policies},
    gateway::{Delivered, Gateway, GatewayFailure, Message, Turn, Undelivered, failure::code},
    handler::{
        HandlerFailure, RunContext,
        asking::ask,
        recipient::{gate_of, held_or_failed},
    },
};

/// The kind of these effects.
const KIND: &str = "gateway_message";
/// Messages that a job sends under a new key, because its gateway keeps a failure under the former, at most.
const MOST_KEYS: u32 = 64;
/// How long a run waits in its slot for those before it; after it, it comes again.
const TURN_WAIT: Duration = Duration::from_secs(5);
/// Longest label that all gateways take, in characters.
const LABEL_CHARS: usize = 64;

/// What goes to a session.
#[derive(Clone, Debug)]
pub(crate) struct Parcel<'a> {
    /// Whose session.
    pub(crate) session_key: &'a str,
    /// What people call it there.
    pub(crate) label: &'a str,
    /// The text, byte for byte.
    pub(crate) text: &'a str,
    /// Whether the agent's answer may go out over its channels.
    pub(crate) deliver: bool,
    /// Whether a text that begins with `/` is an order to the gateway.
    pub(crate) commands: bool,
    /// The agent was made a moment ago: that the gateway does not know it will pass.
    pub(crate) is_fresh: bool,
    /// Its first place among the job's effects.
    pub(crate) ordinal: u32,
}

/// Sends messages.
pub(crate) struct Courier {
    gates: Policies,
    sessions: Policies,
    limit: Duration,
}

impl Courier {
    pub(crate) fn new(config: &Config) -> Self {
        let own = &config.gateways;
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let limit = seconds(own.request_timeout_seconds);
        let lease = seconds(config.worker.lease_seconds);
        let longest = seconds(own.connect_timeout_seconds + own.handshake_timeout_seconds) + 3 * limit;
        Self {
            gates: Policies::new(&config.gates, longest + lease),
            // Of a worker that died the session is free again when its job is. A message that takes longer than that may be
            // joined by the next: then the agent answers both at once.
            sessions: Policies::one_at_a_time(&config.gates, lease),
            limit,
        }
    }

    /// Says it, unless it is known to have been said.
    ///
    /// # Errors
    /// Why it is not known to be there.
    pub(crate) async fn send(
        &self,
        context: &RunContext,
        claimed: &Claimed,
        (gateway, id): (&Gateway, GatewayId),
        parcel: &Parcel<'_>,
    ) -> Result<Value, HandlerFailure> {
        let busy = || {
            let until = context.backend.clock.now().plus(TURN_WAIT / 10);
            HandlerFailure::HeldBack { until, reason: gate::Reason::Busy.as_str() }
        };
        let turn =
            tokio::time::timeout(TURN_WAIT, gateway.turn(parcel.session_key)).await.map_err(|_elapsed| busy())?;
        let session = format!("{}:{}", gate_of(id), parcel.session_key.to_lowercase());
        let passage = Passage::enter(&context.backend, &self.sessions, &session)
            .await
            .map_err(|Closed { until, reason }| HandlerFailure::HeldBack { until, reason: reason.as_str() })?;
        let ordinal = next_ordinal(context, claimed, parcel.ordinal).await?;
        let in_doubt = AtomicBool::new(false);
        let call = MessageCall { gateway, turn, gate: gate_of(id), parcel, limit: self.limit, in_doubt };
        let sent = effect::perform(context, &self.gates, ordinal, &call).await;
        passage.leave(Verdict::Neutral, None).await;
        sent.map_err(|failure| held_or_failed(failure, context.backend.clock.now()))
    }
}

/// The place of the message among the job's effects: a gateway that keeps a failure under a key takes the message under another
/// only.
async fn next_ordinal(context: &RunContext, claimed: &Claimed, first: u32) -> Result<u32, HandlerFailure> {
    let is_first_run = claimed.fence.claim <= 1 && claimed.job.retry_of.is_none();
    if is_first_run {
        return Ok(first);
    }
    let store = &context.backend.store;
    let effects = ask(context, "what was sent before", || store.effects(claimed.job.id, first + MOST_KEYS)).await?;
    let last = effects.iter().filter(|effect| effect.kind == KIND && effect.ordinal >= first).max_by_key(|e| e.ordinal);
    Ok(match last {
        None => first,
        Some(effect) => match &effect.receipt {
            Some((Receipt::Failed(answer), _)) if answer["new_key"] == json!(true) => effect.ordinal + 1,
            _ => effect.ordinal,
        },
    })
}

/// One message.
struct MessageCall<'a> {
    gateway: &'a Gateway,
    turn: Turn,
    gate: String,
    parcel: &'a Parcel<'a>,
    limit: Duration,
    /// An earlier run may have sent it.
    in_doubt: AtomicBool,
}

#[async_trait]
impl Call for MessageCall<'_> {
    fn describe(&self) -> Description {
        let Parcel { session_key, text, deliver, .. } = self.parcel;
        let digest = Sha256::digest(json!([session_key, text, deliver]).to_string());
        let fingerprint = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Description { kind: KIND, destination: self.gate.clone(), fingerprint }
    }

    async fn send(&self, key: &str) -> Sent {
        let in_doubt = self.in_doubt.load(Ordering::Relaxed);
        let deadline = Instant::now() + self.limit;
        if let Err(failure) = self.ensure_session().await {
            return if in_doubt { doubt(&failure) } else { self.refused(failure, false) };
        }
        let message = Message {
            text: self.parcel.text,
            key,
            deliver: self.parcel.deliver,
            timeout: None,
            commands: self.parcel.commands,
            in_doubt,
        };
        match self.turn.deliver(&message, deadline).await {
            Ok(how) => {
                let how = if how == Delivered::Found { "found" } else { "answered" };
                Sent { end: End::Done(json!({"delivered": how})), verdict: Verdict::Success, pause: None }
            }
            Err(Undelivered::Refused(failure)) => self.refused(failure, false),
            Err(Undelivered::NewOrdinal(failure)) => self.refused(failure, true),
            Err(Undelivered::Doubt(failure)) => doubt(&failure),
            Err(Undelivered::Ambiguous(failure)) => {
                let verdict = failure.verdict();
                Sent { end: End::Ambiguous(failure.message), verdict, pause: None }
            }
        }
    }

    /// The gateway is asked by `send`, over the connection that the message is then sent on: no restart lies between.
    async fn ask(&self, _key: &str) -> Asked {
        self.in_doubt.store(true, Ordering::Relaxed);
        Asked::Unknown
    }

    /// A message in doubt is looked for before it is sent again, and not sent again where that may not be.
    fn deduplicates(&self) -> bool {
        true
    }
}

impl MessageCall<'_> {
    /// The session with its label. A label that the gateway does not take is left out: it is for people.
    async fn ensure_session(&self) -> Result<(), GatewayFailure> {
        let label: String = self.parcel.label.chars().take(LABEL_CHARS).collect();
        let gateway = self.gateway;
        let Err(unanswered) = gateway.ensure_session(self.parcel.session_key, Some(&label)).await else {
            return Ok(());
        };
        let failure = unanswered.failure();
        if failure.class != FailureClass::Invalid {
            return Err(failure.clone());
        }
        tracing::debug!(reason = failure.message, "a gateway does not take a label; the session goes without");
        gateway.ensure_session(self.parcel.session_key, None).await.map(drop).map_err(|other| other.failure().clone())
    }

    /// It is not there.
    fn refused(&self, mut failure: GatewayFailure, new_key: bool) -> Sent {
        if self.parcel.is_fresh && failure.code == code::UNKNOWN_AGENT {
            failure.class = FailureClass::Transient;
        }
        let verdict = failure.verdict();
        let pause = failure.pause();
        let answer = json!({"code": failure.code, "message": failure.message, "new_key": new_key});
        let GatewayFailure { class, code, message, .. } = failure;
        Sent { end: End::Failed { class, code, message, answer }, verdict, pause }
    }
}

fn doubt(failure: &GatewayFailure) -> Sent {
    Sent { end: End::Doubt(failure.message.clone()), verdict: failure.verdict(), pause: None }
}
