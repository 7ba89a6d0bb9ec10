//! Questions of a task's run to the store.

use std::future::Future;

use errand_common::{domain::FailureClass, port::StoreError};

use super::RunContext;
use crate::{engine::TurnFailure, pace::Backoff};

/// Asks the store, and waits while it is away: the lease bounds that. `what` names what is asked for, for people.
///
/// # Errors
/// The run is to stop, or the store refuses for good.
pub(super) async fn ask<T, F>(
    context: &RunContext,
    code: &'static str,
    what: &'static str,
    question: impl Fn() -> F + Send + Sync,
) -> Result<T, TurnFailure>
where
    F: Future<Output = Result<T, StoreError>> + Send,
    T: Send,
{
    let patient = async {
        let mut backoff = Backoff::new();
        loop {
            match question().await {
                Ok(answer) => return Ok(answer),
                Err(StoreError::Unavailable(_)) => tokio::time::sleep(backoff.pause()).await,
                Err(error) => {
                    tracing::error!(%error, what, "the store refuses a question of a task's run");
                    let message = format!("the database refused {what}; the worker's log says why");
                    return Err(TurnFailure::new(FailureClass::Fatal, code, message));
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = context.run.stop_token().cancelled() => Err(TurnFailure::stopped()),
        answer = patient => answer,
    }
}
