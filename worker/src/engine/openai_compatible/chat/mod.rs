//! Chat completions: the request as it is sent.

mod answer;

use errand_common::{config::OpenAiCompatibleEngine, domain::Role};
use serde_json::{Value, json};

use self::answer::Completion;
use crate::engine::{
    Turn,
    parts::{Part, conversation},
    server::{Listener, Protocol, Refusal, Round},
};

/// Chat completions in one turn: spoken in the newest dialect first, and in a plainer one if the server refuses a parameter.
pub(super) struct Chat<'a> {
    config: &'a OpenAiCompatibleEngine,
    turn: &'a Turn,
    stream_options: bool,
    max_completion_tokens: bool,
}

impl<'a> Chat<'a> {
    pub(super) const fn new(config: &'a OpenAiCompatibleEngine, turn: &'a Turn) -> Self {
        Self { config, turn, stream_options: true, max_completion_tokens: false }
    }
}

impl Protocol for Chat<'_> {
    fn request(&self, rounds: &[Round]) -> Value {
        let system = self.turn.system_prompt.iter().map(|content| json!({ "role": "system", "content": content }));
        let earlier = conversation(self.turn);
        let earlier = earlier.iter().map(|saying| {
            let role = match saying.role {
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            json!({ "role": role, "content": content(&saying.parts) })
        });
        let mut messages: Vec<Value> = system.chain(earlier).collect();
        for round in rounds {
            messages.push(round.said.clone());
            messages.extend(round.uses.iter().filter_map(|one| {
                let result = one.result.as_ref()?;
                Some(json!({ "role": "tool", "tool_call_id": one.server_id(), "content": result.content }))
            }));
        }
        let mut request = json!({ "model": self.config.model, "messages": messages, "stream": true });
        if self.stream_options {
            request["stream_options"] = json!({ "include_usage": true });
        }
        if let Some(limit) = self.config.max_tokens {
            request[if self.max_completion_tokens { "max_completion_tokens" } else { "max_tokens" }] = json!(limit);
        }
        if !self.config.tools.is_empty() {
            let tools = self.config.tools.iter().map(|tool| {
                json!({
                    "type": "function",
                    "function": { "name": tool.name, "description": tool.description, "parameters": tool.schema },
                })
            });
            request["tools"] = tools.collect();
        }
        request
    }

    /// Each parameter is changed once.
    fn adapt(&mut self, refusal: &Refusal) -> bool {
        if self.stream_options && refusal.names("stream_options") {
            self.stream_options = false;
            return true;
        }
        let wants_new_name = !self.max_completion_tokens && refusal.names("max_completion_tokens");
        self.max_completion_tokens |= wants_new_name;
        wants_new_name
    }

    fn listen(&self) -> Box<dyn Listener> {
        Box::new(Completion::new(!self.config.tools.is_empty()))
    }
}

/// Words alone go as a string: some servers take nothing else.
fn content(parts: &[Part<'_>]) -> Value {
    if let [Part::Text(text)] = parts {
        return json!(text);
    }
    let parts = parts.iter().map(|part| match part {
        Part::Text(text) => json!({ "type": "text", "text": text }),
        Part::Image { media_type, data } => {
            json!({ "type": "image_url", "image_url": { "url": format!("data:{media_type};base64,{data}") } })
        }
        Part::Document { name, media_type, data } => {
            let data = format!("data:{media_type};base64,{data}");
            json!({ "type": "file", "file": { "filename": name, "file_data": data } })
        }
    });
    parts.collect()
}
