//! Calls to places that clients name: to allowed addresses only, straight, and never on to another place.
//!
//! * The rule itself is [`errand_common::wire::place`] and [`errand_common::domain::address`].
//! * [`Clients`] speaks HTTP under it; no redirect is followed, no proxy asked, and each call has its time.
//! * [`permitted`] is for those who connect themselves, as gateways do.
//!
//! What the operator's configuration names (engines, transcription, key sets) is not called through here.

mod client;
mod resolve;

pub(crate) use client::{Clients, Unsent};
pub(crate) use resolve::{NoAddress, permitted};
