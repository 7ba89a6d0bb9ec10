//! `POST|GET|PATCH|DELETE /boards`

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use errand_common::{
    domain::{
        BoardId, GatewayId,
        coordination::{Board, QuestionState, agent::slug},
    },
    port::store::{
        CancelRequest,
        coordination::{AgentFilter, BoardChange, BoardFilter, BoardRefused, NewBoard, QuestionFilter, Removed},
    },
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::gateway::check_name;
use crate::{
    auth::{Admin, Caller, Look, Permit},
    extract::{JsonBody, Page, Params, PathId, Wanted},
    idempotency::{self, IdempotencyKey},
    limit,
    problem::{Faults, Problem, ProblemBody},
    state::{App, AppState},
    view::{BoardView, List, schema},
};

/// A board to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BoardRequest {
    /// For people; 1 to 128 characters.
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    /// For addresses: 1 to 64 of `a-z 0-9 -`, unique within the tenant; made from the name if absent.
    #[schema(pattern = "^[a-z0-9-]{1,64}$")]
    slug: Option<String>,
    /// Where its agents run.
    #[schema(schema_with = schema::uuid_or_null)]
    gateway_id: Option<GatewayId>,
}

impl Wanted for BoardRequest {}

/// What is to be changed of a board; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BoardPatch {
    /// For people; 1 to 128 characters.
    #[schema(min_length = 1, max_length = 128)]
    name: Option<String>,
    /// For addresses: 1 to 64 of `a-z 0-9 -`, unique within the tenant.
    #[schema(pattern = "^[a-z0-9-]{1,64}$")]
    slug: Option<String>,
    /// Where its agents run; null: nowhere. Agents it has already stay where they are.
    #[serde(default, deserialize_with = "given")]
    #[schema(schema_with = schema::uuid_or_null)]
    gateway_id: Option<Option<GatewayId>>,
}

impl Wanted for BoardPatch {}

/// Tells null from absent.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<GatewayId>>, D::Error> {
    Option::<GatewayId>::deserialize(deserializer).map(Some)
}

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BoardRemoved {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    id: BoardId,
    /// `Board removed`
    message: &'static str,
}

/// Makes a board.
#[utoipa::path(
    post, path = "/api/v1/boards", tag = "boards", request_body = BoardRequest,
    responses(
        (status = 200, body = BoardView),
        (status = 409, description = "`slug_taken`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn create_board(
    State(app): AppState,
    caller: Permit<Admin>,
    key: IdempotencyKey,
    body: JsonBody<BoardRequest>,
) -> Result<Response, Problem> {
    let bound = key.bind(&caller, body.digest);
    let request = body.value;
    let mut faults = Faults::default();
    check_name(&request.name, &mut faults);
    check_slug(request.slug.as_deref(), &mut faults);
    faults.finish()?;
    let (id, now) = (BoardId::new(), app.now());
    let is_free = request.slug.is_none();
    let mut board = Board {
        id,
        tenant: caller.tenant.clone(),
        slug: request.slug.or_else(|| slug(&request.name)).unwrap_or_else(|| "board".to_owned()),
        name: request.name.trim().to_owned(),
        gateway_id: request.gateway_id,
        paused: false,
        tail_seq: 0,
        created_at: now,
        updated_at: now,
    };
    board.slug.truncate(SLUG_BYTES);
    loop {
        let new = NewBoard {
            id,
            tenant: board.tenant.clone(),
            name: board.name.clone(),
            slug: board.slug.clone(),
            gateway_id: board.gateway_id,
        };
        let view = BoardView::from(board.clone());
        let record = bound.as_ref().map(|bound| bound.record(&app, StatusCode::OK, json!(view)));
        match (app.backend.store.create_board(new, record, now).await?, &bound) {
            (Ok(()), _) => return Ok(Json(view).into_response()),
            (Err(BoardRefused::Replayed(stored)), Some(bound)) => {
                return Ok(idempotency::replayed(Json(bound.same_request(*stored)?.answer).into_response()));
            }
            // Made from the name: another board has such a name. The end of its id tells them apart.
            (Err(BoardRefused::SlugTaken), _) if is_free && !board.slug.ends_with(&ending(id)) => {
                board.slug.truncate(SLUG_BYTES - ending(id).len());
                board.slug.push_str(&ending(id));
            }
            (Err(refused), _) => return Err(refusal(&refused)),
        }
    }
}

const SLUG_BYTES: usize = 64;

/// The random end of an id.
fn ending(id: BoardId) -> String {
    format!("-{}", &id.uuid().simple().to_string()[24..])
}

/// Lists boards, newest first.
#[utoipa::path(
    get, path = "/api/v1/boards", tag = "boards",
    params(
        ("gateway_id" = Option<uuid::Uuid>, Query, description = "of this gateway"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<BoardView>))
)]
pub(crate) async fn list_boards(
    State(app): AppState,
    caller: Permit<Look>,
    mut query: Params,
) -> Result<Json<List<BoardView>>, Problem> {
    let page: Page<BoardId> = query.page();
    let gateway_id = query.parse("gateway_id", "a UUID");
    query.finish()?;
    let filter = BoardFilter { tenant: caller.tenant.clone(), gateway_id, before: page.after, limit: page.probe() };
    let mut boards = app.backend.store.boards(&filter).await?;
    let next_cursor = page.cut(&mut boards, |board| board.id);
    Ok(Json(List { items: boards.into_iter().map(BoardView::from).collect(), next_cursor }))
}

