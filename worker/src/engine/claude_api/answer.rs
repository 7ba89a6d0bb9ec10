//! An answer while it is put together.

use std::collections::BTreeMap;

use errand_common::{
    config::PromptCache,
    domain::{FailureClass, ToolCall},
};
use serde_json::{Map, Value, json};

use crate::engine::{
    TurnFailure, code,
    prices::Tokens,
    server::{Answer, ErrorBody, Listener, Said, Spent},
    text::without_nul,
};

/// A message so far.
pub(super) struct Message {
    /// By their index; each as the API wants it back.
    blocks: BTreeMap<u64, Block>,
    model: Option<String>,
    usage: Map<String, Value>,
    /// The last word about usage has come.
    counted: bool,
    stop_reason: Option<String>,
    stopped: bool,
    size: usize,
    cache: PromptCache,
}

/// A block, with the tool input that has come so far as text.
#[derive(Default)]
struct Block {
    value: Value,
    input: String,
}

impl Message {
    pub(super) fn new(cache: PromptCache) -> Self {
        let (blocks, usage) = (BTreeMap::new(), Map::new());
        Self { blocks, model: None, usage, counted: false, stop_reason: None, stopped: false, size: 0, cache }
    }

    /// Later values replace earlier ones: they are cumulative. What is null leaves them as they were.
    fn count(&mut self, usage: Option<&Value>) {
        let fields = usage.and_then(Value::as_object).into_iter().flatten();
        self.usage
            .extend(fields.filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), value.clone())));
    }

    fn delta(&mut self, index: u64, delta: &Value) -> Option<Said> {
        let block = self.blocks.entry(index).or_default();
        let text = |name: &str| without_nul(delta[name].as_str().unwrap_or_default().to_owned());
        match delta["type"].as_str()? {
            "text_delta" => {
                let text = text("text");
                self.size += text.len();
                extend(&mut block.value, "text", &text);
                (!text.is_empty()).then_some(Said::Text(text))
            }
            "thinking_delta" => {
                let text = text("thinking");
                self.size += text.len();
                extend(&mut block.value, "thinking", &text);
                (!text.is_empty()).then_some(Said::Thinking(text))
            }
            "signature_delta" => {
                let signature = delta["signature"].as_str()?;
                self.size += signature.len();
                extend(&mut block.value, "signature", signature);
                None
            }
            "input_json_delta" => {
                let piece = delta["partial_json"].as_str()?;
                self.size += piece.len();
                block.input.push_str(piece);
                None
            }
            "citations_delta" => {
                self.size += delta["citation"].to_string().len();
                if let Some(citations) = block.value.get_mut("citations").and_then(Value::as_array_mut) {
                    citations.push(delta["citation"].clone());
                } else if let Some(fields) = block.value.as_object_mut() {
                    fields.insert("citations".to_owned(), json!([delta["citation"]]));
                }
                None
            }
            _ => None,
        }
    }

    fn tokens(&self) -> Tokens {
        let count = |path: &str| self.usage.get(path).and_then(Value::as_u64);
        let written = count("cache_creation_input_tokens").unwrap_or(0);
        let kept_for = |name| self.usage.get("cache_creation").and_then(|kept| kept.get(name)?.as_u64());
        let (five_minutes, hour) = (kept_for("ephemeral_5m_input_tokens"), kept_for("ephemeral_1h_input_tokens"));
        let (cache_write_5m, cache_write_1h) = match (five_minutes, hour) {
            // By what was asked for, where the server doesn't say.
            (None, None) if self.cache == PromptCache::OneHour => (0, written),
            (None, None) => (written, 0),
            (five_minutes, hour) => (five_minutes.unwrap_or(0), hour.unwrap_or(0)),
        };
        Tokens {
            input: count("input_tokens").unwrap_or(0),
            output: count("output_tokens").unwrap_or(0),
            cache_read: count("cache_read_input_tokens").unwrap_or(0),
            cache_write_5m,
            cache_write_1h,
        }
    }
}

fn extend(block: &mut Value, field: &str, more: &str) {
    if let Some(Value::String(text)) = block.get_mut(field) {
        text.push_str(more);
    } else if let Some(fields) = block.as_object_mut() {
        fields.insert(field.to_owned(), Value::String(more.to_owned()));
    }
}

