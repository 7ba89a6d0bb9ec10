//! The ways to watch: `GET /jobs/{id}/events`, `GET /agent/sessions/{id}/events`, `GET /stream`.

use axum::{
    extract::{FromRequestParts, Request, State, WebSocketUpgrade},
    http::{StatusCode, header},
    response::Response,
};
use errand_common::domain::{JobId, SessionId, Stream};

use crate::{
    auth::{self, Permit, Read},
    extract::{Params, PathId},
    problem::Problem,
    relay::{protocol::SUBPROTOCOL, session, sse},
    state::AppState,
};

/// Bytes a socket keeps for reading; the rest of a larger frame is kept as it comes.
const SOCKET_READ_BUFFER: usize = 4 * 1024;

/// Watches a job: its events from the beginning or from a position, then live, as server-sent events.
///
/// An event's data is `{stream, epoch, seq, ts, session_id?, job_id, attempt, type, …}`: its own fields lie beside those.
/// Its `id` is `<epoch>:<seq>`. Control frames are `event: snapshot`, where the position means nothing any more, and
/// `event: end`, once the job has ended and all was sent.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/events", tag = "streams",
    params(("id" = uuid::Uuid, Path), sse::From),
    responses((status = 200, description = "Events", body = String, content_type = "text/event-stream"))
)]
pub(crate) async fn watch_job(
    State(app): AppState,
    caller: Permit<Read>,
    PathId(id): PathId<JobId>,
    from: sse::From,
) -> Result<Response, Problem> {
    sse::serve(app, caller.0, Stream::Job(id), from).await
}

/// Watches a conversation over all its tasks, as server-sent events. It never ends by itself.
#[utoipa::path(
    get, path = "/api/v1/agent/sessions/{id}/events", tag = "streams",
    params(("id" = uuid::Uuid, Path), sse::From),
    responses((status = 200, description = "Events", body = String, content_type = "text/event-stream"))
)]
pub(crate) async fn watch_session(
    State(app): AppState,
    caller: Permit<Read>,
    PathId(id): PathId<SessionId>,
    from: sse::From,
) -> Result<Response, Problem> {
    sse::serve(app, caller.0, Stream::Session(id), from).await
}

/// Watches several streams over one WebSocket, subprotocol `errand.v1`.
///
/// The credential comes by header, as `?ticket=` of `POST /stream/tickets`, or as the first frame, `{"type":"auth","token":…}`, within 10 s. Then
/// `{"type":"subscribe","id":1,"stream":"job:…","epoch":?,"after":?,"types":?}`, `unsubscribe`, `ping`. The server says
/// `subscribed`, `snapshot`, `event`, `end`, `error`, `pong`.
///
/// An event's frame is the envelope of server-sent events with one difference. `type` is the frame's own, `event`, so the
/// event's type is `event_type`: `{"type":"event","stream":"job:…","epoch":"…","seq":3,…,"event_type":"text","content":"…"}`.
///
/// Close codes below 4500 ask to come again: 4000 shutting down (its reason ends in `retry_after_ms=N`: come again then,
/// so that not all come at once; event streams say `retry: N`), 4001 the credential has expired or was revoked, 4008 too slow, 4013 too many
/// failed authentications. From 4500 on they do not: 4500 bad credential or none within 10 s, 4507 the credential lacks
/// `jobs:read`, 4509 not a frame of the protocol.
#[utoipa::path(
    get, path = "/api/v1/stream", tag = "streams",
    params(("ticket" = Option<String>, Query, description = "in place of a credential; used up by this")),
    responses((status = 101, description = "Speaks errand.v1"))
)]
pub(crate) async fn open_socket(State(app): AppState, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let peer = auth::peer(&parts);
    let mut query = Params::from_request_parts(&mut parts, &app).await?;
    let ticket = query.text("ticket");
    query.finish_ignoring_unknown()?;
    let caller = match ticket {
        _ if parts.headers.contains_key(header::AUTHORIZATION) => {
            Some(Permit::<Read>::from_request_parts(&mut parts, &app).await?.0)
        }
        Some(ticket) => Some(app.auth.redeem(&ticket, peer, app.now()).await?),
        None => None,
    };
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &app).await.map_err(|rejection| {
        let detail = format!("This route speaks WebSocket only: {}", rejection.body_text());
        Problem::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", detail)
    })?;
    let permit = app.admit_watcher()?;
    let frame_limit = app.config.relay.frame_limit_kib as usize * 1024;
    let sockets = app.sockets.token();
    Ok(upgrade
        .protocols([SUBPROTOCOL])
        .read_buffer_size(SOCKET_READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(frame_limit)
        .max_frame_size(frame_limit)
        .on_upgrade(async move |socket| {
            session::serve(app, socket, caller, peer).await;
            drop((permit, sockets));
        }))
}
