//! Secrets that must come back: what gateways are shown, who we are to them, an agent's token on its way. They are kept sealed, by
//! keys that lie elsewhere, and each for one purpose: what was sealed for one thing opens for no other.
//!
//! A sealed text is `1.{key's id}.{nonce, ciphertext and tag in base64url}`, by ChaCha20-Poly1305. The first key seals and all open,
//! so that a key can be replaced: first every process gets the new one, last in its list; then it is put first, so that it seals; the
//! old one is taken away once nothing names it any more.
//!
//! The keys also sign what must come back unchanged; a signing key is derived from each, so that neither use tells of the other.

use std::fmt;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rand::RngExt;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
};

use crate::domain::{AgentId, GatewayId, InstanceId, WebhookId};

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// The form of what is sealed.
const FORM: &str = "1";
/// What signing keys are derived by.
const SIGNING: &[u8] = b"errand signing key 1";

/// What a secret is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// What a gateway is shown.
    GatewayToken(GatewayId),
    /// The identity that is shown to a gateway, and what it was given for that.
    Device(GatewayId),
    /// An agent's token on its way into its gateway.
    AgentToken(AgentId),
    /// What signs the bodies of an instance's callbacks.
    CallbackSecret(InstanceId),
    /// What signs the deliveries to an endpoint.
    WebhookSecrets(WebhookId),
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GatewayToken(id) => write!(f, "gateway token {id}"),
            Self::Device(id) => write!(f, "gateway device {id}"),
            Self::AgentToken(id) => write!(f, "agent token {id}"),
            Self::CallbackSecret(id) => write!(f, "callback secret {id}"),
            Self::WebhookSecrets(id) => write!(f, "webhook secrets {id}"),
        }
    }
}

/// Why a sealed text does not open. Says nothing of what is in it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VaultError {
    /// It is not of this form, was changed, or was sealed for something else.
    #[error("a sealed secret can't be opened: it is damaged, or was sealed for something else")]
    Damaged,
    /// The key is not there.
    #[error("a secret is sealed by the key {0:?}, which [secrets] keys lacks")]
    UnknownKey(String),
}

/// One key with its name.
pub struct SealingKey {
    id: String,
    key: LessSafeKey,
    signing: hmac::Key,
}

impl SealingKey {
    /// From `id:base64`: the id of 1 to 32 of `A-Z a-z 0-9 _ -`, the key of 32 bytes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, key) = text.split_once(':')?;
        let is_name = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
        if !(1..=32).contains(&id.len()) || !id.bytes().all(is_name) {
            return None;
        }
        let bytes = STANDARD.decode(key.trim()).ok().filter(|bytes| bytes.len() == KEY_BYTES)?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).ok()?;
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), SIGNING);
        let signing = hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref());
        Some(Self { id: id.to_owned(), key: LessSafeKey::new(key), signing })
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A new one, under a name that no other has, as text that [`SealingKey::parse`] reads.
    #[must_use]
    pub fn generate() -> String {
        let (name, bytes): (u64, [u8; KEY_BYTES]) = (rand::rng().random(), rand::rng().random());
        format!("made-{name:016x}:{}", STANDARD.encode(bytes))
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({:?})", self.id)
    }
}

/// Seals and opens secrets.
#[derive(Debug)]
pub struct Vault {
    first: SealingKey,
    others: Vec<SealingKey>,
}

impl Vault {
    /// `first` seals; all open.
    #[must_use]
    pub const fn new(first: SealingKey, others: Vec<SealingKey>) -> Self {
        Self { first, others }
    }

