//! Ids and names in paths: malformed ones are 400; unknown and foreign ids are the handler's 404.

use std::str::FromStr;

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};

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
