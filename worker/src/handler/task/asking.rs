//! Questions of a task's run to the store.

use std::future::Future;

use errand_common::{domain::FailureClass, port::StoreError};

use super::RunContext;
use crate::{
    engine::TurnFailure,
    handler::asking::{self, Unasked},
};

/// As [`asking::ask`], with the code of a refusal.
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
    asking::ask(context, what, question).await.map_err(|why| match why {
        Unasked::Stopped => TurnFailure::stopped(),
        Unasked::Refused { .. } => TurnFailure::new(FailureClass::Fatal, code, why.message()),
    })
}