    /// Seals a secret for one purpose.
    #[must_use]
    pub fn seal(&self, purpose: Purpose, secret: &str) -> String {
        let nonce: [u8; NONCE_LEN] = rand::rng().random();
        let mut sealed = secret.as_bytes().to_vec();
        self.first
            .key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(purpose.to_string().as_bytes()),
                &mut sealed,
            )
            .expect("a secret is shorter than 256 GiB");
        let whole = [nonce.as_slice(), &sealed].concat();
        format!("{FORM}.{}.{}", self.first.id, URL_SAFE_NO_PAD.encode(whole))
    }

    /// Opens what was sealed for the same purpose.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn open(&self, purpose: Purpose, sealed: &str) -> Result<String, VaultError> {
        let mut parts = sealed.splitn(3, '.');
        let (Some(FORM), Some(id), Some(text)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(VaultError::Damaged);
        };
        let key = self.key(id).ok_or_else(|| VaultError::UnknownKey(id.to_owned()))?;
        let whole = URL_SAFE_NO_PAD.decode(text).map_err(|_| VaultError::Damaged)?;
        let (nonce, rest) = whole.split_at_checked(NONCE_LEN).ok_or(VaultError::Damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| VaultError::Damaged)?;
        let mut rest = rest.to_vec();
        let aad = Aad::from(purpose.to_string().into_bytes());
        let opened = key.key.open_in_place(nonce, aad, &mut rest).map_err(|_| VaultError::Damaged)?;
        String::from_utf8(opened.to_vec()).map_err(|_| VaultError::Damaged)
    }

    /// The id of the key that signs what is new.
    #[must_use]
    pub fn signing_key(&self) -> &str {
        &self.first.id
    }

    /// HMAC-SHA256 of a text by the key with this id. `None`: it is not there.
    #[must_use]
    pub fn sign(&self, id: &str, text: &str) -> Option<Vec<u8>> {
        self.key(id).map(|key| hmac::sign(&key.signing, text.as_bytes()).as_ref().to_vec())
    }

    /// Whether that is the signature; in constant time.
    #[must_use]
    pub fn verifies(&self, id: &str, text: &str, signature: &[u8]) -> bool {
        self.key(id).is_some_and(|key| hmac::verify(&key.signing, text.as_bytes(), signature).is_ok())
    }

    fn key(&self, id: &str) -> Option<&SealingKey> {
        std::iter::once(&self.first).chain(&self.others).find(|key| key.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str, byte: u8) -> SealingKey {
        SealingKey::parse(&format!("{id}:{}", STANDARD.encode([byte; KEY_BYTES]))).expect("a key")
    }

    #[test]
    fn what_is_sealed_opens_for_its_purpose_alone() {
        let vault = Vault::new(key("a", 1), vec![]);
        let (mine, other) = (Purpose::GatewayToken(GatewayId::new()), Purpose::GatewayToken(GatewayId::new()));
        let sealed = vault.seal(mine, "hunter2");
        assert!(sealed.starts_with("1.a.") && !sealed.contains("hunter2"));
        assert_ne!(sealed, vault.seal(mine, "hunter2"), "two seals of one secret don't show that it is one");
        assert_eq!(vault.open(mine, &sealed).as_deref(), Ok("hunter2"));
        assert_eq!(vault.open(other, &sealed), Err(VaultError::Damaged));
        let Purpose::GatewayToken(id) = mine else { unreachable!("it is one") };
        assert_eq!(vault.open(Purpose::Device(id), &sealed), Err(VaultError::Damaged));
    }

    #[test]
    fn what_was_changed_does_not_open() {
        let vault = Vault::new(key("a", 1), vec![]);
        let purpose = Purpose::AgentToken(AgentId::new());
        let sealed = vault.seal(purpose, "");
        assert_eq!(vault.open(purpose, &sealed).as_deref(), Ok(""));
        let last = sealed.chars().next_back().expect("not empty");
        // The last character but one: the last holds bits that mean nothing.
        let at = sealed.len() - 2;
        let other = if &sealed[at..=at] == "A" { "B" } else { "A" };
        let changed = format!("{}{other}{last}", &sealed[..at]);
        for text in [changed.as_str(), "1.a.", "1.a.AAAA", "2.a.AAAA", "", "1.a", "1.a.!!"] {
            assert_eq!(vault.open(purpose, text), Err(VaultError::Damaged), "{text}");
        }
    }

    #[test]
    fn a_key_can_be_replaced() {
        let purpose = Purpose::Device(GatewayId::new());
        let old = Vault::new(key("old", 1), vec![]).seal(purpose, "x");
        let both = Vault::new(key("new", 2), vec![key("old", 1)]);
        assert_eq!(both.open(purpose, &old).as_deref(), Ok("x"));
        let new = both.seal(purpose, "y");
        let rotated = Vault::new(key("new", 2), vec![]);
        assert_eq!(rotated.open(purpose, &new).as_deref(), Ok("y"));
        assert_eq!(rotated.open(purpose, &old), Err(VaultError::UnknownKey("old".to_owned())));
        let impostor = Vault::new(key("new", 3), vec![]);
        assert_eq!(impostor.open(purpose, &new), Err(VaultError::Damaged), "another key of that name");
    }

    #[test]
    fn keys_have_a_form_and_are_never_shown() {
        let made = SealingKey::generate();
        assert!(SealingKey::parse(&made).expect("its own form").id().starts_with("made-"));
        let secret = STANDARD.encode([7; KEY_BYTES]);
        for wrong in
            [secret.clone(), format!(":{secret}"), format!("a b:{secret}"), "a:AAAA".to_owned(), "a:!".to_owned()]
        {
            assert!(SealingKey::parse(&wrong).is_none(), "{wrong}");
        }
        let vault = Vault::new(key("a", 7), vec![key("b", 8)]);
        let shown = format!("{vault:?}");
        assert!(shown.contains("\"a\"") && !shown.contains(&secret) && !shown.contains('7'), "{shown}");
    }
}
