//! Ids and names in paths: malformed ones are 400; unknown and foreign ids are the handler's 404.

use std::{collections::HashMap, str::FromStr};

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use errand_common::domain::{AgentId, BoardId, JobId, WebhookId};

use crate::{job, problem::Problem};

/// The `{id}` of the path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathId<T>(pub(crate) T);

impl<T: FromStr + Send, S: Send + Sync> FromRequestParts<S> for PathId<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let malformed = || Problem::field("path:id", "must be a UUID, such as 01890a5d-ac96-774b-bcce-b302099a8057");
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| malformed())?;
        text.parse().map(Self).map_err(|_| malformed())
    }
}

/// The `{board_id}` of the path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BoardInPath(pub(crate) BoardId);

impl<S: Send + Sync> FromRequestParts<S> for BoardInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = named(parts, state, "board_id").await.and_then(|text| text.parse().ok());
        id.map(Self).ok_or_else(|| Problem::field("path:board_id", "must be a UUID"))
    }
}

/// The `{agent_id}` of the path. `None`: it is no id at all, so there can be no such agent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AgentInPath(pub(crate) Option<AgentId>);

impl<S: Send + Sync> FromRequestParts<S> for AgentInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self(named(parts, state, "agent_id").await.and_then(|text| text.parse().ok())))
    }
}

/// The `{id}` of the path, and the `{delivery_id}`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeliveryInPath(pub(crate) WebhookId, pub(crate) JobId);

impl<S: Send + Sync> FromRequestParts<S> for DeliveryInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = named(parts, state, "id").await.and_then(|text| text.parse().ok());
        let id = id.ok_or_else(|| Problem::field("path:id", "must be a UUID"))?;
        let delivery = named(parts, state, "delivery_id").await.and_then(|text| text.parse().ok());
        delivery.map(|delivery| Self(id, delivery)).ok_or_else(|| Problem::field("path:delivery_id", "must be a UUID"))
    }
}

async fn named<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Option<String> {
    let Path(mut all) = Path::<HashMap<String, String>>::from_request_parts(parts, state).await.ok()?;
    all.remove(name)
}

/// The `{queue}` of the path.
#[derive(Clone, Debug)]
pub(crate) struct QueueName(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for QueueName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let malformed = || Problem::field("path:queue", job::QUEUE_NAME);
        let Path(name) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| malformed())?;
        if job::is_queue_name(&name) { Ok(Self(name)) } else { Err(malformed()) }
    }
}
