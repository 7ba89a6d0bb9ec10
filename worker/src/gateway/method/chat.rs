//! Chats beside sending: what was said, stopping a run, waiting for one.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::params;
use crate::gateway::{Gateway, Unanswered, frame, watch::message_text};

/// How much longer than a wait itself its answer may take.
const BESIDE_THE_WAIT: Duration = Duration::from_secs(10);

/// Which part of a history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryRequest {
    /// Most rows, up to 1,000.
    pub limit: u32,
    /// Rows to be left out, from the newest.
    pub offset: u32,
    /// Most characters of a text.
    pub max_chars: Option<u32>,
}

/// A part of a session's history, oldest row first. That of an unknown session is empty.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HistoryPage {
    /// As the gateway keeps them.
    pub messages: Vec<Value>,
    /// There are older ones.
    #[serde(deserialize_with = "truth")]
    pub has_more: bool,
    /// The run that goes on now.
    in_flight_run: Value,
    /// Of the session; names all of its runs.
    session_info: Value,
    /// What waits to be said.
    pending_inputs: Value,
}

fn truth<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(frame::lenient(deserializer)?.unwrap_or(false))
}

impl HistoryPage {
    /// Whether the message with this key is here: said, being answered, waiting to be said, or cancelled before it was.
    #[must_use]
    pub fn has_message(&self, key: &str) -> bool {
        self.messages.iter().any(|row| is_of(row, key))
            || self.pending().any(|item| is_of(item, key) && !is_interrupted(item))
            || self.is_under_way(key)
    }

    /// Whether the gateway took the message with this key and was cut off before the agent heard it. It keeps such a message, and
    /// does not say it by itself.
    #[must_use]
    pub fn has_interrupted(&self, key: &str) -> bool {
        !self.has_message(key) && self.pending().any(|item| is_of(item, key))
    }

    /// Whether the run that this key began goes on, or waits for its turn. What it has said so far is then no answer.
    #[must_use]
    pub fn is_under_way(&self, key: &str) -> bool {
        let mut active = list(self.session_info.get("activeRunIds"));
        // What was cancelled or interrupted stays there, and is not done by itself.
        let waits = |item: &Value| matches!(item.get("state").and_then(Value::as_str), None | Some("queued"));
        self.running() == Some(key)
            || active.any(|run| run.as_str() == Some(key))
            || self.pending().any(|item| run_of(item) == Some(key) && waits(item))
    }

    fn pending(&self) -> impl Iterator<Item = &Value> {
        list(self.pending_inputs.get("items"))
    }

    /// The run that goes on now.
    #[must_use]
    pub fn running(&self) -> Option<&str> {
        self.in_flight_run.get("runId").and_then(Value::as_str)
    }

    /// What the agent answered last in this run; none if the run ended before it had come to an answer.
    #[must_use]
    pub fn answer(&self, run_id: &str) -> Option<String> {
        let is_of_run =
            |row: &&Value| row.get("role").and_then(Value::as_str) == Some("assistant") && run_of(row) == Some(run_id);
        let last = self.messages.iter().rev().find(is_of_run)?;
        let stop = last.get("stopReason").and_then(Value::as_str);
        if matches!(stop, Some("toolUse" | "error" | "aborted")) { None } else { message_text(last) }
    }
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn is_interrupted(item: &Value) -> bool {
    item.get("state").and_then(Value::as_str) == Some("interrupted")
}

/// Whether a row is the message with this key, or of the run that it began.
fn is_of(row: &Value, key: &str) -> bool {
    let of = row.get("idempotencyKey").and_then(Value::as_str);
    of.is_some_and(|of| of.strip_suffix(":user").unwrap_or(of) == key) || run_of(row) == Some(key)
}

fn run_of(row: &Value) -> Option<&str> {
    row.pointer("/__openclaw/runId").or_else(|| row.get("runId")).and_then(Value::as_str)
}

/// What an abort did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Aborted {
    /// Something was stopped.
    #[serde(deserialize_with = "truth")]
    pub aborted: bool,
    /// These runs.
    pub run_ids: Vec<String>,
}

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunEnd {
    /// In one word.
    pub status: RunEndStatus,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// What the agent said last, if it said something.
    pub text: Option<String>,
}

/// How a run ended, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunEndStatus {
    /// Well.
    Ok,
    /// Not well.
    Error,
    /// It is not known to have ended, or to have been.
    Unknown,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawRunEnd {
    #[serde(deserialize_with = "frame::text")]
    status: String,
    #[serde(deserialize_with = "frame::lenient")]
    error: Option<String>,
    terminal_reply: Value,
}

pub(in crate::gateway) fn history_params(session_key: &str, request: &HistoryRequest) -> Value {
    params([
        ("sessionKey", Some(json!(session_key))),
        ("limit", Some(json!(request.limit))),
        ("offset", (request.offset > 0).then(|| json!(request.offset))),
        ("maxChars", request.max_chars.map(|chars| json!(chars))),
    ])
}

