//! Waiting for the end of a job on behalf of a client.

use std::time::Duration;

use errand_common::domain::{EventType, Job, JobId, JobState, Stream};
use tokio::sync::broadcast::error::RecvError;

use crate::{problem::Problem, relay::frame::ends_job, state::App};

/// The job once it has ended, or as it is when the time is up or the process stops. `None`: no such job in this tenant.
pub(crate) async fn for_end(app: &App, tenant: &str, id: JobId, wait: Duration) -> Result<Option<Job>, Problem> {
    until(app, tenant, id, wait, |state| state.is_terminal()).await
}

/// As [`for_end`], but a question that was delivered is waited for no longer: its answer may take days.
pub(crate) async fn for_outcome(app: &App, tenant: &str, id: JobId, wait: Duration) -> Result<Option<Job>, Problem> {
    until(app, tenant, id, wait, is_outcome).await
}

/// Whether a submission that waits is answered by it.
pub(crate) fn is_outcome(state: JobState) -> bool {
    state.is_terminal() || state == JobState::AwaitingAnswer
}

async fn until(
    app: &App,
    tenant: &str,
    id: JobId,
    wait: Duration,
    settled: impl Fn(JobState) -> bool,
) -> Result<Option<Job>, Problem> {
    let deadline = tokio::time::Instant::now() + wait;
    // Watch first, then look: an end between the two is seen by one of them.
    let watching = app.hub.watch(Stream::Job(id));
    let mut live = match tokio::time::timeout_at(deadline, watching).await {
        Ok(live) => live?,
        Err(_) => return Ok(app.backend.store.job(tenant, id).await?),
    };
    loop {
        let Some(job) = app.backend.store.job(tenant, id).await? else { return Ok(None) };
        if settled(job.state) {
            return Ok(Some(job));
        }
        loop {
            let received = tokio::select! {
                received = live.recv() => received,
                () = tokio::time::sleep_until(deadline) => return Ok(Some(job)),
                () = app.shutdown.cancelled() => return Ok(Some(job)),
            };
            match received {
                Ok(frame) if ends_job(frame.event.kind) || frame.event.kind == EventType::Queued => break,
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return Ok(Some(job)),
            }
        }
    }
}
