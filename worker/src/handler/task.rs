//! `task`: one prompt on one engine.
//!
//! * `state`: what the engine finds again of the conversation; `contents`: the attachments it is given.
//! * `budget`: what it may spend. `asking`: questions to the store that wait while it is away.
//! * `approval`: the tool calls that a person decides about. `prompt`: the system prompt of those who bring none.

mod approval;
mod asking;
mod budget;
mod contents;
mod prompt;
mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use errand_common::{
    config::{self, Rerun},
    domain::{Decision, FailureClass, GatewayId, Message, NewEvent, ToolCall, Usage, gate},
    port::store::{Claimed, EngineState},
    wire::task::{TaskPayload, VERSION},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::{
    approval::{Approvals, Rules},
    asking::ask,
    budget::Budget,
    prompt::SystemPrompt,
};
use super::{Completion, Handler, HandlerFailure, Missing, RunContext};
use crate::{
    directory::Directory,
    engine::{
        self, Engine, EngineTable, HeldBack, Link, Remaining, Turn, TurnContext, TurnEnd, TurnFailure, places::Places,
    },
    gate::{Passage, Policies},
    gateway::Gateway,
    registry::StopReason,
};

/// Events an engine may emit before it waits for the writer to take them.
const EVENTS_AHEAD: usize = 64;
/// Bounds an attempt of a task that says nothing about it.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(30 * 60);
/// One answer of a model's server takes no longer, as a rule: after this its place at the gate is free again, whether or not
/// its worker lives.
const REQUEST_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Runs prompts.
pub(crate) struct TaskHandler {
    engines: Arc<EngineTable>,
    directory: Arc<Directory>,
    /// Engines that must not run twice for one task.
    run_once: BTreeSet<String>,
    approvals: Rules,
    budgets: config::Budgets,
    system_prompt: SystemPrompt,
    /// Of the engines' servers.
    gates: Arc<Policies>,
    places: Places,
    /// How long a task is put off at least that finds all places taken.
    busy: Duration,
    /// Most bytes of the history's attachments that an engine is given.
    history_attachments: u64,
}

impl TaskHandler {
    pub(crate) fn new(engines: Arc<EngineTable>, directory: Arc<Directory>, config: &config::Config) -> Self {
        let run_once = config
            .engines
            .table
            .iter()
            .filter(|(_, engine)| matches!(engine, config::Engine::Command(command) if command.rerun == Rerun::Never))
            .map(|(name, _)| name.clone())
            .collect();
        Self {
            engines,
            directory,
            run_once,
            approvals: Rules::new(&config.worker),
            budgets: config.budgets.clone(),
            system_prompt: SystemPrompt::new(&config.agent),
            gates: Arc::new(Policies::new(&config.gates, REQUEST_LIMIT)),
            places: Places::new(&config.engines),
            busy: Duration::from_millis(config.gates.busy_wait_ms.into()),
            history_attachments: u64::from(config.worker.history_attachments_mib) * 1024 * 1024,
        }
    }

    /// Prepares the turn and runs it.
    async fn turn(
        &self,
        engine: &dyn Engine,
        claimed: &Claimed,
        payload: TaskPayload,
        context: &Arc<RunContext>,
    ) -> Result<TurnEnd, TurnFailure> {
        let capabilities = engine.capabilities();
        let limits = if capabilities.metered { &self.budgets } else { &config::Budgets::default() };
        let budget = Budget::new(limits, payload.budget.filter(|_| capabilities.metered), &claimed.job);
        let remaining = budget.remaining(context).await?;
        let history = history(claimed, payload.max_context_messages, context).await?;
        let name = payload.engine_type.clone();
        let voice_mode = payload.voice_mode;
        let system_prompt = self.system_prompt.of(claimed, &payload, context.backend.clock.now())?;
        let payload = TaskPayload { system_prompt, ..payload };
        let mut turn = Turn { remaining, ..turn(claimed, payload, history) };
        if capabilities.resume {
            turn.state = state::load(claimed.job.session_id, &name, context).await?;
        }
        contents::load(&mut turn, capabilities.attachments, self.history_attachments, context).await?;
        let (flush, flushes) = mpsc::channel(1);
        let approvals = Approvals {
            context: context.clone(),
            rules: self.approvals,
            allowed_tools: turn.allowed_tools.clone(),
            can_be_parked: capabilities.resume,
            flush,
            waiting: Mutex::default(),
        };
        let link = TaskLink {
            context: context.clone(),
            budget,
            approvals,
            gates: Arc::clone(&self.gates),
            directory: Arc::clone(&self.directory),
            tenant: claimed.job.tenant.clone(),
        };
        run_turn(engine, turn, link, Outlet { flushes, voice_mode }, context).await
    }
}

#[async_trait]
impl Handler for TaskHandler {
    fn version(&self) -> u32 {
        VERSION
    }

    fn default_timeout(&self) -> Duration {
        ATTEMPT_LIMIT
    }

    async fn run(&self, claimed: &Claimed, context: &Arc<RunContext>) -> Result<Completion, HandlerFailure> {
        let payload = TaskPayload::deserialize(&claimed.job.payload).map_err(|error| {
            failed(FailureClass::Invalid, "INVALID_PAYLOAD", format!("the payload is not that of a task: {error}"))
        })?;
        let Some(engine) = self.engines.get(&payload.engine_type) else {
            return Err(HandlerFailure::Missing(Missing::Engine(payload.engine_type)));
        };
        let Some(_place) = self.places.take(&payload.engine_type, &claimed.job.tenant) else {
            let until = context.backend.clock.now().plus(self.busy);
            return Err(HandlerFailure::HeldBack { until, reason: gate::Reason::Busy.as_str() });
        };
        if self.run_once.contains(&payload.engine_type) {
            if claimed.cut_off_at.is_some() {
                return Err(failed(
                    FailureClass::Ambiguous,
                    "OUTCOME_UNKNOWN",
                    format!("an earlier run was cut off, and engine {:?} must not run again", payload.engine_type),
                ));
            }
            context.run.forbid_rerun();
        }
        match self.turn(engine.as_ref(), claimed, payload, context).await {
            Ok(end) => Ok(completion(end, context)),
            Err(TurnFailure { held_back: Some(HeldBack { until, reason }), .. }) => {
                Err(HandlerFailure::HeldBack { until, reason: reason.as_str() })
            }
            Err(TurnFailure { class, code, message, retry_after, held_back: None }) => {
                Err(HandlerFailure::Failed { class, code, message, retry_after })
            }
        }
    }
}

const fn failed(class: FailureClass, code: &'static str, message: String) -> HandlerFailure {
    HandlerFailure::Failed { class, code, message, retry_after: None }
}

/// The session's earlier messages.
async fn history(claimed: &Claimed, limit: u32, context: &RunContext) -> Result<Vec<Message>, TurnFailure> {
    let Some(session) = claimed.job.session_id.filter(|_| limit > 0) else { return Ok(Vec::new()) };
    let store = &context.backend.store;
    ask(context, "HISTORY_UNREADABLE", "the history of the session", || store.history(session, claimed.job.id, limit))
        .await
}

fn turn(claimed: &Claimed, payload: TaskPayload, history: Vec<Message>) -> Turn {
    Turn {
        job_id: claimed.job.id,
        tenant: claimed.job.tenant.clone(),
        user: payload.user,
        session_id: claimed.job.session_id,
        attempt: claimed.job.attempt,
        prompt: payload.prompt,
        system_prompt: payload.system_prompt,
        max_turns: payload.max_turns,
        allowed_tools: payload.allowed_tools,
        history,
        attachments: payload.attachments,
        contents: BTreeMap::new(),
        state: None,
        remaining: Remaining::default(),
    }
}

/// Runs the engine and forwards its events, all of them before this returns.
async fn run_turn(
    engine: &dyn Engine,
    turn: Turn,
    link: TaskLink,
    outlet: Outlet,
    context: &RunContext,
) -> Result<TurnEnd, TurnFailure> {
    let (events, emitted) = mpsc::channel(EVENTS_AHEAD);
    let turn_context = TurnContext {
        events,
        stop: context.run.stop_token().clone(),
        must_end_by: context.run.must_end_by(),
        ledger: context.ledger().clone(),
        link: Arc::new(link),
    };
    let over = CancellationToken::new();
    let work = async {
        let end = engine.run(turn, turn_context).await;
        over.cancel();
        end
    };
    let (end, ()) = tokio::join!(work, forward(emitted, outlet, &over, context));
    end
}

/// What an engine may ask of a task's run.
struct TaskLink {
    context: Arc<RunContext>,
    budget: Budget,
    approvals: Approvals,
    gates: Arc<Policies>,
    directory: Arc<Directory>,
    tenant: String,
}

#[async_trait]
impl Link for TaskLink {
    async fn approve(&self, calls: Vec<ToolCall>) -> Result<Vec<Decision>, TurnFailure> {
        self.approvals.approve(calls).await
    }

    async fn withdraw(&self, call_ids: Vec<String>) {
        self.approvals.withdraw(call_ids).await;
    }

    async fn keep_state(&self, state: EngineState) -> Result<(), TurnFailure> {
        state::keep(state, &self.context).await
    }

    fn checkpoint(&self, state: EngineState) {
        self.context.checkpoint(state);
    }

    async fn next_turn(&self) -> Result<(), TurnFailure> {
        self.budget.remaining(&self.context).await.map(drop)
    }

    async fn enter(&self, destination: &str) -> Result<Box<dyn engine::Passage>, TurnFailure> {
        match Passage::enter(&self.context.backend, &self.gates, destination).await {
            Ok(passage) => Ok(Box::new(passage)),
            Err(closed) => Err(TurnFailure::held_back(closed.until, closed.reason)),
        }
    }

    async fn gateway(&self, id: GatewayId) -> Result<Gateway, TurnFailure> {
        let store = &self.context.backend.store;
        let row = ask(&self.context, "GATEWAY_UNREADABLE", "a gateway", || store.gateway(&self.tenant, id)).await?;
        let row = row.ok_or_else(|| {
            let message = format!("the tenant has no gateway {id}");
            TurnFailure::new(FailureClass::Invalid, engine::code::ENGINE_UNAVAILABLE, message)
        })?;
        self.directory.client(&row).map_err(|failure| TurnFailure::new(failure.class, failure.code, failure.message))
    }

    fn is_over(&self) -> bool {
        use StopReason::{EventsRefused, Revoked, Timeout};
        matches!(self.context.run.stop_reason(), Some(Revoked | Timeout | EventsRefused))
    }
}

/// How the engine's events go out.
struct Outlet {
    /// Each is answered when no event is left for now.
    flushes: mpsc::Receiver<oneshot::Sender<()>>,
    /// What is not spoken is marked.
    voice_mode: bool,
}

/// Hands events on until the turn is over and none is left. Answers a flush when none is left for now.
async fn forward(
    mut emitted: mpsc::Receiver<NewEvent>,
    outlet: Outlet,
    over: &CancellationToken,
    context: &RunContext,
) {
    let Outlet { mut flushes, voice_mode } = outlet;
    let show = |event: NewEvent| context.event(if voice_mode { event.by_voice() } else { event });
    loop {
        tokio::select! {
            biased;
            event = emitted.recv() => match event {
                Some(event) => show(event).await,
                None => return,
            },
            // Who asked is gone if it was dropped.
            Some(flushed) = flushes.recv() => drop(flushed.send(())),
            () = over.cancelled() => break,
        }
    }
    // An engine that kept its sender must not keep the run.
    emitted.close();
    while let Some(event) = emitted.recv().await {
        show(event).await;
    }
}

fn completion(end: TurnEnd, context: &RunContext) -> Completion {
    let usage = context.ledger().report().map(|report| report.usage);
    let result = result(&end, usage.as_ref());
    Completion { message: Some(end.text), ..Completion::new(result) }
}

/// What the job's result and its `completed` event say; what the engine doesn't tell is null.
fn result(end: &TurnEnd, usage: Option<&Usage>) -> Value {
    json!({
        "summary": end.text,
        "tokensUsed": usage.map(Usage::total_tokens),
        "inputTokens": usage.map(|usage| usage.input_tokens),
        "outputTokens": usage.map(|usage| usage.output_tokens),
        "costUsd": usage.and_then(Usage::cost_usd),
        "model": usage.and_then(|usage| usage.model.as_ref()).or(end.model.as_ref()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_does_not_tell_is_null_in_the_result() {
        let silent = result(&TurnEnd { text: "hi".into(), model: None }, None);
        assert_eq!(silent["summary"], "hi");
        for field in ["tokensUsed", "inputTokens", "outputTokens", "costUsd", "model"] {
            assert!(silent[field].is_null() && silent.get(field).is_some(), "{field}");
        }
        let usage = Usage { input_tokens: 3, output_tokens: 4, ..Usage::default() };
        assert_eq!(result(&TurnEnd::default(), Some(&usage))["tokensUsed"], 7);
    }
}
