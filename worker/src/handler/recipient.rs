//! Whom an operation is for: looked up when it is done, made and provisioned if need be.

use std::{sync::Arc, time::Duration};

use errand_common::{
    domain::{
        AgentId, FailureClass, GatewayId, Timestamp,
        coordination::{self, Agent, AgentRole, AgentStatus, agent},
        gate,
    },
    port::store::{Claimed, coordination::NewAgent},
    vault::Purpose,
    wire::{
        coordination::Recipient,
        credential::{generate_agent_token, hash_key},
    },
};

use super::{HandlerFailure, RunContext, asking::ask, provision::wanted};
use crate::{
    directory::Directory,
    gateway::{Gateway, GatewayFailure},
};

/// For so long after an agent was made its gateway may say that it does not know it.
const FRESH: Duration = Duration::from_secs(60);

/// The gate of a gateway.
pub(crate) fn gate_of(gateway: GatewayId) -> String {
    format!("gateway:{gateway}")
}

/// An agent, and the way to it.
pub(crate) struct Reached {
    /// Who.
    pub(crate) agent: Agent,
    /// It was made for this job.
    pub(crate) created: bool,
    /// Where it runs.
    pub(crate) gateway: coordination::Gateway,
    /// How to call that.
    pub(crate) client: Gateway,
}

impl Reached {
    /// Its gateway may not know it yet.
    pub(crate) fn is_fresh(&self, now: Timestamp) -> bool {
        self.agent.provisioned_at.is_some_and(|at| now.since(at) < FRESH)
    }
}

/// Finds recipients.
pub(crate) struct Recipients {
    directory: Arc<Directory>,
}

impl Recipients {
    pub(crate) const fn new(directory: Arc<Directory>) -> Self {
        Self { directory }
    }

    /// The recipient, ready to be spoken to.
    ///
    /// # Errors
    /// There is none, it could not be provisioned, or it is being provisioned: the job is held back then.
    pub(crate) async fn find(
        &self,
        context: &RunContext,
        claimed: &Claimed,
        recipient: Recipient,
    ) -> Result<Reached, HandlerFailure> {
        let (tenant, store) = (claimed.job.tenant.as_str(), &context.backend.store);
        let (agent, created) = match recipient {
            Recipient::Agent { agent_id } => (ask(context, "an agent", || store.agent(tenant, agent_id)).await?, false),
            Recipient::Main { gateway_id } => {
                (ask(context, "a gateway's own agent", || store.main_agent(tenant, gateway_id)).await?, false)
            }
            Recipient::Lead { gateway_id, board_id } => {
                let (id, token, now) = (AgentId::new(), generate_agent_token(), context.backend.clock.now());
                let new = NewAgent {
                    id,
                    tenant: tenant.to_owned(),
                    gateway_id,
                    board_id: Some(board_id),
                    name: agent::LEAD_NAME.to_owned(),
                    role: AgentRole::Lead,
                    session_key: agent::lead_session(board_id),
                    bound: false,
                    token_hash: Some(hash_key(&token)),
                    token_sealed: Some(context.backend.vault.seal(Purpose::AgentToken(id), &token)),
                };
                let ensure = || store.ensure_lead(new.clone(), claimed.job.id, now);
                match ask(context, "a board's lead", ensure).await? {
                    Some(lead) => (Some(lead.agent), lead.created),
                    None => return Err(gone("Board not found")),
                }
            }
        };
        let agent =
            agent.filter(|agent| agent.status != AgentStatus::Deleting).ok_or_else(|| gone("Agent not found"))?;
        wanted::provisioned(context, claimed, &agent).await?;
        self.reach(context, claimed, agent, created).await
    }

    /// An agent as it is.
    ///
    /// # Errors
    /// Its gateway can't be called.
    pub(crate) async fn reach(
        &self,
        context: &RunContext,
        claimed: &Claimed,
        agent: Agent,
        created: bool,
    ) -> Result<Reached, HandlerFailure> {
        let (tenant, store) = (claimed.job.tenant.as_str(), &context.backend.store);
        let gateway = ask(context, "a gateway", || store.gateway(tenant, agent.gateway_id)).await?;
        let gateway = gateway.ok_or_else(|| gone("Board gateway_id is invalid"))?;
        let client = self.directory.client(&gateway).map_err(failed)?;
        Ok(Reached { agent, created, gateway, client })
    }
}

/// What the job is for is there no more.
fn gone(message: &str) -> HandlerFailure {
    HandlerFailure::Failed {
        class: FailureClass::Invalid,
        code: "RECIPIENT_GONE",
        message: message.to_owned(),
        retry_after: None,
    }
}

/// What a gateway's failure means for the attempt, where nothing is in doubt.
pub(crate) fn failed(failure: GatewayFailure) -> HandlerFailure {
    let retry_after = failure.pause();
    HandlerFailure::Failed { class: failure.class, code: failure.code, message: failure.message, retry_after }
}

/// A gateway that wants fewer requests, and says when to come again, costs neither an attempt nor time of the window.
pub(crate) fn held_or_failed(failure: HandlerFailure, now: Timestamp) -> HandlerFailure {
    match failure {
        HandlerFailure::Failed { class: FailureClass::RateLimited, retry_after: Some(pause), .. } => {
            HandlerFailure::HeldBack { until: now.plus(pause), reason: gate::Reason::Paused.as_str() }
        }
        other => other,
    }
}
