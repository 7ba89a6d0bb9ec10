//! How the gateway itself is.

use serde_json::{Value, json};

use crate::gateway::{Gateway, Unanswered};

impl Gateway {
    /// Whether it lives. Needs no scope; the gateway may answer what it knew a minute ago.
    ///
    /// # Errors
    /// No good answer.
    pub async fn health(&self) -> Result<Value, Unanswered> {
        self.call("health", &json!({})).await
    }

    /// What it says of itself: some 15 KiB.
    ///
    /// # Errors
    /// No good answer.
    pub async fn status(&self) -> Result<Value, Unanswered> {
        self.call("status", &json!({})).await
    }
}
