//! `Idempotency-Key`: the same request again gets the same answer.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use axum::{
    Json,
    extract::FromRequestParts,
    http::{HeaderName, HeaderValue, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use errand_common::port::store::{IdempotencyRecord, StoredAnswer};
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use crate::{auth::Caller, limit, problem::Problem, state::App};

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The header, with the request line it came with.
#[derive(Clone, Debug)]
pub(crate) struct IdempotencyKey {
    key: Option<String>,
    request: String,
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let key = parts.headers.get("idempotency-key").map(|value| checked(value.as_bytes())).transpose()?;
        let target = parts.uri.path_and_query().map_or(parts.uri.path(), |target| target.as_str());
        Ok(Self { key, request: format!("{} {target}", parts.method) })
    }
}

fn checked(value: &[u8]) -> Result<String, Problem> {
    let fits = (1..=limit::IDEMPOTENCY_KEY_CHARS).contains(&value.len()) && value.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(value).ok().filter(|_| fits).map(str::to_owned).ok_or_else(|| {
        let limit = limit::IDEMPOTENCY_KEY_CHARS;
        Problem::field("header:Idempotency-Key", format!("must be 1 to {limit} visible ASCII characters"))
    })
}

impl IdempotencyKey {
    /// With the caller and the body it came with; `None` if the client sent no key.
    pub(crate) fn bind(self, caller: &Caller, digest: [u8; 32]) -> Option<Bound> {
        let mut fingerprint = self.request;
        fingerprint.push(' ');
        for byte in digest {
            let _ = write!(fingerprint, "{byte:02x}");
        }
        Some(Bound { tenant: caller.tenant.clone(), owner: caller.owner(), key: self.key?, fingerprint })
    }
}

/// A key whose request calls the outside before anything can be kept.
pub(crate) struct Begun {
    key: IdempotencyKey,
    /// The answer given before, whoever asked.
    stored: Option<StoredAnswer>,
    /// Equal keys are refused as long as this is held.
    _turn: Option<OwnedMutexGuard<()>>,
}

impl IdempotencyKey {
    /// Refuses a key that is in use here now. Two processes may both call the outside for one key; what they keep is one answer.
    pub(crate) async fn begin(self, app: &App, caller: &Caller) -> Result<Begun, Problem> {
        let Some(key) = self.key.clone() else { return Ok(Begun { key: self, stored: None, _turn: None }) };
        let scope = (caller.tenant.clone(), caller.owner(), key);
        let turn = app.joined.lock_of(scope.clone()).try_lock_owned().map_err(|_| in_flight())?;
        let stored = app.backend.store.recall(&scope.0, &scope.1, &scope.2).await?;
        Ok(Begun { key: self, stored, _turn: Some(turn) })
    }
}

impl Begun {
    /// Nothing needs to be done but to see whether it is the same request.
    pub(crate) const fn is_answered(&self) -> bool {
        self.stored.is_some()
    }

    /// Once the body is known: the key to keep the answer under, if the client sent one, and the answer given before.
    pub(crate) fn known(
        self,
        caller: &Caller,
        digest: [u8; 32],
    ) -> Result<(Option<Bound>, Option<StoredAnswer>), Problem> {
        let bound = self.key.bind(caller, digest);
        let stored = match (&bound, self.stored) {
            (Some(bound), Some(stored)) => Some(bound.same_request(stored)?),
            _ => None,
        };
        Ok((bound, stored))
    }
}

/// 409: the same key is being worked on.
fn in_flight() -> Problem {
    let detail = "A request with this Idempotency-Key is still being worked on";
    Problem::new(StatusCode::CONFLICT, "idempotency_in_flight", detail).retry_after(limit::RETRY_AFTER_SECONDS)
}

/// A key with all that tells it from others.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    tenant: String,
    owner: String,
    key: String,
    fingerprint: String,
}

