//! `GET /agent/boards/{board_id}/memory/stream`, `GET /boards/{id}/memory/stream`, `GET /boards/{id}/events`

use axum::{extract::State, response::Response};
use errand_common::domain::{BoardId, EventType, Stream};

use crate::{
    auth::{AgentCaller, Look, Permit, Read},
    coordination::{places::Places, policy},
    extract::{BoardInPath, PathId},
    problem::Problem,
    relay::sse,
    state::AppState,
};

/// Watches what is left on a board, as server-sent events of type `memory`: an agent on its own board.
#[utoipa::path(
    get, path = "/api/v1/agent/boards/{board_id}/memory/stream", tags = ["coordination", "agent-lead", "agent-worker", "agent-main"],
    operation_id = "agent_board_memory_stream",
    params(("board_id" = uuid::Uuid, Path), sse::Place),
    responses((status = 200, description = "Events", body = String, content_type = "text/event-stream"))
)]
pub(crate) async fn watch_memory_as_agent(
    State(app): AppState,
    caller: AgentCaller,
    BoardInPath(board_id): BoardInPath,
    from: sse::From,
) -> Result<Response, Problem> {
    policy::board(&mut Places::new(&app, &caller.tenant), &caller.agent, board_id).await?;
    sse::serve(app, caller.caller, Stream::Board(board_id), from.only(&[EventType::Memory])).await
}

/// Watches what is left on a board, as server-sent events of type `memory`.
#[utoipa::path(
    get, path = "/api/v1/boards/{id}/memory/stream", tag = "boards",
    params(("id" = uuid::Uuid, Path), sse::Place),
    responses((status = 200, description = "Events", body = String, content_type = "text/event-stream"))
)]
pub(crate) async fn watch_memory(
    State(app): AppState,
    caller: Permit<Look>,
    PathId(id): PathId<BoardId>,
    from: sse::From,
) -> Result<Response, Problem> {
    sse::serve(app, caller.0, Stream::Board(id), from.only(&[EventType::Memory])).await
}

/// Watches a board: what is left on it, and what becomes of its questions. It never ends by itself.
#[utoipa::path(
    get, path = "/api/v1/boards/{id}/events", tag = "streams",
    params(("id" = uuid::Uuid, Path), sse::From),
    responses((status = 200, description = "Events", body = String, content_type = "text/event-stream"))
)]
pub(crate) async fn watch_board(
    State(app): AppState,
    caller: Permit<Read>,
    PathId(id): PathId<BoardId>,
    from: sse::From,
) -> Result<Response, Problem> {
    sse::serve(app, caller.0, Stream::Board(id), from).await
}
