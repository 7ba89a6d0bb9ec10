//! `POST|GET /agent/boards/{board_id}/memory`, `POST|GET /boards/{id}/memory`

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use errand_common::{
    domain::{
        BoardId, MemoryId, QuestionId,
        coordination::{Board, Question, QuestionState, memory::CHAT},
    },
    port::store::{
        NewJob, StoredAnswer,
        coordination::{AgentFilter, MemoryFilter, NewMemory, Posted},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    auth::{AgentCaller, Caller, Look, Permit, Write},
    coordination::{
        chat::{self, Writer},
        operation::name_of,
        places::Places,
        policy,
        request::check_text,
    },
    extract::{BoardInPath, JsonBody, Params, PathId, Wanted},
    idempotency::{self, Bound, IdempotencyKey},
    limit,
    problem::{Faults, Problem},
    state::{App, AppState},
    traced,
    view::{MemoryView, schema},
};

/// What is left on a board. Unknown fields are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct MemoryRequest {
    /// What; kept without the white space around it, not blank.
    #[schema(min_length = 1)]
    content: String,
    /// At most 64 of 256 characters. With `chat` it is part of the board's chat: the lead, and whoever is mentioned with `@`, are told;
    /// `/pause` and `/resume` go to all agents of the board.
    #[schema(max_items = 64)]
    tags: Option<Vec<String>>,
    /// Who or what it is from; in the chat the writer's name if absent. At most 256 characters.
    source: Option<String>,
    /// The question it answers. Without, it answers the one open question whose correlation id, or whose tags and source, it bears.
    #[schema(schema_with = schema::uuid_or_null)]
    question_id: Option<QuestionId>,
    /// The correlation id of the question it answers.
    correlation_id: Option<String>,
}

impl Wanted for MemoryRequest {}

/// An item as it is kept, and what became of it as an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MemoryPosted {
    /// The item.
    #[serde(flatten)]
    memory: MemoryView,
    /// Present if it was meant for a question.
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<Reply>,
}

/// What became of an item that was meant as an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Reply {
    /// It is the answer.
    accepted: bool,
    /// The question, if it is known.
    #[schema(schema_with = schema::uuid_or_null)]
    question_id: Option<QuestionId>,
    /// The question as it is now.
    #[schema(schema_with = schema::question_state)]
    state: QuestionState,
    /// Whose answer counts.
    answered_by: Option<String>,
    /// Why it is not the answer.
    detail: Option<String>,
}

impl Reply {
    fn of(question: &Question, accepted: bool) -> Self {
        let detail = (!accepted).then(|| super::question::ended(question));
        let (state, answered_by) = (question.state, question.answered_by.clone());
        Self { accepted, question_id: Some(question.id), state, answered_by, detail }
    }

    const fn unfit(question_id: Option<QuestionId>, why: String) -> Self {
        Self { accepted: false, question_id, state: QuestionState::Open, answered_by: None, detail: Some(why) }
    }
}

/// A page of a board's memory.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MemoryPage {
    /// Newest first.
    items: Vec<MemoryView>,
    /// How many there are in all.
    total: u64,
    /// At most so many in a page.
    limit: u32,
    /// So many were left out first.
    offset: u32,
}

/// Leaves something on the caller's board: a note, a word in its chat, or the answer to a question.
#[utoipa::path(
    post, path = "/api/v1/agent/boards/{board_id}/memory", tags = ["coordination", "agent-lead", "agent-worker", "agent-main"],
    operation_id = "agent_post_board_memory", request_body = MemoryRequest, params(("board_id" = uuid::Uuid, Path)),
    responses((status = 200, body = MemoryPosted))
)]
pub(crate) async fn post_memory_as_agent(
    State(app): AppState,
    caller: AgentCaller,
    BoardInPath(board_id): BoardInPath,
    key: IdempotencyKey,
    body: JsonBody<MemoryRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let board = policy::board(&mut Places::new(&app, &caller.tenant), &caller.agent, board_id).await?;
    let writer = Writer { agent_id: Some(caller.agent.id), name: &caller.agent.name };
    post(&app, &caller, board, writer, key, body.value).await
}

