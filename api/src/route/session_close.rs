//! `DELETE /agent/sessions/{id}`

use axum::{Json, extract::State};
use errand_common::{
    domain::{JobState, SessionId},
    port::store::JobFilter,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::session_show::session_of;
use crate::{
    auth::{Cancel, Permit},
    cancel::cancel,
    extract::PathId,
    limit,
    problem::Problem,
    state::{App, AppState},
    view::schema,
};

/// Pages of unfinished tasks that one request cancels.
const ROUNDS: usize = 50;

/// A closed conversation.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionClosed {
    /// `Session closed`
    message: &'static str,
    /// The conversation.
    #[schema(schema_with = schema::uuid)]
    session_id: SessionId,
}

/// Cancels a conversation's unfinished tasks and closes it. Its history stays.
#[utoipa::path(
    delete, path = "/api/v1/agent/sessions/{id}", tag = "sessions", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = SessionClosed))
)]
pub(crate) async fn close_session(
    State(app): AppState,
    caller: Permit<Cancel>,
    PathId(id): PathId<SessionId>,
) -> Result<Json<SessionClosed>, Problem> {
    session_of(&app, &caller, id).await?;
    cancel_unfinished(&app, &caller.tenant, id).await?;
    if !app.backend.store.close_session(&caller.tenant, id, app.now()).await? {
        return Err(Problem::no_such("Session", id));
    }
    // A task may have joined between the two.
    cancel_unfinished(&app, &caller.tenant, id).await?;
    Ok(Json(SessionClosed { message: "Session closed", session_id: id }))
}

/// Newest first, so that no waiting task is freed by the end of the one before it.
async fn cancel_unfinished(app: &App, tenant: &str, id: SessionId) -> Result<(), Problem> {
    let filter = JobFilter {
        states: JobState::ALL.iter().copied().filter(|state| !state.is_terminal()).collect(),
        session_id: Some(id),
        limit: limit::PAGE_MAX,
        ..JobFilter::default()
    };
    for _ in 0..ROUNDS {
        let unfinished = app.backend.store.jobs(tenant, &filter).await?;
        if unfinished.is_empty() {
            break;
        }
        for job in unfinished {
            cancel(app, tenant, job.id).await?;
        }
    }
    Ok(())
}
