//! The gateway's configuration. Each change may restart it: compare first, and change nothing that is right already.

use serde::Deserialize;
use serde_json::{Value, json};

use super::params;
use crate::gateway::{Gateway, Unanswered, frame};

/// The configuration as it is.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ConfigSnapshot {
    /// Names this state of it: for a change.
    pub hash: Option<String>,
    /// All of it; null if the gateway does not show it.
    pub config: Value,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Raw {
    #[serde(deserialize_with = "frame::lenient")]
    hash: Option<String>,
    config: Value,
    parsed: Value,
}

impl Gateway {
    /// As it is.
    ///
    /// # Errors
    /// No good answer.
    pub async fn config(&self) -> Result<ConfigSnapshot, Unanswered> {
        let Raw { hash, config, parsed } = self.call("config.get", &json!({})).await?;
        Ok(ConfigSnapshot { hash, config: if config.is_object() { config } else { parsed } })
    }

    /// Merges `patch` into it, if it is still the one named by `base_hash`. The gateway may restart: the answer may be lost, or
    /// come before it does. After doubt, look again.
    ///
    /// # Errors
    /// `CONFIG_CHANGED` if it is another by now; `RATE_LIMITED` with a delay after a few changes a minute.
    pub async fn patch_config(&self, patch: &Value, base_hash: Option<&str>) -> Result<(), Unanswered> {
        self.change_config("config.patch", patch, base_hash).await
    }

    /// Replaces it by `config`; else as [`Gateway::patch_config`].
    ///
    /// # Errors
    /// As there.
    pub async fn set_config(&self, config: &Value, base_hash: Option<&str>) -> Result<(), Unanswered> {
        self.change_config("config.set", config, base_hash).await
    }

    async fn change_config(&self, method: &str, raw: &Value, base_hash: Option<&str>) -> Result<(), Unanswered> {
        let fields = params([("raw", Some(json!(raw.to_string()))), ("baseHash", base_hash.map(|hash| json!(hash)))]);
        self.call::<Value>(method, &fields).await.map(drop)
    }
}