impl Gateway {
    /// What was said in a session.
    ///
    /// # Errors
    /// No good answer.
    pub async fn history(&self, session_key: &str, request: &HistoryRequest) -> Result<HistoryPage, Unanswered> {
        self.call("chat.history", &history_params(session_key, request)).await
    }

    /// Stops a run, or whatever runs in the session. That nothing ran is no error.
    ///
    /// # Errors
    /// No good answer.
    pub async fn abort(&self, session_key: &str, run_id: Option<&str>) -> Result<Aborted, Unanswered> {
        let fields = params([("sessionKey", Some(json!(session_key))), ("runId", run_id.map(|run| json!(run)))]);
        self.call("chat.abort", &fields).await
    }

    /// Waits for the end of a run, for `limit` at most.
    ///
    /// # Errors
    /// No good answer.
    pub async fn wait_for_run(&self, run_id: &str, limit: Duration) -> Result<RunEnd, Unanswered> {
        let fields = json!({"runId": run_id, "timeoutMs": u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)});
        let raw: RawRunEnd = self.call_within("agent.wait", &fields, limit + BESIDE_THE_WAIT).await?;
        let status = match raw.status.as_str() {
            "ok" => RunEndStatus::Ok,
            "error" => RunEndStatus::Error,
            _ => RunEndStatus::Unknown,
        };
        let text = raw.terminal_reply.get("text").and_then(Value::as_str).map(str::to_owned);
        Ok(RunEnd { status, error: raw.error, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(page: Value) -> HistoryPage {
        serde_json::from_value(page).expect("a page")
    }

    #[test]
    fn a_message_is_found_wherever_it_may_be() {
        for found in [
            json!({"messages": [{"role": "user", "content": "x", "idempotencyKey": "k:user"}]}),
            json!({"messages": [{"role": "assistant", "content": [], "__openclaw": {"runId": "k"}}]}),
            json!({"messages": [], "inFlightRun": {"runId": "k", "text": ""}}),
            json!({"messages": [], "sessionInfo": {"hasActiveRun": true, "activeRunIds": ["a", "k"]}}),
            json!({"messages": [], "pendingInputs": {"items": [{"runId": "k"}], "total": 1}}),
            json!({"messages": [], "pendingInputs": {"items": [{"runId": "k", "state": "cancelled"}], "total": 1}}),
        ] {
            assert!(page(found.clone()).has_message("k"), "{found}");
            assert!(!page(found.clone()).has_message("other") && !page(found.clone()).has_interrupted("k"), "{found}");
        }
        let interrupted = json!({"pendingInputs": {"items": [{"runId": "k", "state": "interrupted"}], "total": 1}});
        assert!(!page(interrupted.clone()).has_message("k") && page(interrupted.clone()).has_interrupted("k"));
        assert!(!page(interrupted).has_interrupted("other"));
        assert!(!page(json!({"messages": [], "pendingInputs": null, "hasMore": "?"})).has_message("k"));
    }

    #[test]
    fn a_run_is_under_way_while_it_is_named_or_waits() {
        let waiting = |state: &str| json!({"pendingInputs": {"items": [{"runId": "k", "state": state}], "total": 1}});
        for (found, is_under_way) in [
            (json!({"inFlightRun": {"runId": "k", "text": ""}}), true),
            (json!({"sessionInfo": {"hasActiveRun": true, "activeRunIds": ["a", "k"]}}), true),
            (waiting("queued"), true),
            (json!({"pendingInputs": {"items": [{"runId": "k"}], "total": 1}}), true),
            (waiting("interrupted"), false),
            (waiting("cancelled"), false),
            (json!({"messages": [{"role": "user", "content": "x", "idempotencyKey": "k:user"}]}), false),
        ] {
            assert_eq!(page(found.clone()).is_under_way("k"), is_under_way, "{found}");
            assert!(!page(found.clone()).is_under_way("other"), "{found}");
        }
    }

    #[test]
    fn the_answer_is_the_last_one_of_the_run() {
        let row = |run: &str, text: &str| json!({"role": "assistant", "content": [{"type": "text", "text": text}], "__openclaw": {"runId": run}});
        let page = page(json!({"messages": [row("a", "1"), row("b", "2"), row("b", "3"), row("c", "4")]}));
        assert_eq!(page.answer("b").as_deref(), Some("3"));
        assert_eq!(page.answer("d"), None);
    }

    #[test]
    fn what_was_said_before_a_tool_is_no_answer() {
        let row = |stop: &str| json!({"role": "assistant", "content": [{"type": "text", "text": "let me look"}], "__openclaw": {"runId": "a"}, "stopReason": stop});
        for (stop, is_answer) in [("stop", true), ("length", true), ("toolUse", false), ("aborted", false)] {
            let page = page(json!({"messages": [row("stop"), row(stop)]}));
            assert_eq!(page.answer("a").is_some(), is_answer, "{stop}");
        }
    }
}
