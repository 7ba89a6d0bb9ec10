//! `GET /agent/sessions/{id}`

use axum::{Json, extract::State};
use errand_common::domain::{Session, SessionId};

use crate::{
    auth::{Caller, Permit, Read},
    extract::PathId,
    problem::Problem,
    scope,
    state::{App, AppState},
    view::SessionView,
};

/// Shows a conversation.
#[utoipa::path(
    get, path = "/api/v1/agent/sessions/{id}", tag = "sessions", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = SessionView))
)]
pub(crate) async fn show_session(
    State(app): AppState,
    caller: Permit<Read>,
    PathId(id): PathId<SessionId>,
) -> Result<Json<SessionView>, Problem> {
    let session = session_of(&app, &caller, id).await?;
    Ok(Json(SessionView::new(session, &app.epoch().await?)))
}

/// The session; 404 if the caller may see none such.
pub(crate) async fn session_of(app: &App, caller: &Caller, id: SessionId) -> Result<Session, Problem> {
    scope::session(app, caller, id).await?.ok_or_else(|| Problem::no_such("Session", id))
}
