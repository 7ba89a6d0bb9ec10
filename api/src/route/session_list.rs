//! `GET /agent/sessions`

use axum::{Json, extract::State};
use errand_common::{domain::SessionId, port::store::SessionFilter};

use crate::{
    auth::{Permit, Read},
    extract::{Page, Params},
    problem::Problem,
    state::AppState,
    view::{List, SessionView},
};

/// Lists conversations, newest first.
#[utoipa::path(
    get, path = "/api/v1/agent/sessions", tag = "sessions",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<SessionView>))
)]
pub(crate) async fn list_sessions(
    State(app): AppState,
    caller: Permit<Read>,
    mut query: Params,
) -> Result<Json<List<SessionView>>, Problem> {
    let page: Page<SessionId> = query.page();
    query.finish_ignoring_unknown()?;
    let filter = SessionFilter {
        user_id: caller.confined_to().map(str::to_owned),
        instance_id: None,
        before: page.after,
        limit: page.probe(),
    };
    let mut sessions = app.backend.store.sessions(&caller.tenant, &filter).await?;
    let next_cursor = page.cut(&mut sessions, |session| session.id);
    let epoch = app.epoch().await?;
    let items = sessions.into_iter().map(|session| SessionView::new(session, &epoch)).collect();
    Ok(Json(List { items, next_cursor }))
}
