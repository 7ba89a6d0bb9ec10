//! From a request to a job. What agents read is built here, so that every attempt sends the same bytes.

use std::time::Duration;

use axum::http::StatusCode;
use errand_common::{
    domain::{
        AgentId, GatewayId, JobId, QuestionId, RetryPolicy, Timestamp,
        coordination::{
            Agent, Board, Told,
            text::{
                Frame, LEAD_REPLY_SOURCE, LEAD_REPLY_TAGS, LeadMessageKind, USER_REPLY_SOURCE, USER_REPLY_TAGS,
                trace_id,
            },
        },
    },
    port::store::{BroadcastMessage, NewBroadcast, NewCoordination, NewJob, Window, coordination::NewQuestion},
    wire::coordination::{
        ASK_USER, BROADCAST, BroadcastPayload, LEAD_MESSAGE, MessagePayload, NUDGE, Recipient, SOUL_READ, SOUL_WRITE,
        SoulPayload, VERSION,
    },
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    places::Places,
    request::{
        AskUserRequest, BroadcastRequest, LeadMessageRequest, NudgeRequest, SoulRequest, check_frame, check_text,
        or_usual, said, text_or_usual,
    },
};
use crate::{
    auth::Caller,
    extract::Int,
    job::RetryRequest,
    limit,
    problem::{Faults, Problem},
};

const QUEUE: &str = "default";

/// In whose name something is said.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    pub(crate) id: Option<AgentId>,
    pub(crate) name: String,
}

impl Actor {
    pub(crate) fn agent(agent: &Agent) -> Self {
        Self { id: Some(agent.id), name: agent.name.clone() }
    }

    /// A person or a service.
    pub(crate) fn other(caller: &Caller) -> Self {
        Self { id: None, name: name_of(caller) }
    }
}

/// What people are called where an agent would have its name.
pub(crate) fn name_of(caller: &Caller) -> String {
    match caller.as_user() {
        Some(user) => user.email.clone().unwrap_or_else(|| user.id.clone()),
        None => "Operator".to_owned(),
    }
}

/// What is said of a job beside what it is to do.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) actor: Actor,
    /// The user who submits it.
    pub(crate) user_id: Option<String>,
    /// The client waits for the delivery.
    pub(crate) awaited: bool,
    /// The client's own mark, which joins logs.
    pub(crate) correlation_id: Option<String>,
    pub(crate) settings: Settings,
}

impl Order {
    /// By an agent.
    pub(crate) fn of(agent: &Agent, awaited: bool) -> Self {
        let actor = Actor::agent(agent);
        Self { actor, user_id: None, awaited, correlation_id: None, settings: Settings::default() }
    }

    /// The same, with this mark.
    pub(crate) fn correlated(self, correlation_id: String) -> Self {
        Self { correlation_id: Some(correlation_id), ..self }
    }

    const fn window(&self) -> Window {
        if self.awaited {
            Window { length: limit::AWAITED_WINDOW, from_send: true }
        } else {
            Window { length: limit::DELIVERY_WINDOW, from_send: false }
        }
    }
}

/// What `POST /jobs` may say of any job.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) queue: Option<String>,
    pub(crate) priority: Option<Int<0, 3>>,
    pub(crate) run_at: Option<Timestamp>,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) timeout_seconds: Option<Int<1, 86_400>>,
    pub(crate) retry: Option<RetryRequest>,
    pub(crate) metadata: Option<Map<String, Value>>,
}

