//! Who makes the tokens of users: keys of every kind, and a server on loopback that publishes them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    hmac,
    rand::SystemRandom,
    rsa::PublicKeyComponents,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The issuer that the tests' tokens name.
pub const ISSUER: &str = "https://id.example.com/";

/// A key of these tests and nothing else: RSA keys take long to find.
const RSA: &str = include_str!("rsa.pem");

/// What signs tokens.
#[derive(Debug)]
pub struct SigningKey {
    kid: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Secret(Vec<u8>),
}

impl SigningKey {
    /// RS256, always the same key.
    ///
    /// # Panics
    /// Never: the key is there.
    #[must_use]
    pub fn rsa(kid: &str) -> Self {
        let base64: String = RSA.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(base64).expect("base64");
        Self::new(kid, Kind::Rsa(Box::new(RsaKeyPair::from_pkcs8(&der).expect("an RSA key"))))
    }

    /// ES256, a new key.
    ///
    /// # Panics
    /// If the machine has no random numbers.
    #[must_use]
    pub fn ec(kid: &str) -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
        Self::new(kid, Kind::Ec(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).expect("a key")))
    }

    /// EdDSA, a new key.
    ///
    /// # Panics
    /// If the machine has no random numbers.
    #[must_use]
    pub fn ed(kid: &str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        Self::new(kid, Kind::Ed(Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("a key")))
    }

    /// HS256.
    #[must_use]
    pub fn secret(kid: &str, secret: &[u8]) -> Self {
        Self::new(kid, Kind::Secret(secret.to_vec()))
    }

    fn new(kid: &str, kind: Kind) -> Self {
        Self { kid: kid.to_owned(), kind }
    }

    /// As `alg` names it.
    #[must_use]
    pub const fn algorithm(&self) -> &'static str {
        match self.kind {
            Kind::Rsa(_) => "RS256",
            Kind::Ec(_) => "ES256",
            Kind::Ed(_) => "EdDSA",
            Kind::Secret(_) => "HS256",
        }
    }

    /// As a set holds it. A secret's too, though none should.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let base64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match &self.kind {
            Kind::Rsa(pair) => {
                let parts = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                json!({"kty": "RSA", "n": base64(&parts.n), "e": base64(&parts.e), "use": "sig"})
            }
            Kind::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": base64(x), "y": base64(y), "alg": "ES256"})
            }
            Kind::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key().as_ref())}),
            Kind::Secret(secret) => json!({"kty": "oct", "k": base64(secret)}),
        };
        jwk["kid"] = json!(self.kid);
        jwk
    }

    /// The public key of an RSA key, as the files that people exchange hold it; nothing for others.
    #[must_use]
    pub fn public_der(&self) -> Vec<u8> {
        match &self.kind {
            Kind::Rsa(pair) => pair.public().as_ref().to_vec(),
            _ => Vec::new(),
        }
    }

    /// A token.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_under(&json!({"alg": self.algorithm(), "typ": "JWT", "kid": self.kid}), claims)
    }

    /// A token with any header, signed by this key all the same.
    ///
    /// # Panics
    /// If the key can't sign.
    #[must_use]
    pub fn sign_under(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let bytes = message.as_bytes();
        let signature = match &self.kind {
            Kind::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), bytes, &mut signature).expect("signed");
                signature
            }
            Kind::Ec(pair) => pair.sign(&SystemRandom::new(), bytes).expect("signed").as_ref().to_vec(),
            Kind::Ed(pair) => pair.sign(bytes).as_ref().to_vec(),
            Kind::Secret(secret) => hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), bytes).as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Seconds of the calendar, so many from now.
#[must_use]
pub fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    i64::try_from(now).unwrap_or(i64::MAX) + seconds
}

/// The claims of a user of the harness's tenant, for an hour.
#[must_use]
pub fn claims(user: &str) -> Value {
    json!({
        "iss": ISSUER,
        "sub": user,
        "email": format!("{user}@example.com"),
        "tenant_id": "dev",
        "iat": in_seconds(0),
        "exp": in_seconds(3_600),
    })
}

/// The same with other fields; null takes one away.
///
/// # Panics
/// If `fields` is no object.
#[must_use]
pub fn claims_with(user: &str, fields: &Value) -> Value {
    let mut claims = claims(user);
    for (name, value) in fields.as_object().expect("fields") {
        claims[name] = value.clone();
    }
    claims.as_object_mut().expect("claims").retain(|_, value| !value.is_null());
    claims
}

/// A server that publishes keys.
#[derive(Debug)]
pub struct IdentityProvider {
    address: SocketAddr,
    state: Arc<State>,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: it fails.
    keys: Mutex<Option<Vec<Value>>>,
    fetches: AtomicU64,
}

impl IdentityProvider {
    /// A server that fails until keys are published.
    ///
    /// # Panics
    /// If there is no port for it.
    pub async fn start() -> Self {
        let state = Arc::new(State::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let answering = state.clone();
        let router = Router::new().route("/keys", get(async move || answering.answer()));
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { address, state, server }
    }

    /// Where the keys are.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    /// The lines of `[auth]` that trust it.
    #[must_use]
    pub fn settings(&self) -> String {
        format!("jwks_url = {:?}\nissuer = {ISSUER:?}\njwks_retry_seconds = 1\nfailures_per_minute = 1000", self.url())
    }

    /// Publishes these keys instead of those before.
    pub fn publish(&self, keys: &[&SigningKey]) {
        *self.state.lock() = Some(keys.iter().map(|key| key.jwk()).collect());
    }

    /// Fails from now on.
    pub fn fail(&self) {
        *self.state.lock() = None;
    }

    /// How often somebody has asked.
    #[must_use]
    pub fn fetches(&self) -> u64 {
        self.state.fetches.load(Ordering::SeqCst)
    }
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Vec<Value>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self) -> Response {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        match &*self.lock() {
            Some(keys) => Json(json!({ "keys": keys })).into_response(),
            None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}
