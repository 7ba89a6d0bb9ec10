//! A completion while it is put together: every field optional, unknown ones ignored.

use std::collections::BTreeMap;

use errand_common::domain::{FailureClass, ToolCall};
use serde_json::{Value, json};

use crate::engine::{
    TurnFailure, code,
    prices::Tokens,
    server::{Answer, ErrorBody, Listener, Said, Spent},
    text::without_nul,
};

/// A completion so far.
pub(super) struct Completion {
    text: String,
    /// By their index.
    calls: BTreeMap<u64, Call>,
    size: usize,
    model: Option<String>,
    finish_reason: Option<String>,
    done: bool,
    usage: Option<Value>,
    /// The model was offered tools.
    with_tools: bool,
}

/// What a tool call takes beside its words, in bytes: so an answer of nothing but empty calls has its bound too.
const CALL: usize = 64;

/// A tool call so far.
#[derive(Default)]
struct Call {
    id: String,
    name: String,
    arguments: String,
}

impl Completion {
    pub(super) fn new(with_tools: bool) -> Self {
        Self {
            text: String::new(),
            calls: BTreeMap::new(),
            size: 0,
            model: None,
            finish_reason: None,
            done: false,
            usage: None,
            with_tools,
        }
    }

    fn say(&mut self, delta: &Value) -> Vec<Said> {
        let (thinking, text) = (without_nul(thinking(delta)), without_nul(text(delta)));
        self.size += thinking.len() + text.len();
        self.text.push_str(&text);
        let thinking = (!thinking.is_empty()).then_some(Said::Thinking(thinking));
        thinking.into_iter().chain((!text.is_empty()).then_some(Said::Text(text))).collect()
    }

    /// Id and name come with the first fragment only; some servers leave the index out, or the id.
    fn call(&mut self, position: usize, fragment: &Value) {
        let id = fragment["id"].as_str().unwrap_or_default();
        let position = u64::try_from(position).unwrap_or(u64::MAX);
        let index = fragment["index"].as_u64().unwrap_or_else(|| {
            let known = self.calls.iter().find(|(_, call)| !id.is_empty() && call.id == id).map(|(index, _)| *index);
            let starts = !fragment["function"]["name"].as_str().unwrap_or_default().is_empty();
            let next = self.calls.last_key_value().map_or(position, |(last, _)| last + u64::from(starts));
            known.unwrap_or(next)
        });
        let call = self.calls.entry(index).or_default();
        if call.id.is_empty() {
            self.size += id.len();
            id.clone_into(&mut call.id);
        }
        let function = &fragment["function"];
        if call.name.is_empty() {
            function["name"].as_str().unwrap_or_default().clone_into(&mut call.name);
            self.size += call.name.len() + CALL;
        }
        match &function["arguments"] {
            Value::String(piece) => {
                self.size += piece.len();
                call.arguments.push_str(piece);
            }
            // In one piece, and not as text.
            Value::Object(whole) => {
                call.arguments = Value::Object(whole.clone()).to_string();
                self.size += call.arguments.len();
            }
            _ => {}
        }
    }
}

/// What is said: `content`, as a string or in parts, or the words of a refusal.
fn text(delta: &Value) -> String {
    let content = match &delta["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => String::new(),
    };
    content + delta["refusal"].as_str().unwrap_or_default()
}

/// What is thought; servers that send it under both names repeat themselves.
fn thinking(delta: &Value) -> String {
    let named = |name: &str| delta[name].as_str().filter(|text| !text.is_empty());
    named("reasoning_content").or_else(|| named("reasoning")).unwrap_or_default().to_owned()
}

impl Listener for Completion {
    fn take(&mut self, piece: &Value) -> Result<Vec<Said>, ErrorBody> {
        if let Some(error) = piece.get("error").filter(|error| !error.is_null()) {
            return Err(ErrorBody::from(error));
        }
        if let Some(model) = piece["model"].as_str().filter(|model| !model.is_empty()) {
            self.model.get_or_insert_with(|| model.to_owned());
        }
        if piece["usage"].is_object() {
            self.usage = Some(piece["usage"].clone());
        }
        let choice = &piece["choices"][0];
        // Streams say `delta`, whole answers `message`, and some servers both.
        let news = if choice["delta"].is_object() { &choice["delta"] } else { &choice["message"] };
        let said = self.say(news);
        for (position, fragment) in news["tool_calls"].as_array().into_iter().flatten().enumerate() {
            self.call(position, fragment);
        }
        if let Some(reason) = choice["finish_reason"].as_str().filter(|reason| !reason.is_empty()) {
            self.finish_reason = Some(reason.to_owned());
        }
        Ok(said)
    }

    fn done(&mut self) {
        self.done = true;
    }

    fn is_complete(&self) -> bool {
        self.finish_reason.is_some() || self.done
    }

    fn is_over(&self) -> bool {
        self.done
    }

    fn size(&self) -> usize {
        self.size
    }

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn spent(&self) -> Spent {
        let Some(usage) = &self.usage else { return Spent::Unknown };
        let Some(prompt) = usage["prompt_tokens"].as_u64() else { return Spent::Unknown };
        let cache_read = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0).min(prompt);
        let output = usage["completion_tokens"].as_u64().unwrap_or(0);
        Spent::Exactly(Tokens { input: prompt - cache_read, output, cache_read, ..Tokens::default() })
    }

    fn finish(self: Box<Self>) -> Result<Answer, TurnFailure> {
        let note = match self.finish_reason.as_deref() {
            Some("content_filter") => {
                let message = "the server's content filter withheld the answer";
                return Err(TurnFailure::new(FailureClass::Fatal, code::CONTENT_FILTERED, message));
            }
            Some("length") => Some("the answer ends at the longest length that the server or `max_tokens` allows"),
            _ => None,
        };
        // Some servers say `stop` and call all the same; a call that was cut off at the longest length is none.
        let calls: Vec<ToolCall> = match note {
            None => self.calls.into_iter().map(|(index, call)| finished(index, call)).collect(),
            Some(_) => Vec::new(),
        };
        let wanted = matches!(self.finish_reason.as_deref(), Some("tool_calls" | "function_call"));
        if !self.with_tools && (wanted || !calls.is_empty()) {
            let message = "the model asked for tools although it was offered none; choose another model";
            return Err(TurnFailure::new(FailureClass::Invalid, code::EXECUTION_ERROR, message));
        }
        if wanted && calls.is_empty() {
            let message = "the model asked for tools and named none";
            return Err(TurnFailure::new(FailureClass::Transient, code::EXECUTION_ERROR, message));
        }
        let content = if self.text.is_empty() && !calls.is_empty() { Value::Null } else { json!(self.text) };
        let mut said = json!({ "role": "assistant", "content": content });
        if !calls.is_empty() {
            let calls = calls.iter().map(|call| {
                json!({
                    "id": call.id, "type": "function",
                    "function": { "name": call.tool, "arguments": call.input.to_string() },
                })
            });
            said["tool_calls"] = calls.collect();
        }
        Ok(Answer { said, text: self.text, calls, paused: false, note, model: self.model })
    }
}

/// A call without an id gets one, by which its answer is known.
fn finished(index: u64, call: Call) -> ToolCall {
    let id = if call.id.is_empty() { format!("call_{index}") } else { call.id };
    ToolCall { id, tool: call.name, input: super::super::parse_arguments(&call.arguments) }
}
