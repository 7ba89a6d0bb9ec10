//! `GET /questions`, `GET /questions/{id}`, `POST /questions/{id}/answer`

use axum::{Json, extract::State, http::StatusCode, response::Response};
use errand_common::{
    domain::{
        QuestionId,
        coordination::{Question, QuestionState},
    },
    port::store::coordination::{Answer as NewAnswer, Answered, QuestionFilter},
};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    auth::{Answer, Anyone, Caller, Permit},
    coordination::{places::Places, policy},
    extract::{JsonBody, Page, Params, PathId, Wanted},
    idempotency::{self, IdempotencyKey},
    problem::{Problem, ProblemBody},
    state::{App, AppState},
    view::{List, QuestionView},
};

/// Lists questions to people, newest first. An agent names one of its boards, or means its own.
#[utoipa::path(
    get, path = "/api/v1/questions", tags = ["questions", "agent-lead", "agent-worker", "agent-main"],
    params(
        ("board_id" = Option<uuid::Uuid>, Query, description = "of this board"),
        ("state" = Option<String>, Query, description = "`open`, `answered`, `expired` or `cancelled`"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 200, description = "entries of a page; 50 if absent"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, body = List<QuestionView>))
)]
pub(crate) async fn list_questions(
    State(app): AppState,
    caller: Anyone,
    mut query: Params,
) -> Result<Json<List<QuestionView>>, Problem> {
    let page: Page<QuestionId> = query.page();
    let tenant = &caller.caller().tenant;
    let mut board_id = query.parse("board_id", "a UUID");
    if let Some(agent) = caller.agent() {
        board_id = board_id.or(agent.board_id);
        if board_id.is_none() {
            query.fault("board_id", "must name a board of the agent's gateway");
        }
    }
    let filter = QuestionFilter {
        tenant: tenant.clone(),
        board_id,
        state: query.parse::<QuestionState>("state", "open, answered, expired or cancelled"),
        before: page.after,
        limit: page.probe(),
    };
    query.finish()?;
    if let (Some(agent), Some(board)) = (caller.agent(), board_id) {
        policy::board(&mut Places::new(&app, tenant), agent, board).await?;
    }
    let mut questions = app.backend.store.questions(&filter).await?;
    let next_cursor = page.cut(&mut questions, |question| question.id);
    Ok(Json(List { items: questions.into_iter().map(QuestionView::from).collect(), next_cursor }))
}

/// Shows a question to a person. An agent sees those of its boards.
#[utoipa::path(
    get, path = "/api/v1/questions/{id}", tags = ["questions", "agent-lead", "agent-worker", "agent-main"], params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = QuestionView))
)]
pub(crate) async fn show_question(
    State(app): AppState,
    caller: Anyone,
    PathId(id): PathId<QuestionId>,
) -> Result<Json<QuestionView>, Problem> {
    let tenant = &caller.caller().tenant;
    let question = app.backend.store.question(tenant, id).await?.ok_or_else(missing)?;
    if let Some(agent) = caller.agent() {
        let board = policy::board(&mut Places::new(&app, tenant), agent, question.board_id).await;
        // What it may not see is not there.
        board.map_err(|problem| if problem.status == StatusCode::FORBIDDEN { missing() } else { problem })?;
    }
    Ok(Json(question.into()))
}

fn missing() -> Problem {
    Problem::not_found("Question")
}

/// An answer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnswerRequest {
    /// A text, or what the question's schema asks for; not blank, and not null.
    #[schema(value_type = Value)]
    answer: Value,
}

impl Wanted for AnswerRequest {}

/// Answers a question. The first answer that follows the question's schema counts; the agent that asked is told of it.
#[utoipa::path(
    post, path = "/api/v1/questions/{id}/answer", tag = "questions", request_body = AnswerRequest,
    params(("id" = uuid::Uuid, Path)),
    responses(
        (status = 200, description = "It counts", body = QuestionView),
        (status = 409, description = "`already_answered`, `question_expired` or `question_cancelled`", body = ProblemBody, content_type = "application/problem+json"),
        (status = 422, description = "`unfit_answer`: it does not follow the question's schema; or the request is wrong", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn answer_question(
    State(app): AppState,
    caller: Permit<Answer>,
    PathId(id): PathId<QuestionId>,
    key: IdempotencyKey,
    body: JsonBody<AnswerRequest>,
) -> Result<Response, Problem> {
    let key = key.bind(&caller, body.digest);
    let has_key = key.is_some();
    idempotency::once(&app, key.as_ref(), async || answer(&app, &caller, id, body.value.answer, has_key).await).await
}

async fn answer(app: &App, caller: &Caller, id: QuestionId, content: Value, has_key: bool) -> Result<Value, Problem> {
    if content.is_null() || content.as_str().is_some_and(|text| text.trim().is_empty()) {
        return Err(Problem::field("/answer", "must not be blank"));
    }
    let by = caller.owner();
    let said = content.clone();
    let new = NewAnswer { tenant: caller.tenant.clone(), id, content, answered_by: by.clone(), now: app.now() };
    let Some((answered, consequences)) = app.backend.store.answer(new).await? else {
        return Err(missing());
    };
    app.backend.dispatch(consequences).await;
    let question = match answered {
        Answered::Won(question) => *question,
        // What this very request did before the process died that served it.
        Answered::Late(question) if has_key && is_its(&question, &by, &said) => *question,
        Answered::Late(question) => {
            let code = match question.state {
                QuestionState::Expired => "question_expired",
                QuestionState::Cancelled => "question_cancelled",
                QuestionState::Open | QuestionState::Answered => "already_answered",
            };
            return Err(Problem::new(StatusCode::CONFLICT, code, ended(&question)));
        }
        Answered::Unfit { pointer, detail } => {
            let told = format!("The answer does not follow the question's answer_schema: {detail}");
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "unfit_answer", told)
                .with(format!("/answer{pointer}"), detail));
        }
    };
    serde_json::to_value(QuestionView::from(question)).map_err(|_| Problem::internal())
}

fn is_its(question: &Question, by: &str, said: &Value) -> bool {
    question.state == QuestionState::Answered
        && question.answered_by.as_deref() == Some(by)
        && question.accept(said).ok() == question.answer
}

/// Why a question takes no answer any more.
pub(super) fn ended(question: &Question) -> String {
    match (question.state, &question.answered_by) {
        (QuestionState::Expired, _) => "Nobody answered the question in time; it takes no answer any more".to_owned(),
        (QuestionState::Cancelled, _) => "The question was withdrawn; it takes no answer any more".to_owned(),
        (_, Some(by)) => format!("The question was answered before, by {by}"),
        (_, None) => "The question was answered before".to_owned(),
    }
}
