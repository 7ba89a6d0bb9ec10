//! Cancelling a job on a client's word.

use errand_common::{
    domain::JobId,
    port::store::{CancelRequest, CancelResult},
};

use crate::{problem::Problem, state::App};

/// Cancels a job. `None`: no such job in this tenant.
pub(crate) async fn cancel(app: &App, tenant: &str, id: JobId) -> Result<Option<CancelResult>, Problem> {
    let request = CancelRequest {
        tenant: tenant.to_owned(),
        id,
        code: "USER_CANCEL".to_owned(),
        message: "Task cancelled by user".to_owned(),
        now: app.now(),
    };
    let Some((result, consequences)) = app.backend.store.cancel(request).await? else { return Ok(None) };
    app.backend.dispatch(consequences).await;
    Ok(Some(result))
}
