//! Who calls: API keys, what they may do, and the limit on failed authentications.

use std::{
    collections::HashMap,
    marker::PhantomData,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use errand_common::{
    domain::ApiKeyId,
    port::{
        Store, StoreError,
        store::{ApiKey, Scope},
    },
    wire::credential,
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{limit, problem::Problem, state::App};

/// Who calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Caller {
    pub(crate) tenant: String,
    pub(crate) key_id: ApiKeyId,
    pub(crate) scopes: Vec<Scope>,
    /// Finds the key again, to see whether it is still valid.
    prefix: String,
}

impl Caller {
    fn of(key: ApiKey) -> Self {
        Self { tenant: key.tenant, key_id: key.id, scopes: key.scopes, prefix: key.prefix }
    }

    /// `admin` stands for everything within the tenant; `fleet` is never implied.
    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || (scope != Scope::Fleet && self.scopes.contains(&Scope::Admin))
    }

    pub(crate) fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.may(scope) {
            return Ok(());
        }
        let detail = format!("This needs the scope {scope}, which the key does not have");
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
    }

    /// Any of these will do.
    fn require_any(&self, scopes: &[Scope]) -> Result<(), Problem> {
        if let [scope] = scopes {
            return self.require(*scope);
        }
        if scopes.iter().any(|scope| self.may(*scope)) {
            return Ok(());
        }
        let names: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
        let detail = format!("This needs one of the scopes {}; the key has neither", names.join(" and "));
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
    }

    /// The owner of what this credential makes.
    pub(crate) fn owner(&self) -> String {
        self.key_id.to_string()
    }
}

/// Callers by the SHA-256 of their key, and since when.
type Remembered = HashMap<[u8; 32], (Instant, Arc<Caller>)>;

/// Whether a credential is good.
pub(crate) struct Keys {
    store: Arc<dyn Store>,
    remembered: Mutex<Remembered>,
    failures: Failures,
}

impl Keys {
    pub(crate) fn new(store: Arc<dyn Store>, failures_per_minute: u32) -> Self {
        Self { store, remembered: Mutex::default(), failures: Failures::new(failures_per_minute) }
    }

