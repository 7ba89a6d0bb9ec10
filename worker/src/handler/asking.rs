//! Questions of a run to the store.

use std::future::Future;

use errand_common::{domain::FailureClass, port::StoreError};

use super::{HandlerFailure, RunContext};
use crate::pace::Backoff;

/// Why a question has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unasked {
    /// The run is to stop.
    Stopped,
    /// The store refuses for good. It is logged.
    Refused {
        /// What was asked for, for people.
        what: &'static str,
    },
}

impl Unasked {
    /// For people.
    pub(crate) fn message(self) -> String {
        match self {
            Self::Stopped => "the run was stopped".to_owned(),
            Self::Refused { what } => format!("the database refused {what}; the worker's log says why"),
        }
    }
}

impl From<Unasked> for HandlerFailure {
    /// What a run that was told to stop returns is not looked at.
    fn from(why: Unasked) -> Self {
        let (class, code) = match why {
            Unasked::Stopped => (FailureClass::Transient, "STOPPED"),
            Unasked::Refused { .. } => (FailureClass::Fatal, "STORE_REFUSED"),
        };
        Self::Failed { class, code, message: why.message(), retry_after: None }
    }
}

/// Asks the store, and waits while it is away: the lease bounds that. `what` names what is asked for, for people.
///
/// # Errors
/// The run is to stop, or the store refuses for good.
pub(crate) async fn ask<T, F>(
    context: &RunContext,
    what: &'static str,
    question: impl Fn() -> F + Send + Sync,
) -> Result<T, Unasked>
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
                    tracing::error!(%error, what, "the store refuses a question of a run");
                    return Err(Unasked::Refused { what });
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = context.run.stop_token().cancelled() => Err(Unasked::Stopped),
        answer = patient => answer,
    }
}
