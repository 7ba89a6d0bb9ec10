//! Payloads of the kinds that speak with agents behind gateways. Additive only: new fields need a default.
//!
//! What an agent reads is built when the job is made, so that every attempt sends the same bytes; where it goes is looked up when
//! it is sent.

use serde::{Deserialize, Serialize};

use crate::domain::{AgentId, BoardId, GatewayId, QuestionId};

/// Version of all these payloads.
pub const VERSION: u32 = 1;

/// To an agent of a board.
pub const NUDGE: &str = "nudge";
/// Reads an agent's `SOUL.md`.
pub const SOUL_READ: &str = "soul_read";
/// Writes an agent's `SOUL.md`.
pub const SOUL_WRITE: &str = "soul_write";
/// The kind of effect that reads an agent's file: its receipt does not hold what was read.
pub const FILE_READ: &str = "agent_file_read";
/// A question for a person, to the gateway's own agent.
pub const ASK_USER: &str = "ask_user";
/// To a board's lead, who is made if there is none.
pub const LEAD_MESSAGE: &str = "lead_message";
/// A parent: a [`LEAD_MESSAGE`] to each of a gateway's boards. No worker runs it.
pub const BROADCAST: &str = "broadcast";
/// Makes an agent in its gateway, or makes it again.
pub const PROVISION: &str = "provision";
/// Tells an agent of something on its board: chat, mentions, commands, reminders.
pub const NOTICE: &str = "notice";

/// Every kind of this file, for those that know kinds.
pub const KINDS: &[&str] = &[NUDGE, SOUL_READ, SOUL_WRITE, ASK_USER, LEAD_MESSAGE, BROADCAST, PROVISION, NOTICE];

/// The code of a message that failed because its agent could not be provisioned. The failure's words are the whole sentence for
/// the caller: they say already what went wrong where.
pub const PROVISION_FAILED: &str = "GATEWAY_PROVISION_FAILED";

/// Whom a message goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "to")]
pub enum Recipient {
    /// An agent of a board.
    Agent {
        /// Which.
        agent_id: AgentId,
    },
    /// A board's lead, made if there is none.
    Lead {
        /// Where it runs.
        gateway_id: GatewayId,
        /// Whose lead. Stored under a name of its own: the message beside it has a `board_id` too.
        #[serde(rename = "lead_of")]
        board_id: BoardId,
    },
    /// A gateway's own agent.
    Main {
        /// Whose.
        gateway_id: GatewayId,
    },
}

/// What `nudge`, `ask_user`, `lead_message` and `notice` store: one message, sent once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MessagePayload {
    /// Whom to.
    #[serde(flatten)]
    pub recipient: Recipient,
    /// The board it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_id: Option<BoardId>,
    /// Byte for byte what is sent.
    pub message: String,
    /// Whether the agent's answer may go out over its channels.
    pub deliver: bool,
    /// The question it asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question_id: Option<QuestionId>,
    /// What joins it to logs.
    pub trace_id: String,
    /// The actor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_id: Option<AgentId>,
}

/// What `soul_read` and `soul_write` store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SoulPayload {
    /// Whose.
    pub agent_id: AgentId,
    /// The board it is on.
    pub board_id: BoardId,
    /// What to write, without outer white space; `None` reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// SHA-256, in hex, of what must be there for it to be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_hash: Option<String>,
    /// What joins it to logs.
    pub trace_id: String,
    /// The actor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_id: Option<AgentId>,
}

/// What `provision` stores.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProvisionPayload {
    /// Whom.
    pub agent_id: AgentId,
    /// Files that agents change themselves (`USER.md`, `MEMORY.md`) are written anew too.
    #[serde(default)]
    pub overwrite: bool,
    /// Nothing is done if the agent is there by then: a message waits for it, and others may have waited too.
    #[serde(default)]
    pub if_needed: bool,
}

/// The key under which provisionings of an agent are one job.
#[must_use]
pub fn provision_key(agent: AgentId) -> String {
    format!("provision:{agent}")
}

/// What `broadcast` stores; its messages are children.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BroadcastPayload {
    /// Whose boards.
    pub gateway_id: GatewayId,
    /// What it was, in the sender's words.
    pub kind: String,
    /// How many boards it went to.
    #[serde(default)]
    pub boards: usize,
    /// What joins it to logs.
    pub trace_id: String,
    /// The actor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor_id: Option<AgentId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_its_recipient_beside_the_rest() {
        let (gateway_id, board_id) = (GatewayId::new(), BoardId::new());
        for (recipient, to) in [
            (Recipient::Agent { agent_id: AgentId::new() }, "agent"),
            (Recipient::Lead { gateway_id, board_id }, "lead"),
            (Recipient::Main { gateway_id }, "main"),
        ] {
            for about in [None, Some(BoardId::new())] {
                let payload = MessagePayload {
                    recipient,
                    board_id: about,
                    message: "hi".to_owned(),
                    deliver: true,
                    question_id: None,
                    trace_id: "t".to_owned(),
                    actor_id: None,
                };
                let json = serde_json::to_value(&payload).expect("plain data");
                assert_eq!(json["to"], to);
                assert_eq!(serde_json::from_value::<MessagePayload>(json).expect("reads"), payload);
            }
        }
    }
}
