//! The gates: who may call which destination, and when. Shared by all workers.

use async_trait::async_trait;

use crate::domain::{
    Timestamp,
    gate::{Entered, Permit, Policy, Verdict},
};

/// Gates by destination. They hold nothing that may not be lost: a gate that forgot lets calls through that it would have
/// held back.
///
/// Neither call errs: an adapter that can't be reached decides by itself, for this process alone.
#[async_trait]
pub trait Gates: Send + Sync {
    /// Asks to call `destination`. A permit is given back by [`Gates::leave`], or comes back by itself after
    /// [`Policy::permit`]. Adapters may go by a clock of their own rather than by `now`.
    async fn enter(&self, destination: &str, policy: &Policy, now: Timestamp) -> Entered;

    /// The call is over. Its destination is left alone until `pause_until`, by everyone.
    async fn leave(
        &self,
        destination: &str,
        policy: &Policy,
        permit: Permit,
        verdict: Verdict,
        pause_until: Option<Timestamp>,
        now: Timestamp,
    );
}
