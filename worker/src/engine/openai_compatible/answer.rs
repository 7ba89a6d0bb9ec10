//! An answer while it is put together.

use errand_common::{
    config::Secret,
    domain::{FailureClass, Usage},
};
use serde_json::Value;

use super::{
    failure,
    wire::{Chunk, ErrorBody},
};
use crate::engine::{TurnEnd, TurnFailure, code, text::without_nul};

/// Something to pass on at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Said {
    Text(String),
    Thinking(String),
}

/// An answer so far.
pub(super) struct Answer {
    text: String,
    size: usize,
    limit: usize,
    model: Option<String>,
    finish_reason: Option<String>,
    done: bool,
    usage: Option<Value>,
    key: Option<Secret>,
}

impl Answer {
    /// `limit` bounds text and reasoning together, in bytes; `key` is kept out of messages.
    pub(super) fn new(limit: usize, key: Option<Secret>) -> Self {
        let (text, model, finish_reason, usage) = (String::new(), None, None, None);
        Self { text, size: 0, limit, model, finish_reason, done: false, usage, key }
    }

    /// Takes one piece.
    pub(super) fn take(&mut self, chunk: &Chunk) -> Result<Vec<Said>, TurnFailure> {
        if let Some(error) = chunk.error.as_ref().filter(|error| !error.is_null()) {
            return Err(failure::in_stream(&ErrorBody::from(error), self.key.as_ref()));
        }
        if let Some(model) = chunk.model.as_deref().filter(|model| !model.is_empty()) {
            self.model.get_or_insert_with(|| model.to_owned());
        }
        if let Some(usage) = chunk.usage.as_ref().filter(|usage| usage.is_object()) {
            self.usage = Some(usage.clone());
        }
        let mut said = Vec::new();
        if let Some(choice) = chunk.choices.as_ref().and_then(|choices| choices.first()) {
            if let Some(delta) = choice.news() {
                let (thinking, text) = (without_nul(delta.thinking().to_owned()), without_nul(delta.text()));
                self.size += thinking.len() + text.len();
                self.text.push_str(&text);
                said.extend((!thinking.is_empty()).then_some(Said::Thinking(thinking)));
                said.extend((!text.is_empty()).then_some(Said::Text(text)));
            }
            if let Some(reason) = choice.finish_reason.as_deref().filter(|reason| !reason.is_empty()) {
                self.finish_reason = Some(reason.to_owned());
            }
        }
        if self.size > self.limit { Err(failure::too_long(self.limit)) } else { Ok(said) }
    }

    /// The server has said that nothing follows.
    pub(super) fn done(&mut self) {
        self.done = true;
    }

    /// Whether the text is complete.
    pub(super) fn is_finished(&self) -> bool {
        self.finish_reason.is_some() || self.done
    }

    /// What it cost, once the server has said so.
    pub(super) fn usage(&self) -> Option<Usage> {
        let tokens = |name| self.usage.as_ref()?.get(name)?.as_u64();
        let model = self.model.clone();
        let (input_tokens, output_tokens) = (tokens("prompt_tokens")?, tokens("completion_tokens").unwrap_or(0));
        Some(Usage { input_tokens, output_tokens, model, ..Usage::default() })
    }

    /// The end, with a note for people if the answer is not what it might have been.
    pub(super) fn finish(self) -> Result<(TurnEnd, Option<&'static str>), TurnFailure> {
        if !self.is_finished() {
            let message = "the server cut its answer off";
            return Err(TurnFailure::new(FailureClass::Transient, code::EXECUTION_ERROR, message));
        }
        let note = match self.finish_reason.as_deref() {
            Some("tool_calls" | "function_call") => {
                let message = "the model asked for tools although it was offered none; choose another model";
                return Err(TurnFailure::new(FailureClass::Invalid, code::EXECUTION_ERROR, message));
            }
            Some("content_filter") => {
                let message = "the server's content filter withheld the answer";
                return Err(TurnFailure::new(FailureClass::Fatal, code::CONTENT_FILTERED, message));
            }
            Some("length") => Some("the answer ends at the longest length that the server or `max_tokens` allows"),
            _ => None,
        };
        Ok((TurnEnd { text: self.text, model: self.model }, note))
    }
}