impl Listener for Message {
    fn take(&mut self, piece: &Value) -> Result<Vec<Said>, ErrorBody> {
        let index = piece["index"].as_u64().unwrap_or(0);
        match piece["type"].as_str().unwrap_or_default() {
            "error" => return Err(ErrorBody::from(&piece["error"])),
            "message_start" => {
                let message = &piece["message"];
                self.model = message["model"].as_str().map(ToOwned::to_owned);
                self.count(message.get("usage"));
            }
            "content_block_start" => {
                let block = Block { value: piece["content_block"].clone(), input: String::new() };
                let text = block.value["text"].as_str().map(|text| without_nul(text.to_owned())).unwrap_or_default();
                self.size += block.value.to_string().len();
                self.blocks.insert(index, block);
                return Ok((!text.is_empty()).then_some(Said::Text(text)).into_iter().collect());
            }
            "content_block_delta" => return Ok(self.delta(index, &piece["delta"]).into_iter().collect()),
            "message_delta" => {
                if let Some(reason) = piece["delta"]["stop_reason"].as_str() {
                    self.stop_reason = Some(reason.to_owned());
                }
                self.counted |= piece["usage"]["output_tokens"].is_u64();
                self.count(piece.get("usage"));
            }
            "message_stop" => self.stopped = true,
            // Pings, the ends of blocks, and what later versions add.
            _ => {}
        }
        Ok(Vec::new())
    }

    fn is_complete(&self) -> bool {
        self.stopped
    }

    fn is_over(&self) -> bool {
        self.stopped
    }

    fn size(&self) -> usize {
        self.size
    }

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn spent(&self) -> Spent {
        match (self.counted, self.usage.is_empty()) {
            (true, _) => Spent::Exactly(self.tokens()),
            (false, false) => Spent::AtLeast(self.tokens()),
            (false, true) => Spent::Unknown,
        }
    }

    fn finish(self: Box<Self>) -> Result<Answer, TurnFailure> {
        let stop_reason = self.stop_reason.as_deref().unwrap_or_default();
        if stop_reason == "refusal" {
            let message = "the model refused to answer";
            return Err(TurnFailure::new(FailureClass::Fatal, code::CONTENT_FILTERED, message));
        }
        let note = match stop_reason {
            "max_tokens" => Some("the answer ends at the longest length that `max_tokens` allows"),
            "model_context_window_exceeded" => Some("the answer ends where the model's memory is full"),
            _ => None,
        };
        let wants_tools = stop_reason == "tool_use";
        let (mut said, mut text, mut calls) = (Vec::new(), String::new(), Vec::new());
        for Block { mut value, input } in self.blocks.into_values() {
            match value["type"].as_str().unwrap_or_default() {
                "text" => {
                    let words = without_nul(value["text"].as_str().unwrap_or_default().to_owned());
                    // The API takes no empty ones back.
                    if words.is_empty() {
                        continue;
                    }
                    text.push_str(&words);
                    value["text"] = Value::String(words);
                }
                "tool_use" | "server_tool_use" => {
                    if !input.is_empty() {
                        value["input"] = parse_input(&input);
                    }
                    if value["type"] == "tool_use" && wants_tools {
                        calls.push(ToolCall {
                            id: value["id"].as_str().unwrap_or_default().to_owned(),
                            tool: value["name"].as_str().unwrap_or_default().to_owned(),
                            input: value["input"].clone(),
                        });
                    }
                }
                _ => {}
            }
            said.push(value);
        }
        if wants_tools && calls.is_empty() {
            let message = "the model asked for tools and named none";
            return Err(TurnFailure::new(FailureClass::Transient, code::EXECUTION_ERROR, message));
        }
        let (paused, model) = (stop_reason == "pause_turn", self.model);
        Ok(Answer { said: Value::Array(said), text, calls, paused, note, model })
    }
}

/// The API checks that it is JSON; what is not, the tool gets to see as text.
fn parse_input(input: &str) -> Value {
    serde_json::from_str(input).unwrap_or_else(|_| json!({ "unreadable": input }))
}
