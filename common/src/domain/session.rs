//! Conversations and their messages.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{AttachmentRef, InstanceId, JobId, MessageId, SessionId, Timestamp, job::text_enum};

text_enum! {
    /// Whether tasks may still join a conversation.
    SessionStatus {
        /// Takes tasks.
        Active = "active",
        /// Closed by `DELETE`; keeps its history.
        Closed = "closed",
    }
}

text_enum! {
    /// Who said it.
    Role {
        /// The client.
        User = "user",
        /// The engine.
        Assistant = "assistant",
    }
}

text_enum! {
    /// What a new task does when its session is busy; judged when the task comes due.
    #[derive(Default)]
    OnBusy {
        /// Cancel the active task and go next.
        #[default]
        Interrupt = "interrupt",
        /// Wait in line.
        Enqueue = "enqueue",
        /// Refuse.
        Reject = "reject",
        /// Hand the text to the live run when its engine can take it, else interrupt.
        Steer = "steer",
    }
}

/// A conversation.
#[derive(Clone, PartialEq, Debug)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub tenant: String,
    /// The user whose token opened it; `None`: a key did, and every key of the tenant may use it.
    pub user_id: Option<String>,
    /// The instance it is a conversation with.
    pub instance_id: Option<InstanceId>,
    /// Takes tasks or not.
    pub status: SessionStatus,
    /// The engine it was opened with; inject and voice use it.
    pub engine: String,
    /// The system prompt it was opened with.
    pub system_prompt: Option<String>,
    /// `{title, titleSet, voiceMode, …}` as clients see it.
    pub metadata: Value,
    /// Opened.
    pub created_at: Timestamp,
    /// Last written to.
    pub updated_at: Timestamp,
    /// Number of the last event of its stream; 0 if none.
    pub tail_seq: i64,
}

/// One message of a conversation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// The conversation.
    pub session_id: SessionId,
    /// The task that brought it.
    #[serde(rename = "taskId")]
    pub job_id: Option<JobId>,
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: String,
    /// What came with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<AttachmentRef>,
    /// Position in the conversation, from 1 without gaps.
    pub ordinal: i64,
    /// Said.
    pub created_at: Timestamp,
}
