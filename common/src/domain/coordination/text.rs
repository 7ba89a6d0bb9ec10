//! The messages that agents read, byte for byte as the agents of existing fleets know them.

use serde_json::Value;

use super::Board;
use crate::domain::{JobId, QuestionId, job::text_enum};

/// Where replies are posted if no public URL is configured.
pub const LOCAL_URL: &str = "http://localhost:8000";

/// Tags of a lead's reply, unless the sender names others.
pub const LEAD_REPLY_TAGS: &[&str] = &["gateway_main", "lead_reply"];
/// Source of a lead's reply, unless the sender names another.
pub const LEAD_REPLY_SOURCE: &str = "lead_to_gateway_main";
/// Tags of a person's answer, unless the asker names others.
pub const USER_REPLY_TAGS: &[&str] = &["gateway_main", "user_reply"];
/// Source of a person's answer, unless the asker names another.
pub const USER_REPLY_SOURCE: &str = "user_via_gateway_main";

text_enum! {
    /// What a message to a lead is.
    #[derive(Default)]
    LeadMessageKind {
        /// Wants a reply.
        #[default]
        Question = "question",
        /// Hands work over.
        Handoff = "handoff",
    }
}

/// What a message says beside its content.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Where replies go: the API's base, without a slash at the end.
    pub base_url: &'a str,
    /// The board.
    pub board: &'a Board,
    /// Who sends it.
    pub actor: &'a str,
    /// The sender's own mark.
    pub correlation_id: Option<&'a str>,
    /// Tags that a reply shall carry.
    pub reply_tags: &'a [String],
    /// Source that a reply shall name.
    pub reply_source: &'a str,
}

impl Frame<'_> {
    /// A message to a board's lead.
    #[must_use]
    pub fn to_lead(&self, kind: LeadMessageKind, content: &str) -> String {
        let header = match kind {
            LeadMessageKind::Question => "GATEWAY MAIN QUESTION",
            LeadMessageKind::Handoff => "GATEWAY MAIN HANDOFF",
        };
        format!(
            "{header}\n{}From agent: {}\n{}\n{}\n\n\
             Reply to the gateway agent by writing a NON-chat memory item on this board:\n{}",
            self.board_lines(),
            self.actor,
            self.correlation_line(),
            content.trim(),
            self.reply_lines("..."),
        )
    }

    /// A question for a person, to the gateway's own agent.
    #[must_use]
    pub fn to_user(&self, preferred_channel: Option<&str>, content: &str) -> String {
        let channel = preferred_channel.map(str::trim).filter(|channel| !channel.is_empty());
        let channel = channel.map(|channel| format!("Preferred channel: {channel}\n")).unwrap_or_default();
        format!(
            "LEAD REQUEST: ASK USER\n{}From lead: {}\n{}{channel}\n{}\n\n\
             Please reach the user via your configured OpenClaw channel(s) (Slack/SMS/etc).\n\
             If you cannot reach them there, post the question in Mission Control board chat as a fallback.\n\n\
             When you receive the answer, reply in Mission Control by writing a NON-chat memory item on this board:\n{}",
            self.board_lines(),
            self.actor,
            self.correlation_line(),
            content.trim(),
            self.reply_lines("<answer>"),
        )
    }

    fn board_lines(&self) -> String {
        format!("Board: {}\nBoard ID: {}\n", self.board.name, self.board.id)
    }

    fn correlation_line(&self) -> String {
        let id = self.correlation_id.map(str::trim).filter(|id| !id.is_empty());
        id.map(|id| format!("Correlation ID: {id}\n")).unwrap_or_default()
    }

    fn reply_lines(&self, placeholder: &str) -> String {
        format!(
            "POST {}/api/v1/agent/boards/{}/memory\n\
             Body: {{\"content\":\"{placeholder}\",\"tags\":{},\"source\":\"{}\"}}\n\
             Do NOT reply in OpenClaw chat.",
            self.base_url,
            self.board.id,
            spaced(self.reply_tags),
            self.reply_source,
        )
    }
}