/// A message to an agent.
pub(crate) async fn nudge(
    places: &mut Places<'_>,
    order: Order,
    (board, target): (&Board, &Agent),
    request: &NudgeRequest,
) -> Result<NewJob, Problem> {
    let message = said("/message", &request.message)?;
    places.gateway_of(board).await?;
    let id = JobId::new();
    let trace_id = trace_id("coord.nudge", order.correlation_id.as_deref(), id);
    let payload = MessagePayload {
        recipient: Recipient::Agent { agent_id: target.id },
        board_id: Some(board.id),
        message,
        deliver: true,
        question_id: None,
        trace_id: trace_id.clone(),
        actor_id: order.actor.id,
    };
    let told = Told {
        agent_id: order.actor.id,
        board_id: Some(board.id),
        trace_id,
        done: Some(("agent.nudge.sent".to_owned(), format!("Nudge sent to {}.", target.name))),
        failed: Some(("agent.nudge.failed".to_owned(), format!("Nudge failed for {}: ", target.name))),
    };
    Ok(made(places, order, id, NUDGE, &payload, Some(told)))
}

/// Reads an agent's soul.
pub(crate) async fn soul_read(
    places: &mut Places<'_>,
    order: Order,
    (board, target): (&Board, &Agent),
) -> Result<NewJob, Problem> {
    places.gateway_of(board).await?;
    let id = JobId::new();
    let payload = SoulPayload {
        agent_id: target.id,
        board_id: board.id,
        content: None,
        expected_hash: None,
        trace_id: trace_id("coord.soul.read", order.correlation_id.as_deref(), id),
        actor_id: order.actor.id,
    };
    Ok(made(places, order, id, SOUL_READ, &payload, None))
}

/// Writes an agent's soul.
pub(crate) async fn soul_write(
    places: &mut Places<'_>,
    order: Order,
    (board, target): (&Board, &Agent),
    request: &SoulRequest,
) -> Result<NewJob, Problem> {
    let content = request.content.trim().to_owned();
    if content.is_empty() {
        let detail = "content is required";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_request", detail).with("/content", detail));
    }
    let mut faults = Faults::default();
    if let Some(hash) = &request.expected_hash {
        let is_hash = hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        faults.check(is_hash, "/expected_hash", || "must be a SHA-256 in 64 lower-case hexadecimal digits".to_owned());
    }
    faults.finish()?;
    places.gateway_of(board).await?;
    let id = JobId::new();
    let trace_id = trace_id("coord.soul.write", order.correlation_id.as_deref(), id);
    let mut note = format!("SOUL.md updated for {}.", target.name);
    for (what, text) in [("Reason", &request.reason), ("Source", &request.source_url)] {
        if let Some(text) = text.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
            note.push_str(&format!(" {what}: {text}"));
        }
    }
    let told = Told {
        agent_id: order.actor.id,
        board_id: Some(board.id),
        trace_id: trace_id.clone(),
        done: Some(("agent.soul.updated".to_owned(), note)),
        failed: None,
    };
    let payload = SoulPayload {
        agent_id: target.id,
        board_id: board.id,
        content: Some(content),
        expected_hash: request.expected_hash.clone(),
        trace_id,
        actor_id: order.actor.id,
    };
    Ok(made(places, order, id, SOUL_WRITE, &payload, Some(told)))
}

