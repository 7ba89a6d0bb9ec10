//! Instances and their conversations as clients see them.

use errand_common::domain::{
    InstanceId, Session, SessionId, SessionStatus, Timestamp,
    instance::{Instance, InstanceStatus},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::schema;

/// An instance, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Instance)]
pub(crate) struct InstanceView {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    id: InstanceId,
    /// For people.
    name: String,
    /// The user whose alone it is; null: every user of the tenant may use it.
    user_id: Option<String>,
    /// Its bridge's name or address.
    server_host: Option<String>,
    /// Its bridge's port.
    host_port: u16,
    /// Whether it takes prompts: `running` does.
    #[schema(schema_with = schema::instance_status)]
    status: InstanceStatus,
    /// Its callbacks must be signed.
    has_callback_secret: bool,
    /// How often its bridge is asked for what it has not called back about, in seconds; null: never.
    poll_seconds: Option<u32>,
    /// Made.
    #[schema(schema_with = schema::time)]
    created_at: Timestamp,
    /// Last changed.
    #[schema(schema_with = schema::time)]
    updated_at: Timestamp,
}

impl From<Instance> for InstanceView {
    fn from(instance: Instance) -> Self {
        Self {
            id: instance.id,
            name: instance.name,
            user_id: instance.user_id,
            server_host: instance.server_host,
            host_port: instance.host_port,
            status: instance.status,
            has_callback_secret: instance.callback_secret.is_some(),
            poll_seconds: instance.poll_seconds,
            created_at: instance.created_at,
            updated_at: instance.updated_at,
        }
    }
}

/// A conversation with an instance.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = InstanceSession)]
pub(crate) struct InstanceSessionView {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    id: SessionId,
    /// The beginning of its first prompt.
    title: String,
    /// Whether it takes tasks.
    #[schema(schema_with = schema::session_status)]
    status: SessionStatus,
    /// Opened.
    #[schema(schema_with = schema::time)]
    created_at: Timestamp,
    /// Last written to.
    #[schema(schema_with = schema::time)]
    updated_at: Timestamp,
}

impl From<Session> for InstanceSessionView {
    fn from(session: Session) -> Self {
        Self {
            id: session.id,
            title: session.metadata["title"].as_str().unwrap_or_default().to_owned(),
            status: session.status,
            created_at: session.created_at,
            updated_at: session.updated_at,
        }
    }
}
