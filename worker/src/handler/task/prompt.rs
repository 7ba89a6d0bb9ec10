//! The system prompt of a run: the one that came with the task, or the operator's template.

use errand_common::{
    config,
    domain::{
        FailureClass, Timestamp,
        prompt::{PromptScene, PromptTemplate},
    },
    port::store::Claimed,
    wire::task::{TaskPayload, TaskUser},
};

use crate::engine::TurnFailure;

/// Length of the day at the beginning of a time as text: `2026-11-21T…`.
const DATE: usize = 10;

/// The template, if one is configured.
pub(super) struct SystemPrompt(Option<PromptTemplate>);

impl SystemPrompt {
    pub(super) fn new(config: &config::Agent) -> Self {
        let template = config.system_prompt.as_deref().map(PromptTemplate::new).transpose();
        // A configuration that was loaded has been checked.
        Self(template.inspect_err(|fault| tracing::error!(%fault, "agent.system_prompt is left out")).ok().flatten())
    }

    /// What the engine is told in this run. A prompt of white space counts as none.
    pub(super) fn of(
        &self,
        claimed: &Claimed,
        payload: &TaskPayload,
        now: Timestamp,
    ) -> Result<Option<String>, TurnFailure> {
        let own = payload.system_prompt.as_ref().filter(|prompt| !prompt.trim().is_empty());
        let (None, Some(template)) = (own, &self.0) else { return Ok(own.cloned()) };
        let session = claimed.job.session_id.map(|id| id.to_string()).unwrap_or_default();
        let time = now.to_string();
        let scene = PromptScene {
            tenant: &claimed.job.tenant,
            user_id: payload.user.as_ref().map(|user| user.id.as_str()),
            user_email: payload.user.as_ref().and_then(|user: &TaskUser| user.email.as_deref()),
            session_id: &session,
            engine: &payload.engine_type,
            date: time.get(..DATE).unwrap_or_default(),
        };
        template.render(&scene).map(Some).map_err(|fault| {
            let message = format!("the template agent.system_prompt {fault}");
            TurnFailure::new(FailureClass::Fatal, "SYSTEM_PROMPT", message)
        })
    }
}
