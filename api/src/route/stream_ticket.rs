//! `POST /stream/tickets`

use axum::{Json, extract::State};
use errand_common::domain::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    auth::{Permit, Read},
    extract::NoBody,
    limit,
    problem::Problem,
    state::AppState,
    view::schema,
};

/// A ticket.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamTicket {
    /// For `GET /stream?ticket=…`, once.
    ticket: String,
    /// How long it is good, in seconds.
    expires_in: u64,
    /// Until when.
    #[schema(schema_with = schema::time)]
    expires_at: Timestamp,
}

/// Makes a ticket that opens one stream in place of a credential: for browsers, which can't send one with a WebSocket. It is good
/// once, for 30 s; the stream ends with the credential that it stands for.
#[utoipa::path(
    post, path = "/api/v1/stream/tickets", tag = "streams", responses((status = 200, body = StreamTicket))
)]
pub(crate) async fn issue_ticket(
    State(app): AppState,
    caller: Permit<Read>,
    _: NoBody,
) -> Result<Json<StreamTicket>, Problem> {
    let ticket = app.auth.issue_ticket(&caller, app.now()).await?;
    Ok(Json(StreamTicket { ticket: ticket.text, expires_in: limit::TICKET.as_secs(), expires_at: ticket.expires_at }))
}