/// Shows a board.
#[utoipa::path(
    get, path = "/api/v1/boards/{id}", tag = "boards", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = BoardView))
)]
pub(crate) async fn show_board(
    State(app): AppState,
    caller: Permit<Look>,
    PathId(id): PathId<BoardId>,
) -> Result<Json<BoardView>, Problem> {
    Ok(Json(app.backend.store.board(&caller.tenant, id).await?.ok_or_else(missing)?.into()))
}

/// Changes a board.
#[utoipa::path(
    patch, path = "/api/v1/boards/{id}", tag = "boards", request_body = BoardPatch, params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, body = BoardView),
        (status = 409, description = "`slug_taken`", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn change_board(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<BoardId>,
    body: JsonBody<BoardPatch>,
) -> Result<Json<BoardView>, Problem> {
    let patch = body.value;
    let mut faults = Faults::default();
    if let Some(name) = &patch.name {
        check_name(name, &mut faults);
    }
    check_slug(patch.slug.as_deref(), &mut faults);
    faults.finish()?;
    let name = patch.name.map(|name| name.trim().to_owned());
    let change = BoardChange { name, slug: patch.slug, gateway_id: patch.gateway_id };
    // Whether it is there comes before what is wrong with the change.
    app.backend.store.board(&caller.tenant, id).await?.ok_or_else(missing)?;
    let changed = app.backend.store.change_board(&caller.tenant, id, change, app.now()).await?;
    changed.map(|board| Json(board.into())).map_err(|refused| refusal(&refused))
}

/// Removes a board that has no agents, with its memory, its questions (the open ones are withdrawn) and its stream.
#[utoipa::path(
    delete, path = "/api/v1/boards/{id}", tag = "boards", params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, body = BoardRemoved),
        (status = 409, description = "`in_use`: it has agents", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn remove_board(
    State(app): AppState,
    caller: Permit<Admin>,
    PathId(id): PathId<BoardId>,
) -> Result<Json<BoardRemoved>, Problem> {
    let store = &app.backend.store;
    store.board(&caller.tenant, id).await?.ok_or_else(missing)?;
    let filter =
        AgentFilter { tenant: caller.tenant.clone(), board_id: Some(id), gateway_id: None, before: None, limit: 1 };
    if !store.agents(&filter).await?.is_empty() {
        return Err(in_use());
    }
    withdraw_questions(&app, &caller, id).await?;
    match store.remove_board(&caller.tenant, id).await? {
        Removed::Done => Ok(Json(BoardRemoved { id, message: "Board removed" })),
        Removed::Unknown => Err(missing()),
        Removed::InUse(_) => Err(in_use()),
    }
}

/// Cancels the jobs that still ask for this board.
async fn withdraw_questions(app: &App, caller: &Caller, id: BoardId) -> Result<(), Problem> {
    let mut filter = QuestionFilter {
        tenant: caller.tenant.clone(),
        board_id: Some(id),
        state: Some(QuestionState::Open),
        before: None,
        limit: limit::WITHDRAWN_AT_ONCE,
    };
    loop {
        let open = app.backend.store.questions(&filter).await?;
        for question in &open {
            let request = CancelRequest {
                tenant: caller.tenant.clone(),
                id: question.job_id,
                code: "BOARD_REMOVED".to_owned(),
                message: "The board was removed".to_owned(),
                now: app.now(),
            };
            if let Some((_, consequences)) = app.backend.store.cancel(request).await? {
                app.backend.dispatch(consequences).await;
            }
        }
        match open.last() {
            Some(last) => filter.before = Some(last.id),
            None => return Ok(()),
        }
    }
}

fn check_slug(slug: Option<&str>, faults: &mut Faults) {
    let is_slug = |slug: &str| {
        (1..=SLUG_BYTES).contains(&slug.len())
            && slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    faults.check(slug.is_none_or(is_slug), "/slug", || format!("must be 1 to {SLUG_BYTES} of a-z 0-9 -"));
}

fn missing() -> Problem {
    Problem::not_found("Board")
}

fn in_use() -> Problem {
    Problem::new(StatusCode::CONFLICT, "in_use", "The board has agents; remove them first")
}

fn refusal(refused: &BoardRefused) -> Problem {
    match refused {
        BoardRefused::SlugTaken => {
            let detail = "Another board has this slug";
            Problem::new(StatusCode::CONFLICT, "slug_taken", detail).with("/slug", "must be unique within the tenant")
        }
        BoardRefused::GatewayUnknown => {
            let detail = "Board gateway_id is invalid";
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "no_gateway", detail).with("/gateway_id", detail)
        }
        BoardRefused::HasAgents(agents) => {
            let detail =
                format!("{agents} agents of the board run in its gateway; remove them before it gets another one");
            Problem::new(StatusCode::CONFLICT, "in_use", detail)
        }
        BoardRefused::Unknown => missing(),
        BoardRefused::Replayed(_) => Problem::internal(),
    }
}
