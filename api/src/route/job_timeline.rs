//! `GET /jobs/{id}/timeline`

use axum::{Json, extract::State};
use errand_common::domain::{Event, EventType, JobId, Timestamp};
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
    view::{List, schema},
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

/// Shows every transition of a job, oldest first; the first 1000 at most.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/timeline", tag = "jobs", params(("id" = uuid::Uuid, Path)),
    responses((status = 200, body = List<Transition>))
)]
pub(crate) async fn show_timeline(
    State(app): AppState,
    caller: Permit<Read>,
    PathId(id): PathId<JobId>,
    query: Params,
) -> Result<Json<List<Transition>>, Problem> {
    query.finish()?;
    job_of(&app, &caller.tenant, id).await?;
    let events = app.backend.store.timeline(id, limit::TIMELINE_EVENTS).await?;
    Ok(Json(List { items: events.into_iter().map(Transition::from).collect(), next_cursor: None }))
}
