//! News of chats as gateways send them.

use serde::Deserialize;
use serde_json::Value;

use crate::gateway::{GatewayFailure, failure::run_failed, frame};

/// One piece of news of a chat.
#[derive(Clone, PartialEq, Debug)]
pub struct ChatEvent {
    /// The run: the key of the message that began it.
    pub run_id: String,
    /// The session, as the gateway writes it.
    pub session_key: String,
    /// What happened.
    pub state: ChatState,
}

/// What happened in a run.
#[derive(Clone, PartialEq, Debug)]
pub enum ChatState {
    /// It prepares.
    Status {
        /// The gateway's word for the phase.
        phase: String,
    },
    /// The agent says more. Pieces may be missing.
    Delta {
        /// What is new.
        text: String,
        /// `text` stands for all that was said before.
        replace: bool,
        /// All that was said so far, if the gateway repeats it.
        whole: Option<String>,
    },
    /// It ended well.
    Final {
        /// The whole answer. None: it was merged into another run's, or must be read from the history.
        text: Option<String>,
    },
    /// It was stopped.
    Aborted {
        /// What had been said.
        text: Option<String>,
        /// The gateway's word; `stop` for an agent that chose to say nothing.
        stop_reason: String,
    },
    /// It failed.
    Error {
        /// Why, as far as the gateway says.
        failure: GatewayFailure,
        /// The gateway's word for the kind, if it gives one.
        kind: Option<String>,
    },
    /// Something that this version does not know.
    Other,
}

impl ChatState {
    /// Whether the run is over.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        matches!(self, Self::Final { .. } | Self::Aborted { .. } | Self::Error { .. })
    }
}

/// What a watcher is told.
#[derive(Clone, PartialEq, Debug)]
pub enum ChatNews {
    /// This happened.
    Event(ChatEvent),
    /// Something may have happened that is not told: read the history.
    Gap,
}

/// As it comes.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::gateway) struct RawChat {
    #[serde(deserialize_with = "frame::text")]
    pub(super) run_id: String,
    #[serde(deserialize_with = "frame::text")]
    pub(super) session_key: String,
    #[serde(deserialize_with = "frame::text")]
    state: String,
    #[serde(deserialize_with = "frame::text")]
    phase: String,
    #[serde(deserialize_with = "frame::text")]
    delta_text: String,
    #[serde(deserialize_with = "frame::lenient")]
    replace: Option<bool>,
    message: Value,
    #[serde(deserialize_with = "frame::text")]
    stop_reason: String,
    #[serde(deserialize_with = "frame::text")]
    error_message: String,
    #[serde(deserialize_with = "frame::lenient")]
    error_kind: Option<String>,
}

impl RawChat {
    pub(super) fn read(&self) -> ChatEvent {
        let text = message_text(&self.message);
        let state = match self.state.as_str() {
            "status" => ChatState::Status { phase: self.phase.clone() },
            "delta" => {
                ChatState::Delta { text: self.delta_text.clone(), replace: self.replace == Some(true), whole: text }
            }
            "final" => ChatState::Final { text },
            "aborted" => ChatState::Aborted { text, stop_reason: self.stop_reason.clone() },
            "error" => {
                let words = [self.error_message.as_str(), text.as_deref().unwrap_or_default()];
                let words = words.into_iter().find(|words| !words.is_empty()).unwrap_or("the turn failed");
                ChatState::Error { failure: run_failed(words), kind: self.error_kind.clone() }
            }
            _ => ChatState::Other,
        };
        ChatEvent { run_id: self.run_id.clone(), session_key: self.session_key.clone(), state }
    }
}

/// The text of a message: a string, or the text parts of a list. `None` if there is no message.
pub(in crate::gateway) fn message_text(message: &Value) -> Option<String> {
    let content = message.get("content").or_else(|| message.get("text"))?;
    match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gateway::failure::code;

    fn chat(payload: Value) -> ChatEvent {
        serde_json::from_value::<RawChat>(payload).expect("news").read()
    }

    #[test]
    fn news_are_read_as_they_come() {
        let message = json!({"role": "assistant", "content": [{"type": "text", "text": "he"}, {"type": "image"}, {"text": "llo"}]});
        for (payload, state) in [
            (json!({"state": "final", "message": message}), ChatState::Final { text: Some("hello".into()) }),
            (json!({"state": "final"}), ChatState::Final { text: None }),
            (
                json!({"state": "delta", "deltaText": "x", "seq": 3}),
                ChatState::Delta { text: "x".into(), replace: false, whole: None },
            ),
            (
                json!({"state": "aborted", "stopReason": "rpc"}),
                ChatState::Aborted { text: None, stop_reason: "rpc".into() },
            ),
            (json!({"state": "dreaming"}), ChatState::Other),
        ] {
            assert_eq!(chat(payload.clone()).state, state, "{payload}");
        }
        let failed =
            chat(json!({"state": "error", "errorMessage": "plugin generation was superseded", "errorKind": "unknown"}));
        let ChatState::Error { failure, kind } = failed.state else { panic!("an error") };
        assert_eq!((failure.code, kind.as_deref()), (code::SUPERSEDED, Some("unknown")));
    }
}
