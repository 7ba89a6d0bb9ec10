//! The payload of a `webhook` job, and how a delivery is signed: by Standard Webhooks.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use rand::RngExt;
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::{http::target, place};
use crate::{
    domain::{Timestamp, WebhookEvent, WebhookEventId, WebhookId},
    vault::{Purpose, Vault, VaultError},
};

/// The kind's name.
pub const KIND: &str = "webhook";
/// Version of the payload. Grows when an older worker would misread a newer payload.
pub const VERSION: u32 = 1;

/// Where deliveries go to be made.
pub const QUEUE: &str = "default";

/// Code of a delivery whose receiver said 410: the endpoint is disabled with it.
pub const GONE: &str = "GONE";
/// Code of a delivery that failed after its endpoint had failed for too long: the endpoint is disabled with it.
pub const FAILING_TOO_LONG: &str = "FAILING_TOO_LONG";
/// Code of a delivery that was not tried: its endpoint is disabled.
pub const ENDPOINT_DISABLED: &str = "ENDPOINT_DISABLED";
/// Code of a delivery that was not tried: its endpoint is not there any more.
pub const ENDPOINT_REMOVED: &str = "ENDPOINT_REMOVED";

/// What a delivery brings to whom. Additive only: new fields need a default.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WebhookPayload {
    /// To whom.
    pub endpoint_id: WebhookId,
    /// What.
    pub event: WebhookEvent,
}

/// Longest URL, in bytes.
const URL_BYTES: usize = 2_048;

/// The URL as it is kept.
///
/// # Errors
/// What is wrong with it, and what is allowed. An address behind a name is judged when it is called.
pub fn check_url(text: &str, allow: &[IpNet]) -> Result<String, String> {
    let text = text.trim();
    if text.len() > URL_BYTES {
        return Err(format!("may take {URL_BYTES} bytes at most"));
    }
    let url =
        target(text).map_err(|why| why.replace("send an Authorization header instead", "put a token into the path"))?;
    place::check(&url, allow).map_err(|refused| refused.to_string())?;
    Ok(text.to_owned())
}

/// How a secret begins.
const PREFIX: &str = "whsec_";

/// What signs deliveries: `whsec_` and, in base64, 24 to 64 bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WebhookSecret(String);

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

impl WebhookSecret {
    /// What is allowed.
    pub const FORM: &str = "must be whsec_ followed by 24 to 64 bytes in base64";

    /// A new one of 32 bytes.
    #[must_use]
    pub fn generate() -> Self {
        let bytes: [u8; 32] = rand::rng().random();
        Self(format!("{PREFIX}{}", STANDARD.encode(bytes)))
    }

    /// One that a client brings. `None`: it has another form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let secret = Self(text.trim().to_owned());
        secret.key().is_some_and(|key| (24..=64).contains(&key.len())).then_some(secret)
    }

    /// As it is shown to its owner, once.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn key(&self) -> Option<Vec<u8>> {
        STANDARD.decode(self.0.strip_prefix(PREFIX)?).ok()
    }

    fn sign(&self, signed: &[u8]) -> Option<String> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.key()?);
        Some(format!("v1,{}", STANDARD.encode(hmac::sign(&key, signed))))
    }
}

