//! The gateway's methods, typed: names and fields as gateways want them, answers as far as they are needed.

pub(super) mod agents;
pub(super) mod chat;
pub(super) mod config;
pub(super) mod files;
mod server;
pub(super) mod sessions;

use serde_json::{Map, Value};

/// Parameters without those that are not set.
fn params<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let set = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(set.collect::<Map<_, _>>())
}