/// Longest part of a chat item that others are sent, in characters.
const SNIPPET_CHARS: usize = 800;

/// What an agent is told of an item in its board's chat.
#[must_use]
pub fn board_chat(base_url: &str, board: &Board, from: &str, content: &str, mentioned: bool) -> String {
    let header = if mentioned { "BOARD CHAT MENTION" } else { "BOARD CHAT" };
    let mut snippet = content.trim().to_owned();
    if let Some((cut, _)) = snippet.char_indices().nth(SNIPPET_CHARS) {
        snippet.truncate(cut);
        snippet.push('…');
    }
    format!(
        "{header}\nBoard: {}\nBoard ID: {}\nFrom: {from}\n\n{snippet}\n\n\
         Reply in the board's chat:\n\
         POST {base_url}/api/v1/agent/boards/{}/memory\n\
         Body: {{\"content\":\"...\",\"tags\":[\"chat\"]}}",
        board.name, board.id, board.id
    )
}

/// What an agent is told of the answer to its question.
#[must_use]
pub fn user_answer(board: &Board, question: QuestionId, correlation_id: Option<&str>, answer: &Value) -> String {
    let correlation = correlation_id.map(str::trim).filter(|id| !id.is_empty());
    let correlation = correlation.map(|id| format!("Correlation ID: {id}\n")).unwrap_or_default();
    let answer = answer.as_str().map_or_else(|| answer.to_string(), |text| text.trim().to_owned());
    format!(
        "USER ANSWER\nBoard: {}\nBoard ID: {}\nQuestion ID: {question}\n{correlation}\n{answer}",
        board.name, board.id
    )
}

/// A message once more.
#[must_use]
pub fn reminder(message: &str) -> String {
    format!("REMINDER\n{message}")
}

/// What joins a job to logs: the sender's own mark, or `{prefix}:` and twelve hexadecimal digits.
#[must_use]
pub fn trace_id(prefix: &str, correlation_id: Option<&str>, job: JobId) -> String {
    match correlation_id.map(str::trim).filter(|id| !id.is_empty()) {
        Some(id) => id.to_owned(),
        // The random end of the id.
        None => format!("{prefix}:{}", &job.uuid().simple().to_string()[20..]),
    }
}

/// A JSON array with a space after each comma, and everything escaped that is not printable ASCII.
fn spaced(tags: &[String]) -> String {
    let tags: Vec<String> = tags.iter().map(|tag| ascii(tag)).collect();
    format!("[{}]", tags.join(", "))
}

