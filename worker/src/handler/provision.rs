//! `provision`: makes an agent in its gateway, or makes it again, in steps that can be resumed after any of them.
//!
//! ```text
//! create ─► update ─► configuration ─► files ─► stale files away ─► wake
//! ```
//!
//! Each step is an effect with a receipt: a run that died is gone on with after the last one that is known to be done.
//!
//! * `step`: one step as a call. `configuration`: what the gateway's own needs. `files`: what makes an agent what it is.
//! * `wanted`: how others wait for it.

mod configuration;
mod files;
mod step;
pub(crate) mod wanted;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use errand_common::{
    config::Config,
    domain::{
        FailureClass,
        coordination::{Agent, AgentRole, Board},
    },
    port::store::{AgentWritten, Claimed, coordination::Provisioned},
    vault::{Purpose, VaultError},
    wire::coordination::{PROVISION, ProvisionPayload, VERSION},
};
use serde::Deserialize;
use serde_json::{Value, json};

use self::{
    files::{Scene, Scope},
    step::{Step, Steps},
};
use super::{
    Completion, Handler, HandlerFailure, RunContext,
    asking::ask,
    journal::Journal,
    message::{
        courier::{Courier, Parcel},
        invalid,
    },
    recipient::{Reached, Recipients, held_or_failed},
    soul,
};
use crate::directory::Directory;

/// Bounds one attempt: some twenty requests, and the gateway's own pauses.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(300);
/// A gateway reads its changed configuration after a moment: what comes at once finds the new agent unknown.
const SETTLES: Duration = Duration::from_millis(750);
/// Effects of one generation of the agent. Whose token was changed is provisioned anew, perhaps by the job that was about it:
/// what that did for the former token does not count.
const GENERATION: u32 = 1_000;
/// Places among them. They never change: an older worker may have begun what this one goes on with.
const CREATE: u32 = 1;
const UPDATE: u32 = 2;
const CONFIGURE: u32 = 3;
const FILES: u32 = 10;
const CLEAN: u32 = 30;
const WAKE: u32 = 40;

/// Provisions agents.
pub(crate) struct ProvisionHandler {
    recipients: Recipients,
    courier: Arc<Courier>,
    steps: Steps,
    base_url: String,
}

impl ProvisionHandler {
    pub(crate) fn new(directory: Arc<Directory>, courier: Arc<Courier>, config: &Config) -> Self {
        let base_url = config.server.base_url().to_owned();
        Self { recipients: Recipients::new(directory), courier, steps: Steps::new(config, ATTEMPT_LIMIT), base_url }
    }

    /// All steps; those that are done already are passed over.
    async fn provision(
        &self,
        claimed: &Claimed,
        payload: &ProvisionPayload,
        context: &RunContext,
    ) -> Result<Value, HandlerFailure> {
        let (tenant, store, fence) = (claimed.job.tenant.as_str(), &context.backend.store, claimed.fence);
        let id = payload.agent_id;
        let known = ask(context, "an agent", || store.agent(tenant, id)).await?;
        if payload.if_needed && known.as_ref().is_some_and(|agent| !agent.needs_provisioning()) {
            return Ok(json!({"ok": true, "agent_id": id, "created": false}));
        }
        if known.is_some() {
            wanted::files(context, claimed, id).await?;
        }
        let now = context.backend.clock.now();
        let begun = ask(context, "an agent", || store.begin_provisioning(fence, id, now)).await?;
        let begun = begun.map_err(|stale| fault(FailureClass::Transient, "NOT_HELD", &stale.to_string()))?;
        let Some((agent, sealed)) = begun else {
            return Err(fault(
                FailureClass::Invalid,
                "RECIPIENT_GONE",
                "the agent was removed, or is bound to a session that is never provisioned",
            ));
        };
        let token = sealed.map(|sealed| context.backend.vault.open(Purpose::AgentToken(id), &sealed)).transpose();
        let token = token.map_err(|error| {
            // A key that this worker lacks may be given to it soon: keys are replaced while workers run.
            let class = if error == VaultError::Damaged { FailureClass::Fatal } else { FailureClass::Transient };
            fault(class, "AGENT_TOKEN_SEALED", &error.to_string())
        })?;
        let board = match agent.board_id {
            Some(board) => ask(context, "a board", || store.board(tenant, board)).await?,
            None => None,
        };
        let reached = self.recipients.reach(context, claimed, agent, false).await?;
        let created = self.make(context, &reached).await?;
        let soul_hash = self.write_files(context, &reached, board.as_ref(), token.as_deref(), payload, created).await?;
        self.wake(context, claimed, &reached).await?;
        context.wrote_agent(AgentWritten::Provisioned { agent_id: id, how: Provisioned::Whole { soul_hash } });
        Ok(json!({"ok": true, "agent_id": id, "created": created}))
    }

