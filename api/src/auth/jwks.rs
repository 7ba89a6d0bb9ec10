//! The public keys of who makes the users' tokens: fetched, kept, and fetched again when they change.

use std::{
    error::Error,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use errand_common::config::Config;
use ipnet::IpNet;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use reqwest::{
    Client, StatusCode,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// There is no client to fetch the keys with.
#[derive(Debug, thiserror::Error)]
#[error("no HTTP client could be made for auth.jwks_url: {0}")]
pub struct NoClient(reqwest::Error);

/// Why there is no key.
#[derive(Debug)]
pub(super) enum Missing {
    /// The set has no such key.
    Unknown,
    /// There was no set yet.
    Unavailable,
}

/// The keys that are trusted, each for one algorithm.
#[derive(Debug)]
struct KeySet(Vec<(String, Algorithm, DecodingKey)>);

impl KeySet {
    fn find(&self, kid: &str, algorithm: Algorithm) -> Option<DecodingKey> {
        let found = self.0.iter().find(|(known, its, _)| known == kid && *its == algorithm);
        found.map(|(.., key)| key.clone())
    }
}

/// What is known of the set.
#[derive(Clone, Default, Debug)]
struct Known {
    /// The last that could be fetched.
    keys: Option<Arc<KeySet>>,
    /// How many fetches have ended, one way or another.
    fetches: u64,
    /// When the last of them ended.
    last: Option<Instant>,
}

/// The key set, kept by a task of its own.
#[derive(Debug)]
pub(super) struct Jwks {
    known: watch::Receiver<Known>,
    wanted: Arc<Notify>,
    retry: Duration,
    patience: Duration,
}

impl Jwks {
    pub(super) fn start(
        url: &str,
        config: &Config,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, NoClient> {
        let auth = &config.auth;
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let (publish, known) = watch::channel(Known::default());
        let wanted = Arc::new(Notify::new());
        let keeper = Keeper {
            source: Source::new(url, config)?,
            refresh: seconds(auth.jwks_refresh_seconds),
            retry: seconds(auth.jwks_retry_seconds),
            wanted: wanted.clone(),
            publish,
        };
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = keeper.run() => {}
            }
        });
        // A fetch that is on its way may have to end before the one that is waited for.
        let patience = seconds(auth.jwks_timeout_seconds) * 2;
        Ok(Self { known, wanted, retry: seconds(auth.jwks_retry_seconds), patience })
    }

    /// The key of this name, for this algorithm. One that is not known may be new: the set is fetched again, once for all who
    /// ask, unless that was done just now.
    pub(super) async fn find(&self, kid: &str, algorithm: Algorithm) -> Result<DecodingKey, Missing> {
        let find = |known: &Known| match &known.keys {
            Some(keys) => keys.find(kid, algorithm).ok_or(Missing::Unknown),
            None => Err(Missing::Unavailable),
        };
        let (found, fetches, last) = {
            let known = self.known.borrow();
            (find(&known), known.fetches, known.last)
        };
        if found.is_ok() || last.is_some_and(|last| last.elapsed() < self.retry) {
            return found;
        }
        self.wanted.notify_one();
        let mut known = self.known.clone();
        let fetched = timeout(self.patience, known.wait_for(|known| known.fetches > fetches)).await;
        match fetched {
            Ok(Ok(known)) => find(&known),
            Ok(Err(_)) | Err(_) => found,
        }
    }
}

/// What `auth.jwks_url` has now, for a person who looks for faults: the keys that can be used, each with its algorithm. `None`:
/// it is not set.
///
/// # Errors
/// Why no key came of it.
pub async fn look_at_key_set(config: &Config) -> Option<Result<Vec<String>, String>> {
    let url = config.auth.jwks_url.as_deref()?;
    let look = async {
        let keys = Source::new(url, config).map_err(|error| error.to_string())?.fetch().await?;
        Ok(keys.0.iter().map(|(kid, algorithm, _)| format!("{kid} ({algorithm:?})")).collect())
    };
    Some(look.await)
}

/// Where the set comes from.
struct Source {
    client: Client,
    url: String,
    /// Largest set, in bytes.
    most: usize,
}

