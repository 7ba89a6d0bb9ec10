//! The request as it is sent, and answers as they are read: every field optional, unknown ones ignored.

use errand_common::{config::OpenAiCompatibleEngine, domain::Role};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failure::Refusal;
use crate::engine::Turn;

/// Which of the newer parameters a server takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Dialect {
    stream_options: bool,
    max_completion_tokens: bool,
}

impl Default for Dialect {
    fn default() -> Self {
        Self { stream_options: true, max_completion_tokens: false }
    }
}

impl Dialect {
    /// What to try when a server has refused a request for one of its parameters: each is changed once.
    pub(super) fn instead(self, refusal: &Refusal) -> Option<Self> {
        if self.stream_options && refusal.names("stream_options") {
            return Some(Self { stream_options: false, ..self });
        }
        let wants_new_name = !self.max_completion_tokens && refusal.names("max_completion_tokens");
        wants_new_name.then_some(Self { max_completion_tokens: true, ..self })
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Request<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
}

#[derive(Debug, Serialize)]
struct StreamOptions {
    include_usage: bool,
}

#[derive(Debug, Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

impl<'a> Request<'a> {
    pub(super) fn new(config: &'a OpenAiCompatibleEngine, turn: &'a Turn, dialect: Dialect) -> Self {
        let system = turn.system_prompt.as_deref().map(|content| Message { role: "system", content });
        let earlier = turn.history.iter().map(|message| {
            let role = match message.role {
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            Message { role, content: &message.content }
        });
        let prompt = Message { role: "user", content: &turn.prompt };
        Self {
            model: &config.model,
            messages: system.into_iter().chain(earlier).chain([prompt]).collect(),
            stream: true,
            stream_options: dialect.stream_options.then_some(StreamOptions { include_usage: true }),
            max_tokens: config.max_tokens.filter(|_| !dialect.max_completion_tokens),
            max_completion_tokens: config.max_tokens.filter(|_| dialect.max_completion_tokens),
        }
    }
}

/// One piece of a streamed answer, or a whole one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Chunk {
    pub(super) choices: Option<Vec<Choice>>,
    pub(super) usage: Option<Value>,
    pub(super) model: Option<String>,
    pub(super) error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Choice {
    delta: Option<Delta>,
    message: Option<Delta>,
    pub(super) finish_reason: Option<String>,
}

impl Choice {
    /// What is new: streams say `delta`, whole answers `message`, and some servers both.
    pub(super) fn news(&self) -> Option<&Delta> {
        self.delta.as_ref().or(self.message.as_ref())
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Delta {
    content: Option<Value>,
    refusal: Option<String>,
    reasoning_content: Option<String>,
    reasoning: Option<Value>,
}

impl Delta {
    /// What is said: `content`, as a string or in parts, or the words of a refusal.
    pub(super) fn text(&self) -> String {
        let content = match &self.content {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
            _ => String::new(),
        };
        content + self.refusal.as_deref().unwrap_or_default()
    }

    /// What is thought; servers that send it under both names repeat themselves.
    pub(super) fn thinking(&self) -> &str {
        let other = self.reasoning.as_ref().and_then(Value::as_str);
        self.reasoning_content.as_deref().filter(|text| !text.is_empty()).or(other).unwrap_or_default()
    }
}

/// An error as servers put it: an object, or just a string.
#[derive(Clone, Debug, Default)]
pub(super) struct ErrorBody {
    pub(super) message: String,
    pub(super) kind: String,
    pub(super) code: String,
    pub(super) param: String,
}

impl From<&Value> for ErrorBody {
    fn from(error: &Value) -> Self {
        if let Some(message) = error.as_str() {
            return Self { message: message.to_owned(), ..Self::default() };
        }
        let field = |name: &str| match error.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        Self { message: field("message"), kind: field("type"), code: field("code"), param: field("param") }
    }
}