impl Bound {
    /// What to keep with the answer.
    pub(crate) fn record(&self, app: &App, status: StatusCode, answer: Value) -> IdempotencyRecord {
        let kept = Duration::from_secs(u64::from(app.config.retention.idempotency_hours) * 3_600);
        IdempotencyRecord {
            tenant: self.tenant.clone(),
            owner: self.owner.clone(),
            key: self.key.clone(),
            fingerprint: self.fingerprint.clone(),
            status: status.as_u16(),
            answer,
            expires_at: app.now().plus(kept),
        }
    }

    /// The answer given before, if there is one for this request.
    pub(crate) async fn recall(&self, app: &App) -> Result<Option<StoredAnswer>, Problem> {
        let stored = app.backend.store.recall(&self.tenant, &self.owner, &self.key).await?;
        stored.map(|answer| self.same_request(answer)).transpose()
    }

    /// Refuses an answer that was given to another request.
    pub(crate) fn same_request(&self, stored: StoredAnswer) -> Result<StoredAnswer, Problem> {
        if stored.fingerprint == self.fingerprint { Ok(stored) } else { Err(mismatch()) }
    }
}

/// Requests with equal keys, one after the other, so that the second finds the answer of the first. Submissions are
/// joined by the store itself; this is for what is done first and written down afterwards.
#[derive(Debug, Default)]
pub(crate) struct Joined(Mutex<HashMap<Scope, Weak<tokio::sync::Mutex<()>>>>);

/// Tenant, owner, key.
type Scope = (String, String, String);

impl Joined {
    /// Waits for the requests with this key that came before; hold what it returns until the answer is kept.
    pub(crate) async fn turn(&self, bound: &Bound) -> OwnedMutexGuard<()> {
        self.lock_of((bound.tenant.clone(), bound.owner.clone(), bound.key.clone())).lock_owned().await
    }

    fn lock_of(&self, scope: Scope) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        let known = locks.get(&scope).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let lock = Arc::default();
            locks.insert(scope, Arc::downgrade(&lock));
            lock
        })
    }
}

/// Does something once a key, and answers with what came of it. Only what was done is kept: a refusal is judged anew.
pub(crate) async fn once(
    app: &App,
    key: Option<&Bound>,
    act: impl AsyncFnOnce() -> Result<Value, Problem>,
) -> Result<Response, Problem> {
    let act = async || act().await.map(|answer| (answer.clone(), answer));
    once_with_secret(app, key, act).await
}

/// As [`once`], for an answer that holds a secret: `act` gives it, and what is kept of it.
pub(crate) async fn once_with_secret(
    app: &App,
    key: Option<&Bound>,
    act: impl AsyncFnOnce() -> Result<(Value, Value), Problem>,
) -> Result<Response, Problem> {
    let Some(key) = key else { return Ok(Json(act().await?.0).into_response()) };
    let _turn = app.joined.turn(key).await;
    if let Some(stored) = key.recall(app).await? {
        return Ok(replayed(Json(stored.answer).into_response()));
    }
    let (answer, kept) = act().await?;
    match app.backend.store.remember(key.record(app, StatusCode::OK, kept)).await? {
        Some(stored) => Ok(replayed(Json(key.same_request(stored)?.answer).into_response())),
        None => Ok(Json(answer).into_response()),
    }
}

/// 422: the key belongs to another request.
pub(crate) fn mismatch() -> Problem {
    let detail = "This Idempotency-Key was used for another request: another method, path or body";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_mismatch", detail)
        .with("header:Idempotency-Key", "use a new key for a new request")
}

/// Marks an answer as given before.
pub(crate) fn replayed(mut response: Response) -> Response {
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_could_be_misread_are_refused() {
        for key in [&b""[..], b"two words", "größe".as_bytes(), &[b'k'; 256]] {
            assert_eq!(checked(key).expect_err("refused").errors[0].pointer, "header:Idempotency-Key");
        }
        assert_eq!(checked(&[b'k'; 255]).expect("fits").len(), 255);
    }
}
