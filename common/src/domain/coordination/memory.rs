//! What is left on a board for others to read.

use crate::domain::{AgentId, BoardId, MemoryId, QuestionId, Timestamp};

/// The tag that makes an item part of the board's chat.
pub const CHAT: &str = "chat";

/// One item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Its id.
    pub id: MemoryId,
    /// Whose it is.
    pub tenant: String,
    /// Where.
    pub board_id: BoardId,
    /// What.
    pub content: String,
    /// As given.
    pub tags: Vec<String>,
    /// Who or what it is from, in the writer's words.
    pub source: Option<String>,
    /// It is part of the chat: the lead and whoever is mentioned are told.
    pub is_chat: bool,
    /// The agent that wrote it; `None`: a person or a key.
    pub agent_id: Option<AgentId>,
    /// The question that it answered.
    pub question_id: Option<QuestionId>,
    /// When.
    pub created_at: Timestamp,
}

/// A command to all agents of a board, said in its chat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Stop working.
    Pause,
    /// Go on.
    Resume,
}

impl Command {
    /// The command that a chat item is, if its whole content is one.
    #[must_use]
    pub fn of(content: &str) -> Option<Self> {
        match content.trim().to_ascii_lowercase().as_str() {
            "/pause" => Some(Self::Pause),
            "/resume" => Some(Self::Resume),
            _ => None,
        }
    }

    /// What agents are sent.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "/pause",
            Self::Resume => "/resume",
        }
    }
}

/// Whether a chat text mentions an agent: `@` and its whole name or the first word of it, in any case.
#[must_use]
pub fn mentions(text: &str, name: &str) -> bool {
    let text = text.to_lowercase();
    let name = name.trim().to_lowercase();
    let first = name.split_whitespace().next().unwrap_or_default().to_owned();
    [name, first].iter().filter(|name| !name.is_empty()).any(|name| {
        let mark = format!("@{name}");
        text.match_indices(&mark).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + mark.len()..].chars().next();
            let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-');
            !joins(before) && !joins(after)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_the_whole_of_an_item() {
        assert_eq!(Command::of(" /PAUSE\n"), Some(Command::Pause));
        assert_eq!(Command::of("/resume"), Some(Command::Resume));
        assert_eq!(Command::of("please /pause"), None);
    }

    #[test]
    fn agents_are_mentioned_by_their_whole_or_first_name() {
        for (text, name, expected) in [
            ("hi @Ada, look", "Ada Lovelace", true),
            ("hi @ada lovelace!", "Ada Lovelace", true),
            ("mail ada@example.org", "example", false),
            ("@adam", "Ada", false),
            ("@ada-2", "Ada", false),
            ("nobody", "", false),
        ] {
            assert_eq!(mentions(text, name), expected, "{text}");
        }
    }
}
