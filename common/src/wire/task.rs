//! The payload of a `task`: one prompt for one engine.

use serde::{Deserialize, Serialize};

use crate::domain::AttachmentRef;

/// The kind's name.
pub const KIND: &str = "task";
/// Version of the payload. Grows when an older worker would misread a newer payload.
pub const VERSION: u32 = 1;

/// What `POST /agent/tasks` stores and the worker runs. Additive only: new fields need a default.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskPayload {
    /// What to do.
    pub prompt: String,
    /// Which configured engine runs it; resolved when submitted, never a client's free text.
    pub engine_type: String,
    /// For the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// Bounds the engine's rounds.
    #[serde(default = "default_max_turns")]
    pub max_turns: u32,
    /// Tools that need no approval.
    #[serde(default)]
    pub allowed_tools: Vec<String>,
    /// How many messages of the session the engine is given.
    #[serde(default = "default_max_context_messages")]
    pub max_context_messages: u32,
    /// Asked by voice.
    #[serde(default)]
    pub voice_mode: bool,
    /// Images and documents, by the hash of their content.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<AttachmentRef>,
    /// The user who asked, if a user's token said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<TaskUser>,
    /// What it may spend; the settings' own limits hold besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<TaskBudget>,
}

/// Who asked, as their token said.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskUser {
    /// The token's subject.
    pub id: String,
    /// Their address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

/// What one task may spend over all its runs. A turn that has begun is not cut short: no further one begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskBudget {
    /// Tokens in and out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// Billionths of a US dollar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost_nano_usd: Option<u64>,
}

/// Rounds, if the client says nothing.
#[must_use]
pub const fn default_max_turns() -> u32 {
    10
}

/// Messages of context, if the client says nothing.
#[must_use]
pub const fn default_max_context_messages() -> u32 {
    20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_shipped_version_still_decodes() {
        let golden = include_str!("golden/task.v1.json");
        let payload: TaskPayload = serde_json::from_str(golden).expect("golden payload");
        assert_eq!(payload.engine_type, "echo");
        assert_eq!(payload.max_turns, 10);
    }
}
