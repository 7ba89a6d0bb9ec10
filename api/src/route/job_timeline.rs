//! `GET /jobs/{id}/timeline`

use axum::{Json, extract::State};
use errand_common::domain::{Effect, Event, EventType, JobId, Receipt, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::job_show::job_of;
use crate::{
    auth::{Permit, Read},
    extract::{Params, PathId},
    limit,
    problem::Problem,
    state::AppState,
    view::schema,
};

/// One transition of a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Transition {
    /// Its number in the job's stream.
    seq: i64,
    /// When it was committed.
    #[schema(schema_with = schema::time)]
    ts: Timestamp,
    /// The attempt it belongs to.
    attempt: u32,
    /// What happened.
    #[serde(rename = "type")]
    #[schema(schema_with = schema::event_type)]
    kind: EventType,
    /// Its own fields beside these, as in the stream: the `class`, `message` and `delay_ms` of a retry, …
    #[serde(flatten)]
    #[schema(value_type = Object)]
    data: Map<String, Value>,
}

/// One call to the outside.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EffectView {
    /// Its place among the job's, from 1.
    ordinal: u32,
    /// The kind of call.
    #[schema(example = "http")]
    kind: String,
    /// Where it went.
    #[schema(example = "api.example.com:443")]
    destination: String,
    /// What the destination knows it by: its `Idempotency-Key`.
    key: String,
    /// The attempt that sent it last.
    attempt: u32,
    /// Just before it was sent last.
    #[schema(schema_with = schema::time)]
    intent_at: Timestamp,
    /// When it was known what came of it.
    #[schema(schema_with = schema::time_or_null)]
    receipt_at: Option<Timestamp>,
    /// `done`: the destination did it. `failed`: it did not. Null: nobody knows.
    #[schema(schema_with = schema::effect_result)]
    result: Option<&'static str>,
    /// The status of an HTTP answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u64>,
}

impl From<Effect> for EffectView {
    fn from(effect: Effect) -> Self {
        let receipt = effect.receipt.as_ref().map(|(receipt, _)| receipt);
        Self {
            ordinal: effect.ordinal,
            destination: effect.destination,
            key: effect.key,
            attempt: effect.attempt,
            intent_at: effect.intent_at,
            receipt_at: effect.receipt.as_ref().map(|(_, at)| *at),
            result: receipt.map(Receipt::word),
            status: receipt.and_then(|receipt| receipt.answer().get("status")?.as_u64()),
            kind: effect.kind,
        }
    }
}

/// What happened to a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Timeline {
    /// Its transitions, oldest first.
    items: Vec<Transition>,
    /// Always null: there is one page.
    next_cursor: Option<String>,
    /// Its calls to the outside, in their order.
    effects: Vec<EffectView>,
}

/// Fields of the envelope, which an event's own don't get past.
const ENVELOPE: &[&str] = &["seq", "ts", "attempt", "type"];

impl From<Event> for Transition {
    fn from(event: Event) -> Self {
        let own = match event.data {
            Value::Object(fields) => fields.into_iter(),
            _ => Map::new().into_iter(),
        };
        let data = own.filter(|(name, _)| !ENVELOPE.contains(&name.as_str())).collect();
        Self { seq: event.seq, ts: event.ts, attempt: event.attempt, kind: event.kind, data }
    }
}

/// Shows every transition of a job, oldest first, and its calls to the outside; the first 1000 of each at most.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/timeline", tag = "jobs", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = Timeline))
)]
pub(crate) async fn show_timeline(
    State(app): AppState,
    caller: Permit<Read>,
    PathId(id): PathId<JobId>,
    query: Params,
) -> Result<Json<Timeline>, Problem> {
    query.finish()?;
    job_of(&app, &caller, id).await?;
    let events = app.backend.store.timeline(id, limit::TIMELINE_EVENTS).await?;
    let effects = app.backend.store.effects(id, limit::TIMELINE_EVENTS).await?;
    Ok(Json(Timeline {
        items: events.into_iter().map(Transition::from).collect(),
        next_cursor: None,
        effects: effects.into_iter().map(EffectView::from).collect(),
    }))
}
