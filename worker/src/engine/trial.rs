//! What tests of engines run them with: a turn, and a link that decides by a rule and remembers.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use errand_common::{
    domain::{Decision, JobId, ToolCall},
    port::store::EngineState,
};

use super::{Freely, Link, Passage, Remaining, Turn, TurnFailure};

/// A first turn of a task without a session.
#[must_use]
pub fn turn(prompt: &str) -> Turn {
    Turn {
        job_id: JobId::new(),
        tenant: "trial".to_owned(),
        user: None,
        session_id: None,
        attempt: 1,
        prompt: prompt.to_owned(),
        system_prompt: None,
        max_turns: 10,
        allowed_tools: Vec::new(),
        history: Vec::new(),
        attachments: Vec::new(),
        contents: BTreeMap::new(),
        state: None,
        remaining: Remaining::default(),
    }
}

/// What an engine asked and said.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// The calls it asked about.
    pub asked: Vec<ToolCall>,
    /// The ids of calls it withdrew.
    pub withdrawn: Vec<String>,
    /// The states it made durable.
    pub kept: Vec<EngineState>,
    /// The states it left for its end.
    pub checkpoints: Vec<EngineState>,
    /// How often it asked whether another turn may begin.
    pub turns: u32,
}

/// Decides by a rule, and remembers.
pub struct TrialLink {
    rule: Box<dyn Fn(&ToolCall) -> Decision + Send + Sync>,
    remembered: Mutex<Remembered>,
}

impl TrialLink {
    /// Decides by this rule.
    #[must_use]
    pub fn deciding(rule: impl Fn(&ToolCall) -> Decision + Send + Sync + 'static) -> Self {
        Self { rule: Box::new(rule), remembered: Mutex::default() }
    }

    /// Allows everything.
    #[must_use]
    pub fn allowing() -> Self {
        Self::deciding(|_| Decision::Allow)
    }

    /// What it was asked and told so far.
    #[must_use]
    pub fn remembered(&self) -> Remembered {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Link for TrialLink {
    async fn approve(&self, calls: Vec<ToolCall>) -> Result<Vec<Decision>, TurnFailure> {
        let decisions = calls.iter().map(&self.rule).collect();
        self.lock().asked.extend(calls);
        Ok(decisions)
    }

    async fn withdraw(&self, call_ids: Vec<String>) {
        self.lock().withdrawn.extend(call_ids);
    }

    async fn keep_state(&self, state: EngineState) -> Result<(), TurnFailure> {
        self.lock().kept.push(state);
        Ok(())
    }

    fn checkpoint(&self, state: EngineState) {
        self.lock().checkpoints.push(state);
    }

    async fn next_turn(&self) -> Result<(), TurnFailure> {
        self.lock().turns += 1;
        Ok(())
    }

    async fn enter(&self, _destination: &str) -> Result<Box<dyn Passage>, TurnFailure> {
        Ok(Box::new(Freely))
    }
}