/// Leaves something on a board: a note, a word in its chat, or the answer to a question.
#[utoipa::path(
    post, path = "/api/v1/boards/{id}/memory", tag = "boards", request_body = MemoryRequest,
    params(("id" = uuid::Uuid, Path)), responses((status = 200, body = MemoryPosted))
)]
pub(crate) async fn post_memory(
    State(app): AppState,
    caller: Permit<Write>,
    PathId(id): PathId<BoardId>,
    key: IdempotencyKey,
    body: JsonBody<MemoryRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let board = app.backend.store.board(&caller.tenant, id).await?.ok_or_else(|| Problem::not_found("Board"))?;
    let name = name_of(&caller);
    post(&app, &caller, board, Writer { agent_id: None, name: &name }, key, body.value).await
}

async fn post(
    app: &App,
    caller: &Caller,
    board: Board,
    writer: Writer<'_>,
    key: Option<Bound>,
    request: MemoryRequest,
) -> Result<Response, Problem> {
    let (content, tags) = judge(&request)?;
    let is_chat = tags.iter().any(|tag| tag == CHAT);
    let given = request.source.filter(|source| !source.is_empty());
    let mut notices = if is_chat { notices(app, &board, writer, &content).await? } else { Vec::new() };
    let _span = traced::submission(&mut notices);
    let id = MemoryId::new();
    let named = request.question_id;
    let new = NewMemory {
        id,
        tenant: caller.tenant.clone(),
        board_id: board.id,
        content,
        tags,
        source: given.or_else(|| is_chat.then(|| writer.name.to_owned())),
        agent_id: writer.agent_id,
        question_id: named,
        correlation_id: request.correlation_id.map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()),
        written_by: caller.owner(),
        notices,
        idempotency: key.as_ref().map(|key| key.record(app, StatusCode::OK, json!({ "memory": id }))),
    };
    let (posted, consequences) = app.backend.store.post_memory(new, app.now()).await?;
    app.backend.dispatch(consequences).await;
    match posted {
        Posted::Unknown => Err(Problem::not_found("Board")),
        Posted::Replayed(stored) => again(app, caller, key, stored, named).await,
        Posted::Done { memory, answered, late, unfit } => {
            let reply = answered.map(|question| Reply::of(&question, true));
            let reply = reply.or_else(|| late.map(|question| Reply::of(&question, false)));
            let reply = reply.or_else(|| unfit.map(|why| Reply::unfit(named, why)));
            Ok(Json(MemoryPosted { memory: (*memory).into(), reply }).into_response())
        }
    }
}

/// What was kept under the key.
async fn again(
    app: &App,
    caller: &Caller,
    key: Option<Bound>,
    stored: StoredAnswer,
    named: Option<QuestionId>,
) -> Result<Response, Problem> {
    let stored = match key {
        Some(key) => key.same_request(stored)?,
        None => stored,
    };
    let id: Option<MemoryId> = stored.answer["memory"].as_str().and_then(|id| id.parse().ok());
    let memory = match id {
        Some(id) => app.backend.store.memory(&caller.tenant, id).await?,
        None => None,
    };
    let memory = memory.ok_or_else(|| Problem::not_found("memory"))?;
    let late: Option<QuestionId> = stored.answer["late"].as_str().and_then(|id| id.parse().ok());
    let question = match memory.question_id.or(late) {
        Some(id) => app.backend.store.question(&caller.tenant, id).await?,
        None => None,
    };
    let reply = question.map(|question| Reply::of(&question, late.is_none()));
    let reply = reply.or_else(|| stored.answer["unfit"].as_str().map(|why| Reply::unfit(named, why.to_owned())));
    Ok(idempotency::replayed(Json(MemoryPosted { memory: memory.into(), reply }).into_response()))
}

fn judge(request: &MemoryRequest) -> Result<(String, Vec<String>), Problem> {
    let mut faults = Faults::default();
    check_text("/content", &request.content, &mut faults);
    let tags = request.tags.clone().unwrap_or_default();
    faults.check(tags.len() <= limit::MEMORY_TAGS, "/tags", || format!("may hold {} at most", limit::MEMORY_TAGS));
    let fits = |text: &str| text.chars().count() <= limit::TAG_CHARS;
    let too_long = || format!("may take {} characters at most", limit::TAG_CHARS);
    for (index, tag) in tags.iter().enumerate() {
        faults.check(fits(tag), &format!("/tags/{index}"), too_long);
    }
    faults.check(request.source.as_deref().is_none_or(fits), "/source", too_long);
    faults.finish()?;
    Ok((request.content.trim().to_owned(), tags))
}

