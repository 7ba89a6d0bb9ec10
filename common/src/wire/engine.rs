//! Engines as workers announce them and `GET /agent/engines` shows them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One engine of one worker, or the union over all.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineInfo {
    /// What `engineType` selects.
    pub name: String,
    /// The configured `type`.
    #[serde(rename = "type")]
    pub engine_type: String,
    /// Whether it could run a prompt now.
    pub available: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where its tasks go.
    pub queue: String,
    /// What it can do: an object of booleans.
    pub capabilities: Value,
}
