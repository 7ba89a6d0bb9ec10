//! Who calls: services with API keys, users with tokens, agents with theirs.
//!
//! * `caller`: what a credential stands for, and what it may do and see.
//! * `key`: API keys; `agent`: agents' tokens; `jwt`, `jwks`, `crypto`: tokens, the keys that sign them, and the mathematics.
//! * `failures`: the limit on failed authentications.
//! * `permit`: how a route asks for a caller; `ticket`: what opens a stream in its place.

mod agent;
mod caller;
mod crypto;
mod failures;
mod jwks;
mod jwt;
mod key;
mod permit;
mod ticket;

use std::{
    borrow::Cow,
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, header};
use errand_common::{
    config::Config,
    domain::ApiKeyId,
    port::{Store, StoreError},
    wire::credential,
};
use sha2::{Digest, Sha256};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::jwks::{NoClient, look_at_key_set};
use self::{agent::Agents, caller::Identity, failures::Failures, jwt::Tokens, key::Keys};
pub(crate) use self::{
    agent::{AgentCaller, Anyone},
    caller::Caller,
    permit::{Admin, Answer, Approve, Cancel, Fleet, Look, Operate, Permit, Read, Write, peer},
};
use crate::{limit, problem::Problem};

/// Why a credential was not taken.
enum Unverified {
    /// It is no good; counted as a failed authentication.
    Refused(Cow<'static, str>),
    /// It could not be judged.
    Unknown(Problem),
}

impl Unverified {
    const fn refused(detail: &'static str) -> Self {
        Self::Refused(Cow::Borrowed(detail))
    }
}

impl From<StoreError> for Unverified {
    fn from(error: StoreError) -> Self {
        Self::Unknown(error.into())
    }
}

/// Callers by the SHA-256 of their credential, and until when they are believed without another look.
type Remembered = HashMap<[u8; 32], (Instant, Arc<Caller>)>;

/// Whether a credential is good.
pub(crate) struct Authenticator {
    keys: Keys,
    agents: Agents,
    tokens: Option<Tokens>,
    remembered: Mutex<Remembered>,
    failures: Failures,
    store: Arc<dyn Store>,
}

impl Authenticator {
    /// Where tokens are verified by a set of keys, that is fetched from now on until `stop`.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        config: &Config,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, NoClient> {
        Ok(Self {
            agents: Agents::new(store.clone()),
            keys: Keys::new(store.clone()),
            store,
            tokens: Tokens::start(config, tasks, stop)?,
            remembered: Mutex::default(),
            failures: Failures::new(config.auth.failures_per_minute),
        })
    }

    /// Who calls with these headers. Only failures are limited: a good credential always passes.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Arc<Caller>, Problem> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Err(Problem::unauthenticated(match self.tokens {
                Some(_) => "Send an API key or a user's token as `Authorization: Bearer …`",
                None => "Send an API key as `Authorization: Bearer errand_…`",
            }));
        };
        match value.to_str().ok().and_then(bearer) {
            Some(credential) => self.verify(credential, peer).await,
            None => {
                let detail = "The Authorization header must be `Bearer` and an API key or a user's token";
                Err(self.failures.refuse(peer, detail.into()))
            }
        }
    }

    /// Who calls with this credential.
    pub(crate) async fn verify(&self, credential: &str, peer: IpAddr) -> Result<Arc<Caller>, Problem> {
        let digest: [u8; 32] = Sha256::digest(credential.as_bytes()).into();
        if let Some(caller) = self.recall(&digest) {
            return Ok(caller);
        }
        match self.judge(credential).await {
            Ok(caller) => {
                let caller = Arc::new(caller);
                self.remember(digest, caller.clone());
                Ok(caller)
            }
            Err(Unverified::Refused(detail)) => Err(self.failures.refuse(peer, detail)),
            Err(Unverified::Unknown(problem)) => Err(problem),
        }
    }

    async fn judge(&self, credential: &str) -> Result<Caller, Unverified> {
        if credential::is_key(credential) {
            return self.keys.verify(credential).await;
        }
        match &self.tokens {
            Some(tokens) if jwt::has_its_form(credential) => tokens.verify(credential).await,
            Some(_) => Err(Unverified::refused("This is neither an API key of Errand nor a user's token (a JWT)")),
            None if jwt::has_its_form(credential) => Err(Unverified::refused(
                "This Errand takes no users' tokens, only API keys: auth.jwt_secret or auth.jwks_url would have to be set",
            )),
            None => Err(Unverified::refused("This is no API key of Errand")),
        }
    }

    /// Whether the credential behind `caller` has neither been revoked nor expired.
    pub(crate) async fn still_valid(&self, caller: &Caller) -> Result<bool, StoreError> {
        match caller.identity() {
            Identity::Key { id, prefix } => self.keys.is_valid(*id, prefix).await,
            Identity::User { until, .. } => Ok(tokio::time::Instant::now() < *until),
            Identity::Agent { id, token_hash } => self.agents.is_valid(*id, token_hash).await,
        }
    }

    /// Forgets a key, so that this process refuses it at once.
    pub(crate) fn forget(&self, id: ApiKeyId) {
        self.lock()
            .retain(|_, (_, caller)| !matches!(caller.identity(), Identity::Key { id: known, .. } if *known == id));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recall(&self, digest: &[u8; 32]) -> Option<Arc<Caller>> {
        let remembered = self.lock();
        let (until, caller) = remembered.get(digest)?;
        (Instant::now() < *until).then(|| caller.clone())
    }

    fn remember(&self, digest: [u8; 32], caller: Arc<Caller>) {
        let now = Instant::now();
        let until = now + believed_for(&caller);
        let mut remembered = self.lock();
        if remembered.len() >= limit::CREDENTIALS_REMEMBERED {
            remembered.retain(|_, (until, _)| now < *until);
        }
        if remembered.len() < limit::CREDENTIALS_REMEMBERED {
            remembered.insert(digest, (until, caller));
        }
    }
}

/// How long a decision holds: never longer than the credential.
fn believed_for(caller: &Caller) -> Duration {
    match caller.identity() {
        Identity::Key { .. } | Identity::Agent { .. } => limit::KEY_MEMORY,
        Identity::User { until, .. } => {
            limit::TOKEN_MEMORY.min(until.saturating_duration_since(tokio::time::Instant::now()))
        }
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, credential) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_of_its_scheme() {
        assert_eq!(bearer("bearer errand_x"), Some("errand_x"));
        assert_eq!(bearer("Basic errand_x"), None);
        assert_eq!(bearer("errand_x"), None);
    }

    #[test]
    fn a_decision_is_remembered_no_longer_than_its_token_lives() {
        let until = |seconds| tokio::time::Instant::now() + Duration::from_secs(seconds);
        assert!(believed_for(&Caller::user_for_tests("u", &[], until(3))) <= Duration::from_secs(3));
        assert_eq!(believed_for(&Caller::user_for_tests("u", &[], until(86_400))), limit::TOKEN_MEMORY);
        assert_eq!(believed_for(&Caller::key_for_tests(&[])), limit::KEY_MEMORY);
    }
}
