//! This installation's identity at a gateway: a key that the gateway's operator pairs once, and the token that comes with it.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use errand_common::config::Secret;
use ring::signature::{Ed25519KeyPair, KeyPair};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// What is kept for one gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptDevice {
    /// The private key: 32 bytes, in base64 for URLs.
    pub seed: Secret,
    /// What the gateway gave after pairing.
    pub token: Option<Secret>,
}

/// The identity can't be read or kept now.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DevicesAway(pub String);

/// Where identities are kept. All workers of an installation must share it: gateways pin a device's key and token.
#[async_trait]
pub trait Devices: Send + Sync {
    /// What is kept for `gateway`. If nothing is, keeps a device with the seed `fresh`, unless another worker was first.
    ///
    /// # Errors
    /// If the place where it is kept is away.
    async fn device(&self, gateway: Uuid, fresh: Secret) -> Result<KeptDevice, DevicesAway>;

    /// Keeps the gateway's token beside the key of `seed`, to which it was given, or forgets it. Nothing is written if another
    /// key counts by now: a gateway that moved must not be shown what the former one gave.
    ///
    /// # Errors
    /// If the place where it is kept is away.
    async fn keep_token(&self, gateway: Uuid, seed: &Secret, token: Option<Secret>) -> Result<(), DevicesAway>;
}

/// Identities that end with the process: for a look at a gateway, and for tests.
#[derive(Debug, Default)]
pub struct DevicesInMemory(Mutex<HashMap<Uuid, KeptDevice>>);

#[async_trait]
impl Devices for DevicesInMemory {
    async fn device(&self, gateway: Uuid, fresh: Secret) -> Result<KeptDevice, DevicesAway> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(kept.entry(gateway).or_insert(KeptDevice { seed: fresh, token: None }).clone())
    }

    async fn keep_token(&self, gateway: Uuid, seed: &Secret, token: Option<Secret>) -> Result<(), DevicesAway> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = kept.get_mut(&gateway).filter(|device| device.seed == *seed) {
            device.token = token;
        }
        Ok(())
    }
}

/// A new private key.
pub(crate) fn fresh_seed() -> Secret {
    Secret::new(BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
}

/// How the signed text is written. Gateways that know the third form take the second too; older ones know only that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    V3,
    V2,
}

/// What a signature says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Statement<'a> {
    pub(super) client_id: &'a str,
    pub(super) client_mode: &'a str,
    pub(super) role: &'a str,
    pub(super) scopes: &'a [&'a str],
    /// The challenge's own time, in milliseconds since 1970.
    pub(super) signed_at: i64,
    /// What is sent as a token, or nothing.
    pub(super) token: &'a str,
    /// The challenge's.
    pub(super) nonce: &'a str,
    /// In lower case.
    pub(super) platform: &'a str,
}

/// A key that can sign.
pub(super) struct Device {
    pair: Ed25519KeyPair,
}

impl Device {
    /// `None` if the seed is none.
    pub(super) fn from_seed(seed: &Secret) -> Option<Self> {
        let seed = BASE64_URL_SAFE_NO_PAD.decode(seed.expose()).ok()?;
        Ed25519KeyPair::from_seed_unchecked(&seed).ok().map(|pair| Self { pair })
    }

    /// What the gateway knows it by.
    pub(super) fn id(&self) -> String {
        let digest = Sha256::digest(self.pair.public_key().as_ref());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn public_key(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref())
    }

    pub(super) fn sign(&self, form: Form, statement: &Statement<'_>) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.pair.sign(text(form, &self.id(), statement).as_bytes()).as_ref())
    }
}

/// The signed text. The last part of the third form, the device's family, is empty: a server has none.
fn text(form: Form, id: &str, statement: &Statement<'_>) -> String {
    let Statement { client_id, client_mode, role, scopes, signed_at, token, nonce, platform } = statement;
    let scopes = scopes.join(",");
    let common = format!("{id}|{client_id}|{client_mode}|{role}|{scopes}|{signed_at}|{token}|{nonce}");
    match form {
        Form::V3 => format!("v3|{common}|{platform}|"),
        Form::V2 => format!("v2|{common}"),
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    const STATEMENT: Statement<'_> = Statement {
        client_id: "gateway-client",
        client_mode: "backend",
        role: "operator",
        scopes: &["operator.read", "operator.write"],
        signed_at: 1_795_230_406_287,
        token: "secret",
        nonce: "nonce-1",
        platform: "linux",
    };

    #[test]
    fn the_signed_text_has_its_two_forms() {
        let common = "id|gateway-client|backend|operator|operator.read,operator.write|1795230406287|secret|nonce-1";
        assert_eq!(text(Form::V3, "id", &STATEMENT), format!("v3|{common}|linux|"));
        assert_eq!(text(Form::V2, "id", &STATEMENT), format!("v2|{common}"));
    }

    /// The first test vector of RFC 8032.
    #[test]
    fn a_seed_is_its_key_and_id() {
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49,
            0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
        ];
        let device = Device::from_seed(&Secret::new(BASE64_URL_SAFE_NO_PAD.encode(seed))).expect("a key");
        assert_eq!(device.public_key(), "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!(device.id(), "21fe31dfa154a261626bf854046fd2271b7bed4b6abe45aa58877ef47f9721b9");
    }

    #[test]
    fn a_signature_holds_against_the_public_key() {
        let device = Device::from_seed(&fresh_seed()).expect("a key");
        let public = BASE64_URL_SAFE_NO_PAD.decode(device.public_key()).expect("base64");
        let signature = BASE64_URL_SAFE_NO_PAD.decode(device.sign(Form::V3, &STATEMENT)).expect("base64");
        let signed = text(Form::V3, &device.id(), &STATEMENT);
        UnparsedPublicKey::new(&ED25519, public).verify(signed.as_bytes(), &signature).expect("holds");
        assert!(Device::from_seed(&Secret::new("short".into())).is_none());
    }

    #[tokio::test]
    async fn whoever_comes_first_makes_the_device() {
        let devices = DevicesInMemory::default();
        let (gateway, first, second) = (Uuid::from_u128(1), fresh_seed(), fresh_seed());
        devices.device(gateway, first.clone()).await.expect("kept");
        devices.keep_token(gateway, &first, Some(Secret::new("t".into()))).await.expect("kept");
        devices.keep_token(gateway, &second, Some(Secret::new("another's".into()))).await.expect("passed over");
        let kept = devices.device(gateway, second).await.expect("kept");
        assert_eq!((kept.seed.expose(), kept.token.expect("kept").expose()), (first.expose(), "t"));
    }
}
