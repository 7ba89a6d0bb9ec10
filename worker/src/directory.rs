//! Gateways by their rows: from what the store keeps of one to the client that calls it.

use std::sync::Arc;

use async_trait::async_trait;
use errand_common::{
    backend::Backend,
    config::{Config, Secret},
    domain::{FailureClass, GatewayId, coordination},
    port::StoreError,
    vault::{Purpose, VaultError},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::gateway::{
    Access, Devices, DevicesAway, Gateway, GatewayFailure, Gateways, KeptDevice, Settings, Target, fresh_seed,
};

/// How often a device's new token is put beside its key before another worker's is left to stand.
const TRIES: usize = 3;

/// All gateways that this worker's jobs may name.
pub(crate) struct Directory {
    backend: Backend,
    gateways: Gateways,
}

impl Directory {
    /// Without any connection yet. Must be called within a runtime.
    pub(crate) fn new(backend: &Backend, config: &Config) -> Arc<Self> {
        let devices = Arc::new(StoredDevices { backend: backend.clone() });
        Arc::new(Self { backend: backend.clone(), gateways: Gateways::new(Settings::new(config), devices) })
    }

    /// The client of a gateway, without connecting yet.
    ///
    /// # Errors
    /// What is wrong with the row, or that this worker has as many connections as it may have.
    pub(crate) fn client(&self, row: &coordination::Gateway) -> Result<Gateway, GatewayFailure> {
        let token = row.token.as_deref().map(|sealed| self.backend.vault.open(Purpose::GatewayToken(row.id), sealed));
        let token = token.transpose().map_err(|error| sealed(&error))?;
        let access = if row.disable_device_pairing { Access::ControlUi } else { Access::Device };
        let target = Target::new(row.id.uuid(), &row.url, token.map(Secret::new), access, row.allow_insecure_tls)
            .map_err(|fault| unusable("GATEWAY_URL", format!("the url of the gateway {fault}")))?;
        self.gateways.gateway(&target).map_err(|unanswered| unanswered.failure().clone())
    }
}

/// What sealed it may be known to this worker soon: keys are replaced while workers run.
fn sealed(error: &VaultError) -> GatewayFailure {
    let failure = unusable("GATEWAY_SECRET", error.to_string());
    match error {
        VaultError::UnknownKey(_) => GatewayFailure { class: FailureClass::Transient, ..failure },
        VaultError::Damaged => failure,
    }
}

fn unusable(code: &'static str, message: String) -> GatewayFailure {
    GatewayFailure { class: FailureClass::Fatal, code, message, retry_after: None, details: Value::Null }
}

/// Identities in the store, sealed.
struct StoredDevices {
    backend: Backend,
}

impl StoredDevices {
    fn seal(&self, gateway: GatewayId, device: &KeptDevice) -> String {
        let token = device.token.as_ref().map(Secret::expose);
        let text = json!({"seed": device.seed.expose(), "token": token}).to_string();
        self.backend.vault.seal(Purpose::Device(gateway), &text)
    }

    fn open(&self, gateway: GatewayId, sealed: &str) -> Result<KeptDevice, DevicesAway> {
        let text = self
            .backend
            .vault
            .open(Purpose::Device(gateway), sealed)
            .map_err(|error| DevicesAway(error.to_string()))?;
        let device: Value = serde_json::from_str(&text).unwrap_or_default();
        let part = |name: &str| device.get(name).and_then(Value::as_str).map(|text| Secret::new(text.to_owned()));
        let seed = part("seed").ok_or_else(|| DevicesAway("the device kept for this gateway has no key".to_owned()))?;
        Ok(KeptDevice { seed, token: part("token") })
    }

    /// Keeps `device` in the place of `expected`; returns what is kept now, sealed.
    async fn keep(
        &self,
        gateway: GatewayId,
        expected: Option<&str>,
        device: &KeptDevice,
    ) -> Result<String, DevicesAway> {
        let sealed = self.seal(gateway, device);
        let kept = self.backend.store.keep_device(gateway, expected, &sealed).await;
        let away = |error: &StoreError| DevicesAway(format!("the device kept for this gateway can't be read: {error}"));
        kept.map_err(|error| away(&error))?.ok_or_else(|| DevicesAway("the gateway was removed, or moved".to_owned()))
    }
}

#[async_trait]
impl Devices for StoredDevices {
    async fn device(&self, gateway: Uuid, fresh: Secret) -> Result<KeptDevice, DevicesAway> {
        let gateway = GatewayId::from(gateway);
        let kept = self.keep(gateway, None, &KeptDevice { seed: fresh, token: None }).await?;
        self.open(gateway, &kept)
    }

    async fn keep_token(&self, gateway: Uuid, seed: &Secret, token: Option<Secret>) -> Result<(), DevicesAway> {
        let gateway = GatewayId::from(gateway);
        // There is one, as a rule: this only reads it.
        let mut kept = self.keep(gateway, None, &KeptDevice { seed: fresh_seed(), token: None }).await?;
        for _ in 0..TRIES {
            let device = self.open(gateway, &kept)?;
            if device.token == token || device.seed != *seed {
                return Ok(());
            }
            kept = self.keep(gateway, Some(&kept), &KeptDevice { token: token.clone(), ..device }).await?;
        }
        Ok(())
    }
}
