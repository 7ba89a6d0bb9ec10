//! Gateways.

use async_trait::async_trait;

use super::NewAgent;
use crate::{
    domain::{GatewayId, Timestamp, coordination::Gateway},
    port::store::{IdempotencyRecord, StoreError, StoredAnswer},
};

/// A gateway to be kept. What is secret is sealed.
#[derive(Clone, Debug)]
pub struct NewGateway {
    /// Its id.
    pub id: GatewayId,
    /// Whose it is.
    pub tenant: String,
    /// For people.
    pub name: String,
    /// Where it listens.
    pub url: String,
    /// What it is shown, sealed.
    pub token: Option<String>,
    /// Where workspaces are.
    pub workspace_root: String,
    /// As [`Gateway::disable_device_pairing`].
    pub disable_device_pairing: bool,
    /// As [`Gateway::allow_insecure_tls`].
    pub allow_insecure_tls: bool,
    /// Its own agent, whose row is made with it.
    pub main: NewAgent,
}

/// What is to be changed; `None` stays.
#[derive(Clone, Default, Debug)]
pub struct GatewayChange {
    /// For people.
    pub name: Option<String>,
    /// Where it listens.
    pub url: Option<String>,
    /// What it is shown, sealed; `Some(None)`: nothing.
    pub token: Option<Option<String>>,
    /// The token it has, sealed anew: by the key that seals now. Changes nothing else, and stands back behind `token`.
    pub resealed: Option<String>,
    /// Where workspaces are.
    pub workspace_root: Option<String>,
    /// As [`Gateway::disable_device_pairing`].
    pub disable_device_pairing: Option<bool>,
    /// As [`Gateway::allow_insecure_tls`].
    pub allow_insecure_tls: Option<bool>,
}

/// What became of a removal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removed {
    /// It is gone, with what belongs to it.
    Done,
    /// Nothing of that name.
    Unknown,
    /// So many others still belong to it.
    InUse(u64),
}

/// Gateways.
#[async_trait]
pub trait Gateways: Send + Sync {
    /// Keeps a gateway, the row of its own agent, and the answer to its key. `Some`: that key was used before, and nothing
    /// was made.
    async fn create_gateway(
        &self,
        new: NewGateway,
        idempotency: Option<IdempotencyRecord>,
        now: Timestamp,
    ) -> Result<Option<StoredAnswer>, StoreError>;

    /// One.
    async fn gateway(&self, tenant: &str, id: GatewayId) -> Result<Option<Gateway>, StoreError>;

    /// Those of a tenant, newest first, before `before`.
    async fn gateways(&self, tenant: &str, before: Option<GatewayId>, limit: u32) -> Result<Vec<Gateway>, StoreError>;

    /// Those of all tenants, newest first: for the operator's own look.
    async fn all_gateways(&self, limit: u32) -> Result<Vec<Gateway>, StoreError>;

    /// Changes one. How it is reached (url, token, switches) counts its `version` up; another url or token forgets the
    /// device's pairing, which belonged to the former. `None`: no such gateway.
    async fn change_gateway(
        &self,
        tenant: &str,
        id: GatewayId,
        change: GatewayChange,
        now: Timestamp,
    ) -> Result<Option<Gateway>, StoreError>;

    /// Removes one that no board names, with its agents.
    async fn remove_gateway(&self, tenant: &str, id: GatewayId) -> Result<Removed, StoreError>;

    /// Keeps the sealed device that was made for, or paired with, a gateway, unless another process was first: the one that
    /// counts is returned. `expected` is the one it replaces. `None`: no such gateway, or it is reached elsewhere since and has
    /// no device there yet.
    async fn keep_device(
        &self,
        id: GatewayId,
        expected: Option<&str>,
        device: &str,
    ) -> Result<Option<String>, StoreError>;
}
