//! What a caller may read and change, in one place for all routes: what is theirs, as [`Caller::may_see`] has it. A
//! conversation is one user's with all that is in it. What somebody else has answers as what is not there.

use errand_common::{
    domain::{Job, JobId, Session, SessionId, Stream},
    port::StoreError,
};

use crate::{auth::Caller, state::App};

/// The job, if this caller may see it.
pub(crate) async fn job(app: &App, caller: &Caller, id: JobId) -> Result<Option<Job>, StoreError> {
    let Some(job) = app.backend.store.job(&caller.tenant, id).await? else { return Ok(None) };
    let visible = caller.may_see(job.user_id.as_deref())
        || match job.session_id {
            Some(id) => session(app, caller, id).await?.is_some(),
            None => false,
        };
    Ok(visible.then_some(job))
}

/// The session, if this caller may see it.
pub(crate) async fn session(app: &App, caller: &Caller, id: SessionId) -> Result<Option<Session>, StoreError> {
    let session = app.backend.store.session(&caller.tenant, id).await?;
    Ok(session.filter(|session| caller.may_see(session.user_id.as_deref())))
}

/// Whether the caller may see a stream that is there.
pub(crate) async fn stream(app: &App, caller: &Caller, stream: Stream) -> Result<bool, StoreError> {
    if caller.confined_to().is_none() {
        return Ok(true);
    }
    Ok(match stream {
        Stream::Job(id) => job(app, caller, id).await?.is_some(),
        Stream::Session(id) => session(app, caller, id).await?.is_some(),
        // What is on a board is nobody's own.
        Stream::Board(_) => true,
    })
}
