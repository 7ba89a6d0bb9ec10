//! How far a turn has come: what the model said and what its tools answered. Kept where a later run finds it, so that no
//! request is paid twice and no tool runs twice.

use errand_common::{
    domain::{JobId, ToolCall},
    port::store::EngineState,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::protocol::Answer;
use crate::engine::{Turn, toolbox::ToolResult};

/// Of the kept form; another one is not read.
const VERSION: u32 = 1;

/// One answer of the model, and what its calls came to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(in crate::engine) struct Round {
    /// The assistant's part as its server wants it back.
    pub(in crate::engine) said: Value,
    /// Its text, as viewers were shown it.
    pub(in crate::engine) text: String,
    /// What it wanted to be done.
    pub(in crate::engine) uses: Vec<Use>,
}

/// One tool call on its way.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(in crate::engine) struct Use {
    /// What was asked for, under an id that no other call of the turn has.
    pub(in crate::engine) call: ToolCall,
    /// The id that its server gave it, if that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    named: Option<String>,
    /// The tool was started, perhaps by an earlier run.
    #[serde(default)]
    pub(in crate::engine) started: bool,
    /// What it came to.
    #[serde(default)]
    pub(in crate::engine) result: Option<ToolResult>,
}

impl Use {
    fn new(call: &ToolCall, is_taken: impl Fn(&str) -> bool) -> Self {
        let named = call.id.clone();
        let mut call = call.clone();
        let mut number = 1;
        while call.id.is_empty() || is_taken(&call.id) {
            number += 1;
            call.id = format!("{named}-{number}");
        }
        let named = (call.id != named).then_some(named);
        Self { call, named, started: false, result: None }
    }

    /// By which its server knows it.
    pub(in crate::engine) fn server_id(&self) -> &str {
        self.named.as_deref().unwrap_or(&self.call.id)
    }
}

/// As it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    version: u32,
    job_id: JobId,
    model: String,
    rounds: Vec<Round>,
}

/// How far a turn has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub(super) rounds: Vec<Round>,
}

impl Progress {
    /// What an earlier run of the same task left; nothing if another task, or another model, was the last.
    pub(super) fn left(turn: &Turn, model: &str) -> Self {
        let kept = turn.state.as_ref().filter(|state| !state.content.is_empty());
        let kept = kept.and_then(|state| match serde_json::from_str::<Kept>(&state.content) {
            Ok(kept) => Some(kept),
            Err(error) => {
                tracing::warn!(%error, "what an earlier run left can't be read; the turn begins anew");
                None
            }
        });
        let kept = kept.filter(|kept| kept.version == VERSION && kept.job_id == turn.job_id && kept.model == model);
        Self { rounds: kept.map(|kept| kept.rounds).unwrap_or_default() }
    }

    /// To be kept under the engine's name.
    pub(super) fn keep(&self, turn: &Turn, engine: &str, model: &str) -> EngineState {
        let kept = Kept { version: VERSION, job_id: turn.job_id, model: model.to_owned(), rounds: self.rounds.clone() };
        let content = serde_json::to_string(&kept).unwrap_or_default();
        EngineState { engine: engine.to_owned(), engine_session: turn.job_id.to_string(), content }
    }

    /// What is kept of a turn that is over.
    pub(super) fn over(turn: &Turn, engine: &str) -> EngineState {
        let content = String::new();
        EngineState { engine: engine.to_owned(), engine_session: turn.job_id.to_string(), content }
    }

    /// All text so far.
    pub(super) fn text(&self) -> String {
        self.rounds.iter().map(|round| round.text.as_str()).collect()
    }

    /// What stands between the text so far and the next answer's.
    pub(super) fn separator(&self) -> &'static str {
        let after_tools = self.rounds.last().is_some_and(|round| !round.uses.is_empty());
        let said = self.rounds.iter().rev().find(|round| !round.text.is_empty());
        if after_tools && said.is_some_and(|round| !round.text.ends_with('\n')) { "\n\n" } else { "" }
    }

    pub(super) fn push(&mut self, answer: &Answer) {
        let mut uses: Vec<Use> = Vec::with_capacity(answer.calls.len());
        for call in &answer.calls {
            let earlier = || self.rounds.iter().flat_map(|round| &round.uses).chain(&uses);
            let one = Use::new(call, |id| earlier().any(|one| one.call.id == id));
            uses.push(one);
        }
        let text = if answer.text.is_empty() { String::new() } else { format!("{}{}", self.separator(), answer.text) };
        self.rounds.push(Round { said: answer.said.clone(), text, uses });
    }

    /// The calls of the last answer.
    pub(super) fn uses(&mut self) -> &mut [Use] {
        self.rounds.last_mut().map_or(&mut [], |round| &mut round.uses)
    }

    /// Whether the last answer waits for its tools.
    pub(super) fn waits_for_tools(&self) -> bool {
        self.rounds.last().is_some_and(|round| round.uses.iter().any(|one| one.result.is_none()))
    }
}
