//! What agents and their operators ask for.

use errand_common::domain::{
    BoardId, Timestamp,
    coordination::{schema, text::LeadMessageKind},
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    extract::Wanted,
    limit,
    problem::{Faults, Problem},
    view::schema as shapes,
};

/// A message to an agent of a board.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct NudgeRequest {
    /// What the agent reads, without the white space around it; not blank.
    #[schema(example = "Please look at the failing build", min_length = 1)]
    pub(crate) message: String,
}

impl Wanted for NudgeRequest {}

/// What an agent's `SOUL.md` shall hold.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct SoulRequest {
    /// All of it, without the white space around it; not blank.
    #[schema(min_length = 1)]
    pub(crate) content: String,
    /// Why, for the audit.
    pub(crate) reason: Option<String>,
    /// Where it is from, for the audit.
    pub(crate) source_url: Option<String>,
    /// SHA-256, in hex, of what must be there for it to be replaced.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub(crate) expected_hash: Option<String>,
}

impl Wanted for SoulRequest {}

/// A question for a person, whom the gateway's own agent reaches.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct AskUserRequest {
    /// What is asked; not blank.
    #[schema(example = "Which region shall we deploy to?", min_length = 1)]
    pub(crate) content: String,
    /// The asker's own mark. It joins logs, and the answer may name it.
    pub(crate) correlation_id: Option<String>,
    /// Where the person is reached best.
    #[schema(example = "slack")]
    pub(crate) preferred_channel: Option<String>,
    /// Tags that the answer shall carry; `gateway_main`, `user_reply` if absent or empty.
    #[serde(default)]
    pub(crate) reply_tags: Vec<String>,
    /// Source that the answer shall name; `user_via_gateway_main` if absent or empty.
    pub(crate) reply_source: Option<String>,
    /// JSON Schema that an answer has to follow; at most 64 KiB. Any text will do if absent.
    #[schema(value_type = Option<Value>)]
    pub(crate) answer_schema: Option<Value>,
    /// Until when it waits for an answer; `questions.expires_days` from now if absent.
    #[schema(schema_with = shapes::time)]
    pub(crate) question_expires_at: Option<Timestamp>,
}

impl Wanted for AskUserRequest {}

impl AskUserRequest {
    /// All that is wrong with it.
    pub(crate) fn check(&self, now: Timestamp, faults: &mut Faults) {
        check_text("/content", &self.content, faults);
        check_frame(self.correlation_id.as_deref(), &self.reply_tags, self.reply_source.as_deref(), faults);
        if let Some(schema) = &self.answer_schema {
            let bytes = schema.to_string().len();
            if bytes > limit::ANSWER_SCHEMA_BYTES {
                faults.add("/answer_schema", format!("may take {} bytes at most", limit::ANSWER_SCHEMA_BYTES));
            } else if let Err(why) = schema::check(schema) {
                faults.add("/answer_schema", format!("is no JSON Schema that answers can be held against: {why}"));
            }
        }
        if let Some(expires_at) = self.question_expires_at {
            faults
                .check(expires_at > now, "/question_expires_at", || format!("must lie in the future; it is now {now}"));
            faults.check(expires_at <= now.plus(limit::LONGEST_QUESTION), "/question_expires_at", || {
                "must lie within a year from now".to_owned()
            });
        }
    }
}

/// A message to a board's lead, who is made if there is none.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct LeadMessageRequest {
    /// What it is.
    #[serde(default)]
    #[schema(schema_with = shapes::lead_message_kind)]
    pub(crate) kind: LeadMessageKind,
    /// What is said; not blank.
    #[schema(min_length = 1)]
    pub(crate) content: String,
    /// The sender's own mark. It joins logs.
    pub(crate) correlation_id: Option<String>,
    /// Tags that the reply shall carry; `gateway_main`, `lead_reply` if absent or empty.
    #[serde(default)]
    pub(crate) reply_tags: Vec<String>,
    /// Source that the reply shall name; `lead_to_gateway_main` if absent or empty.
    pub(crate) reply_source: Option<String>,
}

impl Wanted for LeadMessageRequest {}

/// A message to the leads of a gateway's boards: at most 1,000.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(crate) struct BroadcastRequest {
    /// What it is.
    #[serde(default)]
    #[schema(schema_with = shapes::lead_message_kind)]
    pub(crate) kind: LeadMessageKind,
    /// What is said; not blank.
    #[schema(min_length = 1)]
    pub(crate) content: String,
    /// The sender's own mark. It joins logs.
    pub(crate) correlation_id: Option<String>,
    /// Tags that the replies shall carry; `gateway_main`, `lead_reply` if absent or empty.
    #[serde(default)]
    pub(crate) reply_tags: Vec<String>,
    /// Source that the replies shall name; `lead_to_gateway_main` if absent or empty.
    pub(crate) reply_source: Option<String>,
    /// Only these of the gateway's boards; all if absent or empty. What is no board of the gateway is left out.
    #[schema(schema_with = shapes::uuids_or_null)]
    pub(crate) board_ids: Option<Vec<BoardId>>,
}

impl Wanted for BroadcastRequest {}

/// A text that somebody is to read.
pub(crate) fn check_text(pointer: &str, text: &str, faults: &mut Faults) {
    faults.check(!text.trim().is_empty(), pointer, || "must not be blank".to_owned());
    let fits = text.chars().count() <= limit::TEXT_CHARS;
    faults.check(fits, pointer, || format!("may take {} characters at most", limit::TEXT_CHARS));
}

/// What a message says beside its text, within the limits of what board memory takes: or nobody could reply as told.
pub(crate) fn check_frame(
    correlation_id: Option<&str>,
    reply_tags: &[String],
    reply_source: Option<&str>,
    faults: &mut Faults,
) {
    let fits = |text: &str| text.chars().count() <= limit::TAG_CHARS;
    let too_long = || format!("may take {} characters at most", limit::TAG_CHARS);
    faults.check(correlation_id.is_none_or(fits), "/correlation_id", too_long);
    faults.check(reply_source.is_none_or(fits), "/reply_source", too_long);
    let too_many = || format!("may hold {} at most", limit::MEMORY_TAGS);
    faults.check(reply_tags.len() <= limit::MEMORY_TAGS, "/reply_tags", too_many);
    for (index, _) in reply_tags.iter().enumerate().filter(|(_, tag)| !fits(tag)) {
        faults.add(format!("/reply_tags/{index}"), too_long());
    }
}

/// A text that somebody is to read, without the white space around it.
pub(crate) fn said(pointer: &str, text: &str) -> Result<String, Problem> {
    let mut faults = Faults::default();
    check_text(pointer, text, &mut faults);
    faults.finish()?;
    Ok(text.trim().to_owned())
}

/// What is given, or what is usual: an empty one says nothing.
pub(crate) fn or_usual(given: Vec<String>, usual: &[&str]) -> Vec<String> {
    if given.is_empty() { usual.iter().map(|&tag| tag.to_owned()).collect() } else { given }
}

/// As [`or_usual`].
pub(crate) fn text_or_usual(given: Option<String>, usual: &str) -> String {
    given.filter(|text| !text.is_empty()).unwrap_or_else(|| usual.to_owned())
}
