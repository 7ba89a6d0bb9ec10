//! `GET /agent/sessions/{id}/messages`

use axum::{Json, extract::State};
use errand_common::domain::SessionId;

use super::session_show::session_of;
use crate::{
    auth::{Permit, Read},
    extract::{Page, Params, PathId},
    problem::Problem,
    state::AppState,
    view::{List, MessageView},
};

/// Lists the messages of a conversation, oldest first.
#[utoipa::path(
    get, path = "/api/v1/agent/sessions/{id}/messages", tag = "sessions",
    params(
        ("id" = uuid::Uuid, Path),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<MessageView>))
)]
pub(crate) async fn list_messages(
    State(app): AppState,
    caller: Permit<Read>,
    PathId(id): PathId<SessionId>,
    mut query: Params,
) -> Result<Json<List<MessageView>>, Problem> {
    let page: Page<i64> = query.page();
    query.finish_ignoring_unknown()?;
    session_of(&app, &caller, id).await?;
    let mut messages = app.backend.store.messages(id, page.after.unwrap_or_default(), page.probe()).await?;
    let next_cursor = page.cut(&mut messages, |message| message.ordinal);
    Ok(Json(List { items: messages.into_iter().map(MessageView::from).collect(), next_cursor }))
}
