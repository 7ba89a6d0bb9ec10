//! What handlers take from a request. Every refusal is a problem that names the part and what is allowed.

mod int;
mod json;
mod path;
mod prefer;
mod query;

pub(crate) use int::Int;
pub(crate) use json::{JsonBody, NoBody, Room, SignedBody, Wanted, decode};
pub(crate) use path::{AgentInPath, BoardInPath, DeliveryInPath, PathId, QueueName};
pub(crate) use prefer::Prefer;
pub(crate) use query::{Page, Params, decode_cursor, encode_cursor};
