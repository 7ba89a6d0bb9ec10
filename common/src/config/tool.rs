//! Tools that an operator gives to engines.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Value, json};

/// `[[engines.<name>.tools]]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// What the model calls it.
    pub name: String,
    /// Tells the model what it does, and when to use it.
    pub description: String,
    /// JSON Schema of its input: a table, or JSON as text. Unset: any object.
    #[serde(default = "any_object", deserialize_with = "schema")]
    pub schema: Value,
    /// Program and arguments. The input comes as JSON on its standard input; its standard output is the result. Another exit
    /// status than 0 tells the model that it failed.
    pub command: Vec<String>,
    /// Names of our environment variables that it may see; it sees no other.
    #[serde(default = "super::engine::default_command_env")]
    pub env: Vec<String>,
    /// Its working directory; ours if unset.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// Whether a person is asked before each call, unless the task allows the tool by name.
    #[serde(default)]
    pub approval: ToolApproval,
    /// Longest time one call may take, in seconds; then it is stopped.
    #[serde(default = "default_timeout_seconds")]
    pub timeout_seconds: u32,
    /// Most output of one call, in KiB; beyond it the call is stopped.
    #[serde(default = "default_output_limit_kib")]
    pub output_limit_kib: u32,
}

/// Whether a person is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolApproval {
    /// Before each call.
    #[default]
    Ask,
    /// Never.
    Never,
}

fn any_object() -> Value {
    json!({"type": "object"})
}

const fn default_timeout_seconds() -> u32 {
    60
}

const fn default_output_limit_kib() -> u32 {
    64
}

/// A table, or the same as text.
fn schema<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    let schema = match Value::deserialize(deserializer)? {
        Value::String(text) => serde_json::from_str(&text).map_err(de::Error::custom)?,
        other => other,
    };
    if schema.is_object() { Ok(schema) } else { Err(de::Error::custom("a schema is a JSON object")) }
}
