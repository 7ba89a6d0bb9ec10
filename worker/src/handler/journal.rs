//! What logs say of coordination: `gateway.coordination.<operation>.start`, `.success`, `.failed`, `.failed_unexpected`, with
//! what joins it to the request and to the audit.

use std::fmt::Display;

use errand_common::{
    domain::{FailureClass, Timestamp},
    port::store::Claimed,
};

use super::HandlerFailure;

/// One run of one operation.
pub(crate) struct Journal<'a> {
    /// `nudge`, …
    pub(crate) operation: &'a str,
    /// What joins it to the request.
    pub(crate) trace_id: &'a str,
    /// Where, whom, and who: whatever is known of it.
    pub(crate) board_id: Option<String>,
    /// Who acts.
    pub(crate) actor_agent_id: Option<String>,
    /// Whom to.
    pub(crate) target_agent_id: Option<String>,
}

/// An id as a field of a line.
pub(crate) fn field(id: Option<impl Display>) -> Option<String> {
    id.map(|id| id.to_string())
}

impl Journal<'_> {
    /// It begins.
    pub(crate) fn start(&self) {
        let Self { operation, trace_id, board_id, actor_agent_id, target_agent_id } = self;
        tracing::debug!(trace_id, board_id, actor_agent_id, target_agent_id, "gateway.coordination.{operation}.start");
    }

    /// It has come to its end; or this attempt has, and another follows.
    pub(crate) fn end<T>(&self, claimed: &Claimed, ended: &Result<T, HandlerFailure>, now: Timestamp) {
        let Self { operation, trace_id, board_id, actor_agent_id, target_agent_id } = self;
        let attempt = claimed.job.attempt;
        let window_is_over = claimed.window_ends_at.is_some_and(|end| end <= now);
        match ended {
            Ok(_) => {
                tracing::info!(
                    trace_id,
                    board_id,
                    actor_agent_id,
                    target_agent_id,
                    "gateway.coordination.{operation}.success"
                );
            }
            Err(failure) if follows_another(failure) && !window_is_over => {
                let (HandlerFailure::Failed { message: error, .. } | HandlerFailure::InDoubt { message: error }) =
                    failure
                else {
                    // Held back: it comes again by itself.
                    return;
                };
                tracing::debug!(
                    trace_id,
                    board_id,
                    actor_agent_id,
                    target_agent_id,
                    attempt,
                    error,
                    "gateway.coordination.{operation}.attempt_failed"
                );
            }
            Err(HandlerFailure::Failed { class: FailureClass::Fatal, code, message, .. }) => {
                tracing::error!(
                    trace_id,
                    board_id,
                    actor_agent_id,
                    target_agent_id,
                    attempt,
                    code,
                    error = message,
                    "gateway.coordination.{operation}.failed_unexpected"
                );
            }
            Err(HandlerFailure::Failed { message, .. } | HandlerFailure::InDoubt { message }) => {
                tracing::warn!(
                    trace_id,
                    board_id,
                    actor_agent_id,
                    target_agent_id,
                    attempt,
                    error = message,
                    "gateway.coordination.{operation}.failed"
                );
            }
            Err(HandlerFailure::HeldBack { .. } | HandlerFailure::Missing(_)) => {}
        }
    }
}

/// Whether another attempt may follow this failure.
const fn follows_another(failure: &HandlerFailure) -> bool {
    match failure {
        HandlerFailure::Failed { class, .. } => class.may_pass(),
        HandlerFailure::InDoubt { .. } | HandlerFailure::HeldBack { .. } | HandlerFailure::Missing(_) => true,
    }
}
