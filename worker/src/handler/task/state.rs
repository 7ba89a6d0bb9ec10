//! What an engine finds again of a conversation, and what it keeps.

use errand_common::{domain::SessionId, port::store::EngineState};

use super::{RunContext, asking::ask};
use crate::{engine::TurnFailure, registry::StopReason};

/// What `engine` kept of the conversation.
pub(super) async fn load(
    session: Option<SessionId>,
    engine: &str,
    context: &RunContext,
) -> Result<Option<EngineState>, TurnFailure> {
    let Some(session) = session else { return Ok(None) };
    let store = &context.backend.store;
    ask(context, "STATE_UNREADABLE", "the engine's state", || store.engine_state(session, engine)).await
}

/// Makes a state durable in mid-run.
pub(super) async fn keep(state: EngineState, context: &RunContext) -> Result<(), TurnFailure> {
    let store = &context.backend.store;
    let fence = context.run.fence();
    let kept =
        ask(context, "STATE_REFUSED", "the engine's state", || store.keep_engine_state(fence, state.clone())).await?;
    kept.map_err(|_stale| {
        context.run.stop(StopReason::Revoked);
        TurnFailure::stopped()
    })
}