async fn notices(app: &App, board: &Board, writer: Writer<'_>, content: &str) -> Result<Vec<NewJob>, Problem> {
    // Nobody can be reached on a board without a gateway.
    if board.gateway_id.is_none() {
        return Ok(Vec::new());
    }
    let filter = AgentFilter {
        tenant: board.tenant.clone(),
        board_id: Some(board.id),
        gateway_id: None,
        before: None,
        limit: limit::CHAT_AGENTS,
    };
    let agents = app.backend.store.agents(&filter).await?;
    Ok(chat::notices(app.config.server.base_url(), board, &agents, writer, content))
}

/// Lists what was left on the caller's board, newest first. Unknown parameters are ignored.
#[utoipa::path(
    get, path = "/api/v1/agent/boards/{board_id}/memory", tags = ["coordination", "agent-lead", "agent-worker", "agent-main"],
    operation_id = "agent_list_board_memory",
    params(
        ("board_id" = uuid::Uuid, Path),
        ("is_chat" = Option<bool>, Query, description = "of the chat only, or not of it"),
        ("since" = Option<String>, Query, description = "left at or after, RFC 3339"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 200 if absent"),
        ("offset" = Option<u32>, Query, minimum = 0, maximum = 100_000, description = "leave out so many first"),
    ),
    responses((status = 200, body = MemoryPage))
)]
pub(crate) async fn list_memory_as_agent(
    State(app): AppState,
    caller: AgentCaller,
    BoardInPath(board_id): BoardInPath,
    query: Params,
) -> Result<Json<MemoryPage>, Problem> {
    let board = policy::board(&mut Places::new(&app, &caller.tenant), &caller.agent, board_id).await?;
    list(&app, &caller, board.id, query).await
}

/// Lists what was left on a board, newest first. Unknown parameters are ignored.
#[utoipa::path(
    get, path = "/api/v1/boards/{id}/memory", tag = "boards",
    params(
        ("id" = uuid::Uuid, Path),
        ("is_chat" = Option<bool>, Query, description = "of the chat only, or not of it"),
        ("since" = Option<String>, Query, description = "left at or after, RFC 3339"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 200 if absent"),
        ("offset" = Option<u32>, Query, minimum = 0, maximum = 100_000, description = "leave out so many first"),
    ),
    responses((status = 200, body = MemoryPage))
)]
pub(crate) async fn list_memory(
    State(app): AppState,
    caller: Permit<Look>,
    PathId(id): PathId<BoardId>,
    query: Params,
) -> Result<Json<MemoryPage>, Problem> {
    app.backend.store.board(&caller.tenant, id).await?.ok_or_else(|| Problem::not_found("Board"))?;
    list(&app, &caller, id, query).await
}

async fn list(app: &App, caller: &Caller, board_id: BoardId, mut query: Params) -> Result<Json<MemoryPage>, Problem> {
    let is_chat: Option<bool> = query.parse("is_chat", "true or false");
    let since = query.parse::<DateTime<Utc>>("since", "an RFC 3339 time such as 2026-11-21T07:30:00Z");
    let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
    let limit = number(query.number("limit", 1..=i64::from(limit::MEMORY_PAGE))).unwrap_or(limit::MEMORY_PAGE);
    let offset = number(query.number("offset", 0..=i64::from(limit::MEMORY_OFFSET))).unwrap_or_default();
    query.finish_ignoring_unknown()?;
    let tenant = caller.tenant.clone();
    let filter = MemoryFilter { tenant, board_id, is_chat, since: since.map(Into::into), offset, limit };
    let (items, total) = app.backend.store.memories(&filter).await?;
    Ok(Json(MemoryPage { items: items.into_iter().map(MemoryView::from).collect(), total, limit, offset }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::decode;

    #[test]
    fn an_item_is_judged_whole() {
        let request: MemoryRequest = decode(br#"{"content":" x ","tags":["chat"],"colour":1}"#).expect("an item");
        assert_eq!(judge(&request).expect("fine"), ("x".to_owned(), vec!["chat".to_owned()]));
        let long = "y".repeat(limit::TAG_CHARS + 1);
        let text = format!(r#"{{"content":" ","tags":["{long}"],"source":"{long}"}}"#);
        let request: MemoryRequest = decode(text.as_bytes()).expect("an item");
        let pointers: Vec<_> =
            judge(&request).expect_err("faults").errors.into_iter().map(|error| error.pointer).collect();
        assert_eq!(pointers, ["/content", "/tags/0", "/source"]);
    }
}