/// A question for a person.
pub(crate) async fn ask_user(
    places: &mut Places<'_>,
    order: Order,
    board: &Board,
    request: AskUserRequest,
) -> Result<NewJob, Problem> {
    let now = places.app.now();
    let mut faults = Faults::default();
    request.check(now, &mut faults);
    faults.finish()?;
    let gateway = places.gateway_of(board).await?;
    let questions = &places.app.config.questions;
    let id = JobId::new();
    let trace_id = trace_id("coord.ask_user", request.correlation_id.as_deref(), id);
    let reply_tags = or_usual(request.reply_tags, USER_REPLY_TAGS);
    let reply_source = text_or_usual(request.reply_source, USER_REPLY_SOURCE);
    let frame = Frame {
        base_url: places.app.config.server.base_url(),
        board,
        actor: &order.actor.name,
        correlation_id: request.correlation_id.as_deref(),
        reply_tags: &reply_tags,
        reply_source: &reply_source,
    };
    let message = frame.to_user(request.preferred_channel.as_deref(), &request.content);
    let days = Duration::from_secs(u64::from(questions.expires_days) * 86_400);
    let remind = Duration::from_secs(u64::from(questions.remind_minutes) * 60);
    let question = NewQuestion {
        id: QuestionId::new(),
        board_id: board.id,
        agent_id: order.actor.id,
        content: request.content.trim().to_owned(),
        correlation_id: request.correlation_id.map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()),
        reply_tags,
        reply_source,
        answer_schema: request.answer_schema,
        remind_at: (!remind.is_zero()).then(|| now.plus(remind)),
        expires_at: request.question_expires_at.unwrap_or_else(|| now.plus(days)),
    };
    let payload = MessagePayload {
        recipient: Recipient::Main { gateway_id: gateway.id },
        board_id: Some(board.id),
        message,
        deliver: true,
        question_id: Some(question.id),
        trace_id: trace_id.clone(),
        actor_id: order.actor.id,
    };
    let told = Told {
        agent_id: order.actor.id,
        board_id: Some(board.id),
        trace_id,
        done: Some((
            "gateway.lead.ask_user.sent".to_owned(),
            format!("Lead requested user info via gateway agent for board: {}.", board.name),
        )),
        failed: Some((
            "gateway.lead.ask_user.failed".to_owned(),
            format!("Lead user question failed for {}: ", board.name),
        )),
    };
    let mut job = made(places, order, id, ASK_USER, &payload, Some(told));
    if let Some(coordination) = &mut job.coordination {
        coordination.question = Some(question);
    }
    Ok(job)
}

/// A message to a board's lead.
pub(crate) async fn lead_message(
    places: &mut Places<'_>,
    order: Order,
    board: &Board,
    request: LeadMessageRequest,
) -> Result<NewJob, Problem> {
    let mut faults = Faults::default();
    check_text("/content", &request.content, &mut faults);
    check_frame(request.correlation_id.as_deref(), &request.reply_tags, request.reply_source.as_deref(), &mut faults);
    faults.finish()?;
    let gateway = places.gateway_of(board).await?;
    let id = JobId::new();
    let trace_id = trace_id("coord.lead_message", request.correlation_id.as_deref(), id);
    let reply_tags = or_usual(request.reply_tags, LEAD_REPLY_TAGS);
    let reply_source = text_or_usual(request.reply_source, LEAD_REPLY_SOURCE);
    let frame = Frame {
        base_url: places.app.config.server.base_url(),
        board,
        actor: &order.actor.name,
        correlation_id: request.correlation_id.as_deref(),
        reply_tags: &reply_tags,
        reply_source: &reply_source,
    };
    let payload = MessagePayload {
        recipient: Recipient::Lead { gateway_id: gateway.id, board_id: board.id },
        board_id: Some(board.id),
        message: frame.to_lead(request.kind, &request.content),
        deliver: false,
        question_id: None,
        trace_id: trace_id.clone(),
        actor_id: order.actor.id,
    };
    let told = Told {
        agent_id: order.actor.id,
        board_id: Some(board.id),
        trace_id,
        done: Some((
            "gateway.main.lead_message.sent".to_owned(),
            format!("Sent {} to lead for board: {}.", request.kind, board.name),
        )),
        failed: Some((
            "gateway.main.lead_message.failed".to_owned(),
            format!("Lead message failed for {}: ", board.name),
        )),
    };
    Ok(made(places, order, id, LEAD_MESSAGE, &payload, Some(told)))
}

