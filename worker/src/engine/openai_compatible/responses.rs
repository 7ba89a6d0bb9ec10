//! The Responses API. Nothing is kept at the server: each request carries the whole conversation.

use errand_common::{
    config::OpenAiCompatibleEngine,
    domain::{FailureClass, Role, ToolCall},
};
use serde_json::{Value, json};

use super::parse_arguments;
use crate::engine::{
    Turn, TurnFailure, code,
    parts::{Part, conversation},
    prices::Tokens,
    server::{Answer, ErrorBody, Listener, Protocol, Round, Said, Spent},
    text::without_nul,
};

/// The Responses API in one turn.
pub(super) struct Responses<'a> {
    pub(super) config: &'a OpenAiCompatibleEngine,
    pub(super) turn: &'a Turn,
}

impl Protocol for Responses<'_> {
    fn request(&self, rounds: &[Round]) -> Value {
        let mut input: Vec<Value> = conversation(self.turn)
            .iter()
            .map(|saying| match saying.role {
                Role::User => {
                    json!({ "role": "user", "content": saying.parts.iter().map(user_part).collect::<Vec<_>>() })
                }
                Role::Assistant => {
                    let words = saying.parts.iter().filter_map(|part| match part {
                        Part::Text(text) => Some(json!({ "type": "output_text", "text": text })),
                        _ => None,
                    });
                    json!({ "role": "assistant", "content": words.collect::<Vec<_>>() })
                }
            })
            .collect();
        for round in rounds {
            input.extend(round.said.as_array().into_iter().flatten().cloned());
            input.extend(round.uses.iter().filter_map(|one| {
                let result = one.result.as_ref()?;
                Some(json!({ "type": "function_call_output", "call_id": one.server_id(), "output": result.content }))
            }));
        }
        let mut request = json!({
            "model": self.config.model, "input": input, "stream": true, "store": false,
            "include": ["reasoning.encrypted_content"],
        });
        if let Some(system) = &self.turn.system_prompt {
            request["instructions"] = json!(system);
        }
        if let Some(limit) = self.config.max_tokens {
            request["max_output_tokens"] = json!(limit);
        }
        if !self.config.tools.is_empty() {
            let tools = self.config.tools.iter().map(|tool| {
                json!({
                    "type": "function", "name": tool.name, "description": tool.description, "parameters": tool.schema,
                    "strict": false,
                })
            });
            request["tools"] = tools.collect();
        }
        request
    }

    fn listen(&self) -> Box<dyn Listener> {
        Box::new(Response::default())
    }
}

fn user_part(part: &Part<'_>) -> Value {
    match part {
        Part::Text(text) => json!({ "type": "input_text", "text": text }),
        Part::Image { media_type, data } => {
            json!({ "type": "input_image", "image_url": format!("data:{media_type};base64,{data}") })
        }
        Part::Document { name, media_type, data } => {
            let data = format!("data:{media_type};base64,{data}");
            json!({ "type": "input_file", "filename": name, "file_data": data })
        }
    }
}

/// A response so far.
#[derive(Default)]
struct Response {
    text: String,
    /// Finished items, as the API wants them back.
    items: Vec<Value>,
    /// Bytes that came piece by piece, and those of the finished items, which hold the same again.
    size: usize,
    finished: usize,
    model: Option<String>,
    usage: Option<Value>,
    /// Why it ended early.
    incomplete: Option<String>,
    over: bool,
}

impl Response {
    fn end(&mut self, response: &Value) {
        self.over = true;
        self.model = response["model"].as_str().map(ToOwned::to_owned).or(self.model.take());
        self.usage = Some(response["usage"].clone()).filter(Value::is_object);
    }
}

impl Listener for Response {
    fn take(&mut self, piece: &Value) -> Result<Vec<Said>, ErrorBody> {
        let response = &piece["response"];
        let delta = without_nul(piece["delta"].as_str().unwrap_or_default().to_owned());
        match piece["type"].as_str().unwrap_or_default() {
            "error" => return Err(ErrorBody::from(piece.get("error").unwrap_or(piece))),
            "response.failed" => {
                self.end(response);
                return Err(ErrorBody::from(&response["error"]));
            }
            "response.created" => self.model = response["model"].as_str().map(ToOwned::to_owned),
            "response.output_text.delta" | "response.refusal.delta" => {
                self.size += delta.len();
                self.text.push_str(&delta);
                return Ok((!delta.is_empty()).then_some(Said::Text(delta)).into_iter().collect());
            }
            "response.reasoning_summary_text.delta" | "response.reasoning_text.delta" => {
                self.size += delta.len();
                return Ok((!delta.is_empty()).then_some(Said::Thinking(delta)).into_iter().collect());
            }
            "response.function_call_arguments.delta" => self.size += delta.len(),
            "response.output_item.done" => {
                self.finished += piece["item"].to_string().len();
                self.items.push(piece["item"].clone());
            }
            "response.completed" => self.end(response),
            "response.incomplete" => {
                self.end(response);
                let reason = response["incomplete_details"]["reason"].as_str().unwrap_or("unknown");
                self.incomplete = Some(reason.to_owned());
            }
            // What is under way, and what later versions add.
            _ => {}
        }
        Ok(Vec::new())
    }

    fn is_complete(&self) -> bool {
        self.over
    }

    fn is_over(&self) -> bool {
        self.over
    }

    fn size(&self) -> usize {
        // Items are text within JSON: escaped, it may take twice as much.
        self.size.max(self.finished / 2)
    }

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn spent(&self) -> Spent {
        let Some(usage) = &self.usage else { return Spent::Unknown };
        let Some(input) = usage["input_tokens"].as_u64() else { return Spent::Unknown };
        let cache_read = usage["input_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0).min(input);
        let output = usage["output_tokens"].as_u64().unwrap_or(0);
        Spent::Exactly(Tokens { input: input - cache_read, output, cache_read, ..Tokens::default() })
    }

    fn finish(self: Box<Self>) -> Result<Answer, TurnFailure> {
        let note = match self.incomplete.as_deref() {
            None => None,
            Some("content_filter") => {
                let message = "the server's content filter withheld the answer";
                return Err(TurnFailure::new(FailureClass::Fatal, code::CONTENT_FILTERED, message));
            }
            Some(_) => Some("the answer ends at the longest length that the server or `max_tokens` allows"),
        };
        let calls = self.items.iter().filter(|item| item["type"] == "function_call" && note.is_none());
        let calls = calls.map(|item| ToolCall {
            id: item["call_id"].as_str().unwrap_or_default().to_owned(),
            tool: item["name"].as_str().unwrap_or_default().to_owned(),
            input: parse_arguments(item["arguments"].as_str().unwrap_or_default()),
        });
        let calls = calls.collect();
        Ok(Answer { said: Value::Array(self.items), text: self.text, calls, paused: false, note, model: self.model })
    }
}
