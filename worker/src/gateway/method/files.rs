//! The files that make an agent what it is: `SOUL.md` and a few more names.

use serde::Deserialize;
use serde_json::{Value, json};

use super::params;
use crate::gateway::{Gateway, GatewayFailure, Unanswered, failure::code, frame};
use errand_common::domain::FailureClass;

/// A file of an agent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AgentFile {
    /// There is none.
    pub missing: bool,
    /// What is in it.
    pub content: Option<String>,
    /// Of the content, as the gateway reckons it: for [`Gateway::set_file`].
    pub hash: Option<String>,
}

/// A line of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FileEntry {
    /// Such as `SOUL.md`.
    #[serde(deserialize_with = "frame::text")]
    pub name: String,
    /// The name is known, and there is no such file.
    #[serde(deserialize_with = "frame::lenient")]
    pub missing: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Listing {
    files: Vec<FileEntry>,
}

impl Gateway {
    /// Which files an agent may have, and has.
    ///
    /// # Errors
    /// No good answer.
    pub async fn files(&self, agent_id: &str) -> Result<Vec<FileEntry>, Unanswered> {
        let listing: Listing = self.call("agents.files.list", &json!({"agentId": agent_id})).await?;
        Ok(listing.files)
    }

    /// One file.
    ///
    /// # Errors
    /// `UNSUPPORTED_FILE` for any name but the gateway's own few; `BAD_ANSWER` if the answer holds no file.
    pub async fn file(&self, agent_id: &str, name: &str) -> Result<AgentFile, Unanswered> {
        let answer: Value = self.call("agents.files.get", &json!({"agentId": agent_id, "name": name})).await?;
        read(&answer).ok_or_else(|| {
            Unanswered::Doubt(GatewayFailure::new(FailureClass::Invalid, code::BAD_ANSWER, "Invalid gateway response"))
        })
    }

    /// Writes a file; the same content again is no harm. With `expected_hash`, only over that content.
    ///
    /// # Errors
    /// `FILE_CHANGED` if there is another content than the expected one.
    pub async fn set_file(
        &self,
        agent_id: &str,
        name: &str,
        content: &str,
        expected_hash: Option<&str>,
    ) -> Result<(), Unanswered> {
        let fields = params([
            ("agentId", Some(json!(agent_id))),
            ("name", Some(json!(name))),
            ("content", Some(json!(content))),
            ("expectedHash", expected_hash.map(|hash| json!(hash))),
        ]);
        self.call::<Value>("agents.files.set", &fields).await.map(drop)
    }

    /// Removes a file, on gateways that can.
    ///
    /// # Errors
    /// `UNKNOWN_METHOD` on those that can't.
    pub async fn delete_file(&self, agent_id: &str, name: &str) -> Result<(), Unanswered> {
        self.call::<Value>("agents.files.delete", &json!({"agentId": agent_id, "name": name})).await.map(drop)
    }
}

/// A file as gateways of several ages answer it: bare text, an object, or an object in `file`.
fn read(answer: &Value) -> Option<AgentFile> {
    if let Some(content) = answer.as_str() {
        return Some(AgentFile { missing: false, content: Some(content.to_owned()), hash: None });
    }
    let file = answer.get("file").filter(|file| file.is_object()).unwrap_or(answer);
    let text = |name: &str| file.get(name).and_then(Value::as_str).map(str::to_owned);
    let missing = file.get("missing").and_then(Value::as_bool) == Some(true);
    let content = text("content").or_else(|| answer.get("content")?.as_str().map(str::to_owned));
    (missing || content.is_some()).then(|| AgentFile { missing, content, hash: text("hash") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_age_are_understood() {
        let file = |content: &str, hash: Option<&str>| {
            Some(AgentFile { missing: false, content: Some(content.into()), hash: hash.map(str::to_owned) })
        };
        for (answer, expected) in [
            (json!("soul"), file("soul", None)),
            (json!({"content": "soul"}), file("soul", None)),
            (json!({"file": {"content": "", "hash": "h", "missing": false}}), file("", Some("h"))),
            (json!({"file": {"missing": true}}), Some(AgentFile { missing: true, content: None, hash: None })),
            (json!({"ok": true}), None),
            (Value::Null, None),
        ] {
            assert_eq!(read(&answer), expected, "{answer}");
        }
    }
}