/// A message to the leads of a gateway's boards, which the store chooses.
pub(crate) fn broadcast(
    places: &Places<'_>,
    order: Order,
    gateway_id: GatewayId,
    request: BroadcastRequest,
) -> Result<NewJob, Problem> {
    let mut faults = Faults::default();
    check_text("/content", &request.content, &mut faults);
    check_frame(request.correlation_id.as_deref(), &request.reply_tags, request.reply_source.as_deref(), &mut faults);
    let board_ids = request.board_ids.unwrap_or_default();
    faults.check(board_ids.len() <= limit::BROADCAST_BOARDS, "/board_ids", || {
        format!("may name {} boards at most", limit::BROADCAST_BOARDS)
    });
    faults.finish()?;
    let id = JobId::new();
    let trace_id = trace_id("coord.lead_broadcast", request.correlation_id.as_deref(), id);
    let told = Told {
        agent_id: order.actor.id,
        board_id: None,
        trace_id: trace_id.clone(),
        done: Some(("gateway.main.lead_broadcast.sent".to_owned(), sent_to_leads(request.kind))),
        failed: None,
    };
    let payload = BroadcastPayload {
        gateway_id,
        kind: request.kind.to_string(),
        boards: 0,
        trace_id: trace_id.clone(),
        actor_id: order.actor.id,
    };
    let message = BroadcastMessage {
        kind: request.kind,
        content: request.content,
        actor: order.actor.name.clone(),
        actor_id: order.actor.id,
        correlation_id: request.correlation_id,
        reply_tags: or_usual(request.reply_tags, LEAD_REPLY_TAGS),
        reply_source: text_or_usual(request.reply_source, LEAD_REPLY_SOURCE),
        base_url: places.app.config.server.base_url().to_owned(),
        trace_id,
    };
    let window = order.window();
    let mut job = made(places, order, id, BROADCAST, &payload, Some(told));
    let child = NewJob {
        kind: LEAD_MESSAGE.to_owned(),
        deadline: None,
        metadata: None,
        coordination: Some(NewCoordination { told: None, window: Some(window), question: None, broadcast: None }),
        webhook: None,
        ..job.clone()
    };
    // It is not run itself.
    job.timeout_ms = None;
    job.run_at = None;
    job.retry = RetryPolicy { max_attempts: 1, ..job.retry };
    let broadcast = NewBroadcast { gateway_id, board_ids, limit: limit::BROADCAST_BOARDS, message, child };
    if let Some(coordination) = &mut job.coordination {
        coordination.window = None;
        coordination.broadcast = Some(Box::new(broadcast));
    }
    Ok(job)
}

fn sent_to_leads(kind: LeadMessageKind) -> String {
    format!("Broadcast {kind} to {{sent}} board leads (failed: {{failed}}).")
}

/// The job, with what holds for all kinds.
fn made(
    places: &Places<'_>,
    order: Order,
    id: JobId,
    kind: &str,
    payload: &impl Serialize,
    told: Option<Told>,
) -> NewJob {
    let window = Some(order.window());
    let settings = order.settings;
    let timeout_seconds = settings.timeout_seconds.map_or(limit::MESSAGE_TIMEOUT_SECONDS, Int::get);
    NewJob {
        id,
        tenant: places.tenant.to_owned(),
        kind: kind.to_owned(),
        queue: settings.queue.unwrap_or_else(|| QUEUE.to_owned()),
        priority: settings.priority.and_then(|p| u8::try_from(p.get()).ok()?.try_into().ok()).unwrap_or_default(),
        // A payload of ours always serialises: it has string keys only.
        payload: serde_json::to_value(payload).unwrap_or_default(),
        payload_version: VERSION,
        retry: settings.retry.map_or(RetryPolicy::MESSAGE, |retry| retry.over(RetryPolicy::MESSAGE)),
        timeout_ms: Some(timeout_seconds * 1_000),
        run_at: settings.run_at,
        expires_at: settings.expires_at,
        deadline: settings.deadline,
        metadata: settings.metadata.map(Value::Object),
        retry_of: None,
        user_id: order.user_id,
        task: None,
        dedup: None,
        children: Vec::new(),
        coordination: Some(NewCoordination { told, window, question: None, broadcast: None }),
        webhook: None,
        trace: None,
    }
}