fn ascii(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    let mut escaped = String::with_capacity(quoted.len());
    for c in quoted.chars() {
        if c.is_ascii() && c != '\u{7f}' {
            escaped.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BoardId, Timestamp};

    fn board() -> Board {
        Board {
            id: "0193a5f0-0000-7000-8000-000000000001".parse::<BoardId>().expect("an id"),
            tenant: "t".to_owned(),
            name: "Ops".to_owned(),
            slug: "ops".to_owned(),
            gateway_id: None,
            paused: false,
            tail_seq: 0,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        }
    }

    fn tags(tags: &[&str]) -> Vec<String> {
        tags.iter().map(|tag| (*tag).to_owned()).collect()
    }

    #[test]
    fn a_message_to_a_lead() {
        let (board, tags) = (board(), tags(LEAD_REPLY_TAGS));
        let frame = Frame {
            base_url: "https://errand.example",
            board: &board,
            actor: "Main",
            correlation_id: Some(" c-1 "),
            reply_tags: &tags,
            reply_source: LEAD_REPLY_SOURCE,
        };
        let expected = "GATEWAY MAIN QUESTION\nBoard: Ops\nBoard ID: 0193a5f0-0000-7000-8000-000000000001\n\
            From agent: Main\nCorrelation ID: c-1\n\nhow far?\n\n\
            Reply to the gateway agent by writing a NON-chat memory item on this board:\n\
            POST https://errand.example/api/v1/agent/boards/0193a5f0-0000-7000-8000-000000000001/memory\n\
            Body: {\"content\":\"...\",\"tags\":[\"gateway_main\", \"lead_reply\"],\"source\":\"lead_to_gateway_main\"}\n\
            Do NOT reply in OpenClaw chat.";
        assert_eq!(frame.to_lead(LeadMessageKind::Question, "  how far?\n"), expected);
        let without = Frame { correlation_id: Some("  "), ..frame };
        let handoff = without.to_lead(LeadMessageKind::Handoff, "x");
        assert!(handoff.starts_with("GATEWAY MAIN HANDOFF\nBoard: Ops\n"));
        assert!(handoff.contains("From agent: Main\n\nx\n\nReply"));
    }

    #[test]
    fn an_answer_and_a_reminder() {
        let id = "0193a5f0-0000-7000-8000-000000000002";
        let question = id.parse().expect("an id");
        let expected = "USER ANSWER\nBoard: Ops\nBoard ID: 0193a5f0-0000-7000-8000-000000000001\n\
            Question ID: 0193a5f0-0000-7000-8000-000000000002\nCorrelation ID: c-1\n\nblue";
        assert_eq!(user_answer(&board(), question, Some(" c-1"), &Value::from(" blue\n")), expected);
        assert!(user_answer(&board(), question, None, &serde_json::json!({"a": 1})).ends_with("2\n\n{\"a\":1}"));
        assert_eq!(reminder("hi"), "REMINDER\nhi");
        assert_eq!(trace_id("coord.nudge", Some(" c "), JobId::new()), "c");
        let made = trace_id("coord.nudge", Some(" "), id.parse().expect("an id"));
        assert_eq!(made, "coord.nudge:000000000002");
    }

    #[test]
    fn chat_is_told_with_its_beginning_and_the_way_to_reply() {
        let expected = "BOARD CHAT MENTION\nBoard: Ops\nBoard ID: 0193a5f0-0000-7000-8000-000000000001\nFrom: Ada\n\n\
            @lead look\n\nReply in the board's chat:\n\
            POST http://localhost:8000/api/v1/agent/boards/0193a5f0-0000-7000-8000-000000000001/memory\n\
            Body: {\"content\":\"...\",\"tags\":[\"chat\"]}";
        assert_eq!(board_chat(LOCAL_URL, &board(), "Ada", " @lead look\n", true), expected);
        let long = board_chat(LOCAL_URL, &board(), "Ada", &"ä".repeat(801), false);
        assert!(long.starts_with("BOARD CHAT\n") && long.contains(&format!("\n{}…\n", "ä".repeat(800))));
    }

    #[test]
    fn a_question_for_a_person() {
        let (board, tags) = (board(), tags(&["é\u{7f}", "\"q\""]));
        let frame = Frame {
            base_url: LOCAL_URL,
            board: &board,
            actor: "Lead",
            correlation_id: None,
            reply_tags: &tags,
            reply_source: USER_REPLY_SOURCE,
        };
        let expected = "LEAD REQUEST: ASK USER\nBoard: Ops\nBoard ID: 0193a5f0-0000-7000-8000-000000000001\n\
            From lead: Lead\nPreferred channel: slack\n\nwhich one?\n\n\
            Please reach the user via your configured OpenClaw channel(s) (Slack/SMS/etc).\n\
            If you cannot reach them there, post the question in Mission Control board chat as a fallback.\n\n\
            When you receive the answer, reply in Mission Control by writing a NON-chat memory item on this board:\n\
            POST http://localhost:8000/api/v1/agent/boards/0193a5f0-0000-7000-8000-000000000001/memory\n\
            Body: {\"content\":\"<answer>\",\"tags\":[\"\\u00e9\\u007f\", \"\\\"q\\\"\"],\"source\":\"user_via_gateway_main\"}\n\
            Do NOT reply in OpenClaw chat.";
        assert_eq!(frame.to_user(Some(" slack "), "which one?"), expected);
        assert!(frame.to_user(Some(" "), "x").contains("From lead: Lead\n\nx\n"));
    }
}
