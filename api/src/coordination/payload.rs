//! The operations as kinds of `POST /jobs`: what the path and the token say on the routes of agents is in the payload here.

use axum::http::StatusCode;
use errand_common::{
    domain::{AgentId, BoardId, GatewayId},
    port::store::NewJob,
    wire::coordination::{ASK_USER, BROADCAST, LEAD_MESSAGE, NUDGE, SOUL_READ, SOUL_WRITE},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    operation::{self, Actor, Order, Settings},
    places::Places,
    request::{AskUserRequest, BroadcastRequest, LeadMessageRequest, NudgeRequest, SoulRequest},
};
use crate::{
    auth::Caller,
    extract::decode,
    intake::Intake,
    job::{self, JobRequest},
    problem::{Faults, Problem},
    view::schema,
};

/// Kinds that can be submitted. `provision` and `notice` are made by Errand alone.
pub(crate) const KINDS: &[&str] = &[NUDGE, SOUL_READ, SOUL_WRITE, ASK_USER, LEAD_MESSAGE, BROADCAST];

/// To an agent of a board.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct OnAgent {
    /// The board it works on.
    #[schema(schema_with = schema::uuid)]
    board_id: BoardId,
    /// Which agent.
    #[schema(schema_with = schema::uuid)]
    agent_id: AgentId,
    /// The agent in whose name it is; nobody's if absent.
    #[schema(schema_with = schema::uuid_or_null)]
    actor_id: Option<AgentId>,
    /// The sender's own mark. It joins logs.
    correlation_id: Option<String>,
}

/// About a board.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct OnBoard {
    /// Which board.
    #[schema(schema_with = schema::uuid)]
    board_id: BoardId,
    /// The agent in whose name it is: the one that is told of an answer. Nobody's if absent.
    #[schema(schema_with = schema::uuid_or_null)]
    actor_id: Option<AgentId>,
}

/// To all boards of a gateway.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct OnGateway {
    /// Which gateway.
    #[schema(schema_with = schema::uuid)]
    gateway_id: GatewayId,
    /// The agent in whose name it is; nobody's if absent.
    #[schema(schema_with = schema::uuid_or_null)]
    actor_id: Option<AgentId>,
}

/// Nothing but where.
#[derive(Debug, Deserialize)]
struct Nothing {}