impl Source {
    fn new(url: &str, config: &Config) -> Result<Self, NoClient> {
        let most = config.auth.jwks_limit_kib as usize * 1024;
        Ok(Self { client: client(url, config).map_err(NoClient)?, url: url.to_owned(), most })
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let mut response = self.client.get(&self.url).send().await.map_err(|error| innermost(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("the answer is {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| innermost(&error))? {
            if body.len() + chunk.len() > self.most {
                return Err(format!("the answer is larger than auth.jwks_limit_kib, {} KiB", self.most / 1024));
            }
            body.extend_from_slice(&chunk);
        }
        parse(&body)
    }
}

/// Fetches the set, again and again.
struct Keeper {
    source: Source,
    refresh: Duration,
    retry: Duration,
    wanted: Arc<Notify>,
    publish: watch::Sender<Known>,
}

impl Keeper {
    async fn run(self) {
        loop {
            let fetched = self.source.fetch().await;
            let failed = fetched.is_err();
            match &fetched {
                Ok(keys) => tracing::debug!(keys = keys.0.len(), "fetched the keys of users' tokens"),
                Err(reason) => tracing::warn!(reason, "the keys of users' tokens could not be fetched"),
            }
            self.publish.send_modify(|known| {
                known.fetches += 1;
                known.last = Some(Instant::now());
                if let Ok(keys) = fetched {
                    known.keys = Some(Arc::new(keys));
                }
            });
            sleep(self.retry).await;
            if !failed {
                let rest = self.refresh.saturating_sub(self.retry);
                // Whether it is asked for, or time.
                let _ = timeout(rest, self.wanted.notified()).await;
            }
        }
    }
}

/// Without the outer causes, which repeat the URL.
fn innermost(error: &reqwest::Error) -> String {
    let mut reason = if error.is_timeout() { "no answer came in time".to_owned() } else { "no answer came".to_owned() };
    let mut source = Error::source(error);
    while let Some(cause) = source {
        reason = cause.to_string();
        source = cause.source();
    }
    reason
}

/// The keys of a set that can be used: those of other kinds, and for other ends, are left out.
fn parse(body: &[u8]) -> Result<KeySet, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(body).map_err(|_| "the answer is no JWK set".to_owned())?;
    let keys: Vec<_> = set.keys.into_iter().filter_map(usable).collect();
    if keys.is_empty() {
        return Err("the set has no key with a kid for RS256, ES256 or EdDSA".to_owned());
    }
    Ok(KeySet(keys))
}

fn usable(value: Value) -> Option<(String, Algorithm, DecodingKey)> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        // A secret has no place in a public set.
        _ => return None,
    };
    let common = &jwk.common;
    let verifies = common.public_key_use.as_ref().is_none_or(|its| *its == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|its| its.contains(&KeyOperations::Verify))
        && common.key_algorithm.is_none_or(|its| its == named);
    let kid = common.key_id.clone().filter(|_| verifies)?;
    Some((kid, algorithm, DecodingKey::from_jwk(&jwk).ok()?))
}

fn client(url: &str, config: &Config) -> reqwest::Result<Client> {
    let builder = Client::builder()
        .no_proxy()
        // Where it leads next, nobody has said that keys may come from.
        .redirect(Policy::none())
        .timeout(Duration::from_secs(config.auth.jwks_timeout_seconds.into()))
        .user_agent(concat!("errand/", env!("CARGO_PKG_VERSION")));
    if url.starts_with("https:") {
        builder.https_only(true).build()
    } else {
        builder.dns_resolver(Arc::new(Near { allow: config.outbound.allow.clone() })).build()
    }
}

/// Finds addresses that may be spoken to without encryption: of this machine, and those that the operator allows. An address
/// in the URL itself is judged with the configuration.
struct Near {
    allow: Vec<IpNet>,
}

impl Near {
    fn allows(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.allow.iter().any(|network| network.contains(&address))
    }
}

impl Resolve for Near {
    fn resolve(&self, name: Name) -> Resolving {
        let near = Self { allow: self.allow.clone() };
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| near.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err("the name has no address on this machine or in the networks of outbound.allow".into());
            }
            let addresses: Addrs = Box::new(allowed.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ed(fields: &Value) -> Value {
        let mut key =
            json!({"kty": "OKP", "crv": "Ed25519", "kid": "e", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        key.as_object_mut().expect("an object").extend(fields.as_object().expect("fields").clone());
        key
    }

    #[test]
    fn a_key_is_used_for_what_its_type_says_and_strange_ones_are_left_out() {
        let rsa = json!({"kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB"});
        let strange = [
            json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0"}),
            json!({"kty": "EC", "crv": "P-384", "kid": "p", "x": "AA", "y": "AA"}),
            json!({"kty": "EC", "crv": "secp256k1", "kid": "k", "x": "AA", "y": "AA"}),
            json!({"kty": "new", "kid": "n"}),
            json!({"kty": "RSA", "kid": "enc", "use": "enc", "n": "AQAB", "e": "AQAB"}),
            json!({"kty": "RSA", "kid": "pss", "alg": "PS256", "n": "AQAB", "e": "AQAB"}),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
            json!("nonsense"),
        ];
        let keys: Vec<Value> = strange.into_iter().chain([rsa, ed(&json!({"use": "sig", "alg": "EdDSA"}))]).collect();
        let set = parse(json!({ "keys": keys }).to_string().as_bytes()).expect("a set");
        let found: Vec<_> = set.0.iter().map(|(kid, algorithm, _)| (kid.as_str(), *algorithm)).collect();
        assert_eq!(found, [("r", Algorithm::RS256), ("e", Algorithm::EdDSA)]);
        assert!(set.find("r", Algorithm::EdDSA).is_none(), "a key knows one algorithm");
    }

    #[test]
    fn a_set_without_a_key_is_none() {
        for body in ["", "[]", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","kid":"s","k":"c2VjcmV0"}]}"#] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn keys_come_unencrypted_from_near_by_only() {
        let near = Near { allow: vec!["10.1.0.0/16".parse().expect("a network")] };
        let allows = |address: &str| near.allows(address.parse().expect("an address"));
        assert!(allows("127.0.0.1") && allows("::1") && allows("10.1.2.3"));
        assert!(!allows("10.2.0.1") && !allows("8.8.8.8") && !allows("169.254.169.254"));
    }
}
