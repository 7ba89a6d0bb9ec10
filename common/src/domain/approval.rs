//! Approvals: a tool call that waits for a person.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{ApprovalId, JobId, SessionId, Timestamp, job::text_enum};

text_enum! {
    /// What became of an approval. All but `pending` are final.
    ApprovalState {
        /// Waits for a decision.
        Pending = "pending",
        /// The tool may run.
        Approved = "approved",
        /// The tool may not run.
        Denied = "denied",
        /// Nobody decided in time: as good as denied.
        Expired = "expired",
        /// The engine asks no more, or its job has ended.
        Withdrawn = "withdrawn",
    }
}

text_enum! {
    /// How far an approval reaches.
    #[derive(Default)]
    ApprovalScope {
        /// This call.
        #[default]
        Once = "once",
        /// Every call of the tool in the session.
        Session = "session",
    }
}

/// A tool that an engine wants to use.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ToolCall {
    /// The engine's own id of the call.
    pub id: String,
    /// Its name.
    pub tool: String,
    /// What it is called with.
    pub input: Value,
}

impl ToolCall {
    /// What makes two calls the same question: the tool and its input, not the call's id. An object's fields are in order of
    /// their names, so that they may come in any.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::digest(format!("{}\n{}", self.tool, self.input));
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What was decided about a call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum Decision {
    /// It may run.
    Allow,
    /// It may not; the turn goes on, and the engine is told why.
    Deny {
        /// For the engine.
        message: String,
    },
}

/// A question and, once there is one, its answer.
#[derive(Clone, PartialEq, Debug)]
pub struct Approval {
    /// Its id.
    pub id: ApprovalId,
    /// Whose it is.
    pub tenant: String,
    /// The task that asks.
    pub job_id: JobId,
    /// The task's conversation.
    pub session_id: Option<SessionId>,
    /// The call.
    pub call: ToolCall,
    /// What became of it.
    pub state: ApprovalState,
    /// How far an approval reaches.
    pub scope: ApprovalScope,
    /// Why it was denied, for the engine.
    pub message: Option<String>,
    /// Who decided: a key's id, or a user's.
    pub decided_by: Option<String>,
    /// Asked.
    pub created_at: Timestamp,
    /// Denied if nobody has decided by then.
    pub expires_at: Timestamp,
    /// Decided.
    pub decided_at: Option<Timestamp>,
}

impl Approval {
    /// The decision, if there is one.
    #[must_use]
    pub fn decision(&self) -> Option<Decision> {
        let deny = |fallback: &str| {
            let message = self.message.clone().filter(|text| !text.is_empty());
            Some(Decision::Deny { message: message.unwrap_or_else(|| fallback.to_owned()) })
        };
        match self.state {
            ApprovalState::Pending => None,
            ApprovalState::Approved => Some(Decision::Allow),
            ApprovalState::Denied => deny("The user denied this tool call"),
            ApprovalState::Expired => deny("Nobody decided about this tool call in time"),
            ApprovalState::Withdrawn => deny("This tool call was withdrawn"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn equal_calls_are_one_question_whatever_their_ids_and_the_order_of_their_fields() {
        let call = |id: &str, input| ToolCall { id: id.into(), tool: "Bash".into(), input };
        let first = call("a", json!({"command": "ls", "description": "list"}));
        let second = call("b", serde_json::from_str(r#"{"description": "list", "command": "ls"}"#).expect("json"));
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_ne!(first.fingerprint(), call("a", json!({"command": "ls -l", "description": "list"})).fingerprint());
        assert_ne!(first.fingerprint(), ToolCall { tool: "Read".into(), ..first }.fingerprint());
    }
}