    /// Who calls with these headers. Only failures are limited: a good key always passes.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Arc<Caller>, Problem> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Err(Problem::unauthenticated("Send an API key as `Authorization: Bearer errand_…`"));
        };
        match value.to_str().ok().and_then(bearer) {
            Some(token) => self.verify(token, peer).await,
            None => Err(self.refuse(peer, "The Authorization header must be `Bearer` and an API key")),
        }
    }

    /// Who calls with this token.
    pub(crate) async fn verify(&self, token: &str, peer: IpAddr) -> Result<Arc<Caller>, Problem> {
        if !credential::is_key(token) {
            return Err(self.refuse(peer, "This is no API key of Errand"));
        }
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(caller) = self.recall(&digest) {
            return Ok(caller);
        }
        match self.look_up(token).await? {
            Some(caller) => {
                let caller = Arc::new(caller);
                self.remember(digest, caller.clone());
                Ok(caller)
            }
            None => Err(self.refuse(peer, "The API key is unknown or revoked")),
        }
    }

    /// Whether the key behind `caller` has not been revoked.
    pub(crate) async fn still_valid(&self, caller: &Caller) -> Result<bool, StoreError> {
        let keys = self.store.keys_by_prefix(&caller.prefix).await?;
        Ok(keys.iter().any(|key| key.id == caller.key_id && key.revoked_at.is_none()))
    }

    /// Forgets a key, so that this process refuses it at once.
    pub(crate) fn forget(&self, id: ApiKeyId) {
        self.lock().retain(|_, (_, caller)| caller.key_id != id);
    }

    async fn look_up(&self, token: &str) -> Result<Option<Caller>, StoreError> {
        let hash = credential::hash_key(token);
        let candidates = self.store.keys_by_prefix(credential::indexed_prefix(token)).await?;
        let found = candidates
            .into_iter()
            .filter(|key| key.revoked_at.is_none())
            .find(|key| bool::from(key.hash.as_bytes().ct_eq(hash.as_bytes())));
        Ok(found.map(Caller::of))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recall(&self, digest: &[u8; 32]) -> Option<Arc<Caller>> {
        let remembered = self.lock();
        let (since, caller) = remembered.get(digest)?;
        (since.elapsed() < limit::KEY_MEMORY).then(|| caller.clone())
    }

    fn remember(&self, digest: [u8; 32], caller: Arc<Caller>) {
        let mut remembered = self.lock();
        if remembered.len() >= limit::KEYS_REMEMBERED {
            remembered.retain(|_, (since, _)| since.elapsed() < limit::KEY_MEMORY);
        }
        if remembered.len() < limit::KEYS_REMEMBERED {
            remembered.insert(digest, (Instant::now(), caller));
        }
    }

    fn refuse(&self, peer: IpAddr, detail: &'static str) -> Problem {
        match self.failures.count(peer, Instant::now()) {
            Ok(()) => Problem::unauthenticated(detail),
            Err(wait) => Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                format!("More than {} failed authentications a minute from this address", self.failures.per_minute),
            )
            .retry_after(wait.as_secs().max(1)),
        }
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Who counts as one: an IPv4 address, however it is written, or the 64 bits of IPv6 that one customer is given.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Failed authentications, by address and minute.
struct Failures {
    per_minute: u32,
    by_address: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl Failures {
    const WINDOW: Duration = Duration::from_secs(60);

    fn new(per_minute: u32) -> Self {
        Self { per_minute, by_address: Mutex::default() }
    }

    /// Counts one; `Err`: too many, and how long until the next is looked at.
    fn count(&self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        let peer = network(peer);
        let mut counts = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= limit::ADDRESSES_COUNTED && !counts.contains_key(&peer) {
            counts.retain(|_, (since, _)| now.duration_since(*since) < Self::WINDOW);
            if counts.len() >= limit::ADDRESSES_COUNTED {
                return Err(Self::WINDOW);
            }
        }
        let (since, count) = counts.entry(peer).or_insert((now, 0));
        if now.duration_since(*since) >= Self::WINDOW {
            (*since, *count) = (now, 0);
        }
        if *count >= self.per_minute {
            return Err(Self::WINDOW.saturating_sub(now.duration_since(*since)));
        }
        *count += 1;
        Ok(())
    }
}

/// The scopes of which a route asks for one, by type, so that its signature says who may call it.
pub(crate) trait Needs: Send + Sync {
    const ANY_OF: &'static [Scope];
}

macro_rules! needs {
    ($($name:ident = $($scope:ident)|+),+ $(,)?) => {
        $(
            #[derive(Debug)]
            pub(crate) struct $name;
            impl Needs for $name {
                const ANY_OF: &'static [Scope] = &[$(Scope::$scope),+];
            }
        )+
    };
}
needs! { Read = JobsRead, Write = JobsWrite, Cancel = JobsCancel, Approve = Approve, Admin = Admin, Fleet = Fleet, Operate = Admin | Fleet }

/// A caller who has the scope `S`.
#[derive(Debug)]
pub(crate) struct Permit<S>(pub(crate) Arc<Caller>, PhantomData<S>);

impl<S> Deref for Permit<S> {
    type Target = Caller;
    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl<S: Needs> FromRequestParts<Arc<App>> for Permit<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let caller = app.keys.authenticate(&parts.headers, peer(parts)).await?;
        caller.require_any(S::ANY_OF)?;
        Ok(Self(caller, PhantomData))
    }
}

/// The address a request came from.
pub(crate) fn peer(parts: &Parts) -> IpAddr {
    let unknown = IpAddr::from([0, 0, 0, 0]);
    parts.extensions.get::<ConnectInfo<SocketAddr>>().map_or(unknown, |info| info.0.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_stands_for_everything_but_the_fleet() {
        let caller = Caller {
            tenant: "t".into(),
            key_id: ApiKeyId::new(),
            scopes: vec![Scope::Admin],
            prefix: "errand_x".into(),
        };
        for &scope in Scope::ALL {
            assert_eq!(caller.may(scope), scope != Scope::Fleet, "{scope}");
        }
    }

    #[test]
    fn failures_of_one_address_are_limited_and_forgotten_after_a_minute() {
        let failures = Failures::new(2);
        let (start, one, other) = (Instant::now(), IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        assert!(failures.count(one, start).is_ok() && failures.count(one, start).is_ok());
        assert_eq!(failures.count(one, start), Err(Failures::WINDOW));
        assert!(failures.count(other, start).is_ok());
        assert!(failures.count(one, start + Failures::WINDOW).is_ok());
    }

    #[test]
    fn addresses_that_one_client_can_choose_among_count_as_one() {
        let network = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), network("2001:db8:1:2::9"));
        assert_ne!(network("2001:db8:1:2::"), network("2001:db8:1:3::"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
        assert_ne!(network("10.0.0.1"), network("10.0.0.2"));
    }

    #[test]
    fn the_addresses_that_are_counted_are_bounded() {
        let failures = Failures::new(2);
        let start = Instant::now();
        for number in 0..u32::try_from(limit::ADDRESSES_COUNTED).expect("fits") {
            assert!(failures.count(IpAddr::from(number.to_be_bytes()), start).is_ok());
        }
        let stranger = IpAddr::from([192, 0, 2, 1]);
        assert!(failures.count(stranger, start).is_err(), "there is no room to count it");
        assert!(failures.count(stranger, start + Failures::WINDOW).is_ok());
        assert_eq!(failures.by_address.lock().expect("lock").len(), 1);
    }

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_of_its_scheme() {
        assert_eq!(bearer("bearer errand_x"), Some("errand_x"));
        assert_eq!(bearer("Basic errand_x"), None);
        assert_eq!(bearer("errand_x"), None);
    }
}