macro_rules! described {
    ($($(#[$doc:meta])* $name:ident = $place:ty, $body:ty;)+) => {
        $(
            $(#[$doc])*
            #[derive(ToSchema)]
            #[expect(dead_code, reason = "described for clients; place and body are read one after the other")]
            pub(crate) struct $name {
                #[serde(flatten)]
                place: $place,
                #[serde(flatten)]
                body: $body,
            }
        )+
    };
}
described! {
    /// `nudge`: a message to an agent of a board.
    NudgePayload = OnAgent, NudgeRequest;
    /// `soul_write`: what an agent's `SOUL.md` shall hold.
    SoulWritePayload = OnAgent, SoulRequest;
    /// `ask_user`: a question for a person. The job waits for the answer, `awaiting_answer`.
    AskUserPayload = OnBoard, AskUserRequest;
    /// `lead_message`: a message to a board's lead.
    LeadMessagePayload = OnBoard, LeadMessageRequest;
    /// `broadcast`: a message to the leads of a gateway's boards, each a job of its own.
    BroadcastPayload = OnGateway, BroadcastRequest;
}

const ON_AGENT: &[&str] = &["board_id", "agent_id", "actor_id", "correlation_id"];
const ON_BOARD: &[&str] = &["board_id", "actor_id"];
const ON_GATEWAY: &[&str] = &["gateway_id", "actor_id"];
const NUDGE_FIELDS: &[&str] = &["message"];
const SOUL_FIELDS: &[&str] = &["content", "reason", "source_url", "expected_hash"];
const ASK_FIELDS: &[&str] = &[
    "content",
    "correlation_id",
    "preferred_channel",
    "reply_tags",
    "reply_source",
    "answer_schema",
    "question_expires_at",
];
const LEAD_FIELDS: &[&str] = &["kind", "content", "correlation_id", "reply_tags", "reply_source"];
const BROADCAST_FIELDS: &[&str] = &["kind", "content", "correlation_id", "reply_tags", "reply_source", "board_ids"];

/// The job, with the faults of the request. It speaks to a tenant's agents, perhaps in the name of one: a user's own token is not
/// enough for that.
pub(crate) async fn new_job(intake: &mut Intake<'_>, request: JobRequest) -> Result<NewJob, Problem> {
    intake.caller.require_whole_tenant()?;
    let mut faults = Faults::default();
    job::check_queue(request.queue.as_deref(), &mut faults);
    let ends = [("/expires_at", request.expires_at), ("/deadline", request.deadline)];
    job::check_times(("/run_at", request.run_at), ends, intake.app.now(), &mut faults);
    job::check_metadata(request.metadata.as_ref(), "/metadata", &mut faults);
    if request.kind == BROADCAST {
        let given = [
            ("/run_at", request.run_at.is_some()),
            ("/timeout_seconds", request.timeout_seconds.is_some()),
            ("/retry", request.retry.is_some()),
        ];
        for (pointer, given) in given {
            faults.check(!given, pointer, || "must be absent: a broadcast is not run itself".to_owned());
        }
    }
    faults.finish()?;
    let settings = Settings {
        queue: request.queue,
        priority: request.priority,
        run_at: request.run_at,
        expires_at: request.expires_at,
        deadline: request.deadline,
        timeout_seconds: request.timeout_seconds,
        retry: request.retry,
        metadata: request.metadata,
    };
    let order = Order {
        actor: Actor::other(intake.caller),
        user_id: intake.caller.as_user().map(|user| user.id.clone()),
        awaited: intake.awaited,
        correlation_id: None,
        settings,
    };
    let made = operation(&mut intake.places, intake.caller, order, &request.kind, request.payload).await;
    made.map_err(|problem| problem.below("/payload"))
}

async fn operation(
    places: &mut Places<'_>,
    caller: &Caller,
    order: Order,
    kind: &str,
    payload: Map<String, Value>,
) -> Result<NewJob, Problem> {
    match kind {
        NUDGE => {
            let (place, body) = read::<OnAgent, NudgeRequest>(payload, ON_AGENT, NUDGE_FIELDS)?;
            let (order, board, target) = on_agent(places, caller, order, place).await?;
            operation::nudge(places, order, (&board, &target), &body).await
        }
        SOUL_READ => {
            let (place, _) = read::<OnAgent, Nothing>(payload, ON_AGENT, &[])?;
            let (order, board, target) = on_agent(places, caller, order, place).await?;
            operation::soul_read(places, order, (&board, &target)).await
        }
        SOUL_WRITE => {
            let (place, body) = read::<OnAgent, SoulRequest>(payload, ON_AGENT, SOUL_FIELDS)?;
            let (order, board, target) = on_agent(places, caller, order, place).await?;
            operation::soul_write(places, order, (&board, &target), &body).await
        }
        ASK_USER => {
            let (place, body) = read::<OnBoard, AskUserRequest>(payload, ON_BOARD, ASK_FIELDS)?;
            let board = places.board(place.board_id).await?;
            let order = spoken_by(places, caller, order, place.actor_id).await?;
            operation::ask_user(places, order, &board, body).await
        }
        LEAD_MESSAGE => {
            let (place, body) = read::<OnBoard, LeadMessageRequest>(payload, ON_BOARD, LEAD_FIELDS)?;
            let board = places.board(place.board_id).await?;
            let order = spoken_by(places, caller, order, place.actor_id).await?;
            operation::lead_message(places, order, &board, body).await
        }
        BROADCAST => {
            let (place, body) = read::<OnGateway, BroadcastRequest>(payload, ON_GATEWAY, BROADCAST_FIELDS)?;
            let gateway = places.gateway(place.gateway_id).await?;
            let order = spoken_by(places, caller, order, place.actor_id).await?;
            operation::broadcast(places, order, gateway.id, body)
        }
        _ => Err(Problem::new(StatusCode::BAD_REQUEST, "unknown_kind", "unknown kind")),
    }
}

async fn on_agent(
    places: &mut Places<'_>,
    caller: &Caller,
    order: Order,
    place: OnAgent,
) -> Result<(Order, errand_common::domain::coordination::Board, errand_common::domain::coordination::Agent), Problem> {
    let board = places.board(place.board_id).await?;
    let target = places.agent_on(&board, place.agent_id).await?;
    let order = spoken_by(places, caller, order, place.actor_id).await?;
    Ok((Order { correlation_id: place.correlation_id, ..order }, board, target))
}

async fn spoken_by(
    places: &mut Places<'_>,
    caller: &Caller,
    order: Order,
    actor: Option<AgentId>,
) -> Result<Order, Problem> {
    let actor = match actor {
        Some(id) => Actor::agent(&places.actor(id).await?),
        None => Actor::other(caller),
    };
    Ok(Order { actor, ..order })
}

/// The two parts of a payload. Fields of neither are refused.
fn read<P: DeserializeOwned, B: DeserializeOwned>(
    payload: Map<String, Value>,
    place_fields: &[&str],
    body_fields: &[&str],
) -> Result<(P, B), Problem> {
    let mut faults = Faults::default();
    let (mut place, mut body) = (Map::new(), Map::new());
    for (name, value) in payload {
        let name_is_in = |fields: &[&str]| fields.contains(&name.as_str());
        match (name_is_in(place_fields), name_is_in(body_fields)) {
            (true, _) => drop(place.insert(name, value)),
            (_, true) => drop(body.insert(name, value)),
            _ => {
                let known = [place_fields, body_fields].concat().join(", ");
                faults.add(format!("/{name}"), format!("unknown field; known are: {known}"));
            }
        }
    }
    faults.finish()?;
    Ok((part(&place)?, part(&body)?))
}

fn part<T: DeserializeOwned>(fields: &Map<String, Value>) -> Result<T, Problem> {
    decode(&serde_json::to_vec(fields).map_err(|_| Problem::internal())?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;
    use utoipa::PartialSchema;

    use super::*;

    fn fields<T: PartialSchema>() -> BTreeSet<String> {
        let schema = serde_json::to_value(T::schema()).expect("json");
        schema["properties"].as_object().expect("fields").keys().cloned().collect()
    }

    #[test]
    fn the_lists_of_fields_are_those_of_the_schemas() {
        let listed = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
        for (schema, names) in [
            (fields::<OnAgent>(), ON_AGENT),
            (fields::<OnBoard>(), ON_BOARD),
            (fields::<OnGateway>(), ON_GATEWAY),
            (fields::<NudgeRequest>(), NUDGE_FIELDS),
            (fields::<SoulRequest>(), SOUL_FIELDS),
            (fields::<AskUserRequest>(), ASK_FIELDS),
            (fields::<LeadMessageRequest>(), LEAD_FIELDS),
            (fields::<BroadcastRequest>(), BROADCAST_FIELDS),
        ] {
            assert_eq!(schema, listed(names));
        }
    }

    #[test]
    fn what_is_wrong_in_a_payload_is_named() {
        let read = |payload: Value| {
            let Value::Object(payload) = payload else { panic!("an object") };
            read::<OnAgent, NudgeRequest>(payload, ON_AGENT, NUDGE_FIELDS)
        };
        let id = AgentId::new();
        assert!(read(json!({"board_id": id, "agent_id": id, "message": "x"})).is_ok());
        let pointer = |payload| read(payload).expect_err("refused").errors[0].pointer.clone();
        assert_eq!(pointer(json!({"board_id": id, "agent_id": "x", "message": "x"})), "/agent_id");
        assert_eq!(pointer(json!({"board_id": id, "agent_id": id})), "/message");
        assert_eq!(pointer(json!({"board_id": id, "agent_id": id, "message": "x", "colour": 1})), "/colour");
    }
}