/// The secrets of an endpoint: more than one while the former still signs beside the new one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secrets(Vec<Kept>);

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Kept {
    secret: WebhookSecret,
    /// Until when it signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

impl Secrets {
    /// Most that sign at the same time: what is rotated faster loses the oldest.
    const MOST: usize = 4;

    /// One.
    #[must_use]
    pub fn new(secret: WebhookSecret) -> Self {
        Self(vec![Kept { secret, until: None }])
    }

    /// The new one signs from now on, those before it beside it until then.
    #[must_use]
    pub fn rotated(self, new: WebhookSecret, now: Timestamp, until: Timestamp) -> Self {
        let former = self.0.into_iter().filter(|kept| kept.until.is_none_or(|end| end > now));
        let former = former.map(|kept| Kept { until: Some(kept.until.map_or(until, |end| end.min(until))), ..kept });
        let all =
            std::iter::once(Kept { secret: new, until: None }).chain(former.filter(|kept| kept.until > Some(now)));
        Self(all.take(Self::MOST).collect())
    }

    /// Sealed for an endpoint.
    #[must_use]
    pub fn seal(&self, vault: &Vault, id: WebhookId) -> String {
        vault.seal(Purpose::WebhookSecrets(id), &serde_json::to_string(self).unwrap_or_default())
    }

    /// Opened again.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn open(sealed: &str, vault: &Vault, id: WebhookId) -> Result<Self, VaultError> {
        let text = vault.open(Purpose::WebhookSecrets(id), sealed)?;
        serde_json::from_str(&text).map_err(|_| VaultError::Damaged)
    }

    /// The value of `webhook-signature`: one signature for each secret that signs now, the newest first.
    #[must_use]
    pub fn signature(&self, id: WebhookEventId, now: Timestamp, body: &str) -> String {
        let signed = format!("{id}.{}.{body}", seconds(now));
        let live = self.0.iter().filter(|kept| kept.until.is_none_or(|until| until > now));
        let signatures: Vec<_> = live.filter_map(|kept| kept.secret.sign(signed.as_bytes())).collect();
        signatures.join(" ")
    }
}

/// The value of `webhook-timestamp`: of the attempt, in seconds since 1970.
#[must_use]
pub const fn seconds(now: Timestamp) -> i64 {
    now.micros() / 1_000_000
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::vault::SealingKey;

    #[test]
    fn the_first_shipped_version_still_decodes() {
        let payload: WebhookPayload =
            serde_json::from_str(include_str!("golden/webhook.v1.json")).expect("golden payload");
        assert_eq!(
            (payload.event.r#type.as_str(), &payload.event.data["state"]),
            ("job.completed", &"completed".into())
        );
    }

    #[test]
    fn a_signature_is_that_of_the_specification() {
        // The example of the specification's own libraries.
        let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("its form is right");
        let signed = b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        assert_eq!(secret.sign(signed).as_deref(), Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="));
    }

    #[test]
    fn a_secret_has_its_form_and_is_not_shown() {
        assert!(WebhookSecret::parse(WebhookSecret::generate().expose()).is_some());
        let of = |bytes: usize| format!("{PREFIX}{}", STANDARD.encode(vec![7; bytes]));
        assert!(WebhookSecret::parse(&of(24)).is_some() && WebhookSecret::parse(&of(64)).is_some());
        for wrong in [of(23), of(65), "whsec_".to_owned(), "whsec_!".to_owned(), STANDARD.encode([7; 32])] {
            assert!(WebhookSecret::parse(&wrong).is_none(), "{wrong}");
        }
        let shown = format!("{:?}", Secrets::new(WebhookSecret::generate()));
        assert!(!shown.contains(PREFIX), "{shown}");
    }

    #[test]
    fn a_former_secret_signs_beside_the_new_one_until_its_end() {
        let now = Timestamp::from_micros(1_700_000_000_000_000);
        let (first, second) = (WebhookSecret::generate(), WebhookSecret::generate());
        let until = now.plus(Duration::from_secs(60));
        let id = WebhookEventId::new();
        let only = |secret: &WebhookSecret, at| Secrets::new(secret.clone()).signature(id, at, "{}");
        let both = Secrets::new(first.clone()).rotated(second.clone(), now, until);
        assert_eq!(both.signature(id, now, "{}"), format!("{} {}", only(&second, now), only(&first, now)));
        assert_eq!(both.signature(id, until, "{}"), only(&second, until), "its time is over");
        // Without overlap the former is gone at once.
        let one = both.rotated(first.clone(), now, now);
        assert_eq!(one.signature(id, now, "{}"), only(&first, now));
    }

    #[test]
    fn secrets_are_sealed_for_their_endpoint() {
        let vault = Vault::new(SealingKey::parse(&SealingKey::generate()).expect("its own form"), vec![]);
        let (id, secrets) = (WebhookId::new(), Secrets::new(WebhookSecret::generate()));
        let sealed = secrets.seal(&vault, id);
        assert_eq!(Secrets::open(&sealed, &vault, id), Ok(secrets));
        assert_eq!(Secrets::open(&sealed, &vault, WebhookId::new()), Err(VaultError::Damaged));
    }
}