    /// The agent itself, and what the gateway's configuration says of it. Returns whether it was not there before.
    async fn make(&self, context: &RunContext, reached: &Reached) -> Result<bool, HandlerFailure> {
        let agent = &reached.agent;
        let done = self.steps.take(context, reached, place(agent, CREATE), Step::Create).await?;
        let created = done["created"] == json!(true);
        if created && agent.provisioned_at.is_none() {
            tokio::time::sleep(SETTLES).await;
        }
        self.steps.take(context, reached, place(agent, UPDATE), Step::Update { created }).await?;
        self.steps.take(context, reached, place(agent, CONFIGURE), Step::Configure).await?;
        Ok(created)
    }

    /// Its files. Returns the hash of its soul, if that was written.
    async fn write_files(
        &self,
        context: &RunContext,
        reached: &Reached,
        board: Option<&Board>,
        token: Option<&str>,
        payload: &ProvisionPayload,
        created: bool,
    ) -> Result<Option<String>, HandlerFailure> {
        let agent = &reached.agent;
        let present = self.steps.list_files(reached, created).await?;
        let scene = Scene::new(agent, &reached.gateway, board, &self.base_url, token, &present);
        let scope = Scope {
            is_first: created || agent.provisioned_at.is_none(),
            overwrite: payload.overwrite,
            token_is_lost: token.is_none() && agent.has_token,
        };
        let mut soul_hash = None;
        let mut unsupported = Vec::new();
        for file in files::plan(agent.role, &present, scope)
            .map_err(|why| fault(FailureClass::Invalid, "AGENT_TOKEN_UNKNOWN", why))?
        {
            let content = scene.render(file).map_err(|why| fault(FailureClass::Fatal, "TEMPLATE", &why))?;
            if content.trim().is_empty() {
                continue;
            }
            let step = Step::Write { name: file.name, content: &content };
            let done = self.steps.take(context, reached, place(agent, FILES + file.place), step).await?;
            if done["unsupported"] == json!(true) {
                unsupported.push(file.name);
            } else if file.name == soul::SOUL {
                soul_hash = Some(soul::hash(&content));
            }
        }
        if agent.role == AgentRole::Lead && !unsupported.is_empty() {
            let message = format!("the gateway takes no file named {}", unsupported.join(", "));
            return Err(fault(FailureClass::Invalid, "GATEWAY_UNSUPPORTED_FILE", &message));
        }
        let stale = files::stale(agent.role, &present);
        if !stale.is_empty() {
            self.steps.take(context, reached, place(agent, CLEAN), Step::Clean { names: &stale }).await?;
        }
        Ok(soul_hash)
    }

    /// Tells it that it may begin.
    async fn wake(&self, context: &RunContext, claimed: &Claimed, reached: &Reached) -> Result<(), HandlerFailure> {
        let text = wake_text(&reached.agent);
        let parcel = Parcel {
            session_key: &reached.agent.session_key,
            label: &reached.agent.name,
            text: &text,
            deliver: true,
            commands: false,
            is_fresh: true,
            ordinal: place(&reached.agent, WAKE),
        };
        self.courier.send(context, claimed, (&reached.client, reached.gateway.id), &parcel).await.map(drop)
    }
}

/// Where a step stands among the job's effects.
fn place(agent: &Agent, step: u32) -> u32 {
    u32::try_from(agent.generation).unwrap_or(u32::MAX).saturating_mul(GENERATION).saturating_add(step)
}

fn fault(class: FailureClass, code: &'static str, message: &str) -> HandlerFailure {
    HandlerFailure::Failed { class, code, message: message.to_owned(), retry_after: None }
}

fn wake_text(agent: &Agent) -> String {
    let what = if agent.provisioned_at.is_some() { "brought up to date" } else { "prepared" };
    format!(
        "Hello {}. Your workspace was {what}. Read BOOTSTRAP.md if there is one, then AGENTS.md, and begin your heartbeats.",
        agent.name
    )
}

#[async_trait]
impl Handler for ProvisionHandler {
    fn version(&self) -> u32 {
        VERSION
    }

    fn default_timeout(&self) -> Duration {
        ATTEMPT_LIMIT
    }

    async fn run(&self, claimed: &Claimed, context: &Arc<RunContext>) -> Result<Completion, HandlerFailure> {
        let payload =
            ProvisionPayload::deserialize(&claimed.job.payload).map_err(|error| invalid(PROVISION, &error))?;
        let journal = Journal {
            operation: PROVISION,
            trace_id: &claimed.job.id.to_string(),
            board_id: None,
            actor_agent_id: None,
            target_agent_id: Some(payload.agent_id.to_string()),
        };
        journal.start();
        let done = self.provision(claimed, &payload, context).await;
        let done = done.map_err(|failure| held_or_failed(failure, context.backend.clock.now()));
        journal.end(claimed, &done, context.backend.clock.now());
        Ok(Completion::new(done?))
    }
}
