//! Sessions: conversations with agents, by their keys.

use serde::Deserialize;
use serde_json::{Value, json};

use super::params;
use crate::gateway::{Gateway, Unanswered, frame};

/// A session that there is now.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PatchedSession {
    /// Its key as the gateway writes it.
    #[serde(deserialize_with = "frame::text")]
    pub key: String,
}

impl Gateway {
    /// Makes sure that there is such a session, under this label; the same again is no harm. Whether its agent exists is not
    /// looked at. A label is of one session only, and has at most 64 characters on older gateways.
    ///
    /// # Errors
    /// `LABEL_TAKEN` among others.
    pub async fn ensure_session(&self, key: &str, label: Option<&str>) -> Result<PatchedSession, Unanswered> {
        let label = label.map(str::trim).filter(|label| !label.is_empty());
        let fields = params([("key", Some(json!(key))), ("label", label.map(|label| json!(label)))]);
        self.call("sessions.patch", &fields).await
    }

    /// Empties it.
    ///
    /// # Errors
    /// `UNKNOWN_SESSION` among others.
    pub async fn reset_session(&self, key: &str) -> Result<(), Unanswered> {
        self.call::<Value>("sessions.reset", &json!({"key": key})).await.map(drop)
    }

    /// Removes it; its transcript is archived.
    ///
    /// # Errors
    /// No good answer.
    pub async fn delete_session(&self, key: &str) -> Result<(), Unanswered> {
        self.call::<Value>("sessions.delete", &json!({"key": key})).await.map(drop)
    }

    /// The newest `limit` sessions, as the gateway lists them.
    ///
    /// # Errors
    /// No good answer.
    pub async fn sessions(&self, limit: u32) -> Result<Value, Unanswered> {
        self.call("sessions.list", &json!({"limit": limit})).await
    }
}
