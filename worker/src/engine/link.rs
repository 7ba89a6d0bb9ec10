//! What an engine may ask of the run it works for.

use std::time::Duration;

use async_trait::async_trait;
use errand_common::{
    domain::{Decision, FailureClass, GatewayId, Receipt, ToolCall, gate::Verdict},
    port::store::{EngineState, NewEffect},
};

use super::{TurnFailure, code};
use crate::gateway::Gateway;

/// What an engine may ask of the run it works for.
#[async_trait]
pub trait Link: Send + Sync {
    /// Asks whether these calls may be made, and waits for the decisions, in the order asked. Meanwhile the run holds no slot and
    /// the attempt's clock stands. Calls that need no asking (allowed by name, granted for the session, decided before) are
    /// answered at once.
    ///
    /// # Errors
    /// The run is to stop, or lets its process go while the question waits: the engine checkpoints its state and returns soon. A
    /// later run finds the decision by asking again.
    async fn approve(&self, calls: Vec<ToolCall>) -> Result<Vec<Decision>, TurnFailure>;

    /// The engine asks these calls (by [`ToolCall::id`]) no more; a pending [`Link::approve`] is answered with a denial.
    async fn withdraw(&self, call_ids: Vec<String>);

    /// Makes a state durable now, in mid-run: to be called with the engine's session id before anything is done under it.
    ///
    /// # Errors
    /// The run is to stop.
    async fn keep_state(&self, state: EngineState) -> Result<(), TurnFailure>;

    /// The state that is written with the run's end, whichever way it ends; the last one counts.
    fn checkpoint(&self, state: EngineState);

    /// Whether another turn may begin: to be asked before each request to a model but the first, with everything spent so far
    /// in the ledger.
    ///
    /// # Errors
    /// A budget is used up; the turn ends with this failure.
    async fn next_turn(&self) -> Result<(), TurnFailure>;

    /// Asks to send a request to a destination (`host:port`), which is left alone by all workers while it fails or asks for it.
    ///
    /// # Errors
    /// It takes no calls now: the engine returns this failure, and the task comes back without a spent attempt.
    async fn enter(&self, destination: &str) -> Result<Box<dyn Passage>, TurnFailure>;

    /// Makes durable that something is about to be sent under the job's key of this ordinal
    /// ([`effect::key`](errand_common::domain::effect::key)). Returns whether an earlier run may have sent it already.
    ///
    /// # Errors
    /// The run is to stop, or another call was intended under this key.
    async fn intend(&self, effect: NewEffect) -> Result<bool, TurnFailure> {
        let _ = effect;
        Ok(true)
    }

    /// What came of it; written with the run's end. Nothing is said of what nobody knows.
    fn receipt(&self, ordinal: u32, receipt: Receipt) {
        let _ = (ordinal, receipt);
    }

    /// A gateway of the task's tenant.
    ///
    /// # Errors
    /// The tenant has none of this id, or it can't be called from here.
    async fn gateway(&self, id: GatewayId) -> Result<Gateway, TurnFailure> {
        let message = format!("the gateway {id} can't be called from here");
        Err(TurnFailure::new(FailureClass::Invalid, code::ENGINE_UNAVAILABLE, message))
    }

    /// Asked once the run was told to stop: whether no other run goes on with the task, so that what was begun elsewhere is to be
    /// stopped too.
    fn is_over(&self) -> bool {
        false
    }
}

/// A place among the calls to one destination. Dropped, it is given back without a word about the destination.
#[async_trait]
pub trait Passage: Send {
    /// The call is over; for `pause` the destination is left alone by everyone.
    async fn leave(self: Box<Self>, verdict: Verdict, pause: Option<Duration>);
}

/// A way without a gate.
#[derive(Debug)]
pub struct Freely;

#[async_trait]
impl Passage for Freely {
    async fn leave(self: Box<Self>, _verdict: Verdict, _pause: Option<Duration>) {}
}
