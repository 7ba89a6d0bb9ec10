//! `nudge`, `ask_user`, `lead_message`, `notice`: one message to one agent of a gateway.
//!
//! * `courier`: says it once.

pub(crate) mod courier;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use errand_common::{
    config::Config,
    domain::{FailureClass, coordination::agent::MAIN_LABEL},
    port::store::Claimed,
    wire::coordination::{ASK_USER, LEAD_MESSAGE, MessagePayload, NOTICE, Recipient, VERSION},
};
use serde::Deserialize;
use serde_json::{Value, json};

use self::courier::{Courier, Parcel};
use super::{
    Completion, Handler, HandlerFailure, RunContext, Waits,
    journal::{Journal, field},
    recipient::{Reached, Recipients},
};
use crate::directory::Directory;

/// What an attempt may take beside its requests: the turn, the gates, the intent, the end.
const BESIDE_THE_REQUESTS: Duration = Duration::from_secs(60);

/// Sends messages to agents.
pub(crate) struct MessageHandler {
    recipients: Recipients,
    courier: Arc<Courier>,
    limit: Duration,
}

impl MessageHandler {
    pub(crate) fn new(directory: Arc<Directory>, courier: Arc<Courier>, config: &Config) -> Self {
        let own = &config.gateways;
        let connect = own.connect_timeout_seconds + own.handshake_timeout_seconds;
        let limit = Duration::from_secs((connect + 2 * own.request_timeout_seconds).into()) + BESIDE_THE_REQUESTS;
        Self { recipients: Recipients::new(directory), courier, limit }
    }

    async fn deliver(
        &self,
        claimed: &Claimed,
        payload: &MessagePayload,
        context: &Arc<RunContext>,
    ) -> Result<Reached, HandlerFailure> {
        let reached = self.recipients.find(context, claimed, payload.recipient).await?;
        let is_main = matches!(payload.recipient, Recipient::Main { .. });
        let parcel = Parcel {
            session_key: &reached.agent.session_key,
            label: if is_main { MAIN_LABEL } else { &reached.agent.name },
            text: &payload.message,
            deliver: payload.deliver,
            // Chat commands are meant for the gateway; what agents write to each other is not.
            commands: claimed.job.kind == NOTICE,
            is_fresh: reached.is_fresh(context.backend.clock.now()),
            ordinal: 1,
        };
        self.courier.send(context, claimed, (&reached.client, reached.gateway.id), &parcel).await?;
        Ok(reached)
    }
}

#[async_trait]
impl Handler for MessageHandler {
    fn version(&self) -> u32 {
        VERSION
    }

    fn default_timeout(&self) -> Duration {
        self.limit
    }

    /// The requests have their own, shorter limits: an attempt that is cut off knows nothing of its message.
    fn time_limit(&self, _claimed: &Claimed) -> Duration {
        self.limit
    }

    async fn run(&self, claimed: &Claimed, context: &Arc<RunContext>) -> Result<Completion, HandlerFailure> {
        let kind = claimed.job.kind.as_str();
        let payload = MessagePayload::deserialize(&claimed.job.payload).map_err(|error| invalid(kind, &error))?;
        let target = match payload.recipient {
            Recipient::Agent { agent_id } => Some(agent_id),
            Recipient::Lead { .. } | Recipient::Main { .. } => None,
        };
        let journal = Journal {
            operation: kind,
            trace_id: &payload.trace_id,
            board_id: field(payload.board_id),
            actor_agent_id: field(payload.actor_id),
            target_agent_id: field(target),
        };
        journal.start();
        let delivered = self.deliver(claimed, &payload, context).await;
        journal.end(claimed, &delivered, context.backend.clock.now());
        let result = result(kind, &payload, &delivered?);
        Ok(Completion { result, message: None, waits: if kind == ASK_USER { Waits::Answer } else { Waits::Nothing } })
    }
}

/// A payload that its handler can't read.
pub(crate) fn invalid(kind: &str, error: &impl std::fmt::Display) -> HandlerFailure {
    HandlerFailure::Failed {
        class: FailureClass::Invalid,
        code: "INVALID_PAYLOAD",
        message: format!("the payload is not that of the kind {kind}: {error}"),
        retry_after: None,
    }
}

/// What whoever waits for it is answered.
fn result(kind: &str, payload: &MessagePayload, reached: &Reached) -> Value {
    let agent = &reached.agent;
    match kind {
        ASK_USER => json!({
            "ok": true, "board_id": payload.board_id, "main_agent_id": agent.id, "main_agent_name": agent.name,
            "question_id": payload.question_id,
        }),
        LEAD_MESSAGE => json!({
            "ok": true, "board_id": payload.board_id, "lead_agent_id": agent.id, "lead_agent_name": agent.name,
            "lead_created": reached.created,
        }),
        _ => json!({"ok": true}),
    }
}
