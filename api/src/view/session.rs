//! Conversations and messages as clients see them.

use errand_common::domain::{
    AttachmentRef, JobId, Message, MessageId, Role, Session, SessionId, SessionStatus, Stream, Timestamp,
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::schema;

/// Where the conversation's stream stands.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionStreamView {
    /// `session:<id>`
    name: String,
    /// A new one says that numbers start over.
    epoch: String,
    /// Number of the newest event; 0 if none.
    tail_seq: i64,
}

/// A conversation.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Session)]
pub(crate) struct SessionView {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    id: SessionId,
    /// Whether it takes tasks.
    #[schema(schema_with = schema::session_status)]
    status: SessionStatus,
    /// The engine it was opened with.
    engine_type: String,
    /// The system prompt it was opened with.
    system_prompt: Option<String>,
    /// `{title, …}`
    #[schema(value_type = Object)]
    metadata: Value,
    /// Opened.
    #[schema(schema_with = schema::time)]
    created_at: Timestamp,
    /// Last written to.
    #[schema(schema_with = schema::time)]
    updated_at: Timestamp,
    /// Where its stream stands.
    stream: SessionStreamView,
}

impl SessionView {
    pub(crate) fn new(session: Session, epoch: &str) -> Self {
        Self {
            stream: SessionStreamView {
                name: Stream::Session(session.id).to_string(),
                epoch: epoch.to_owned(),
                tail_seq: session.tail_seq,
            },
            id: session.id,
            status: session.status,
            engine_type: session.engine,
            system_prompt: session.system_prompt,
            metadata: session.metadata,
            created_at: session.created_at,
            updated_at: session.updated_at,
        }
    }
}

/// An image or document that came with a message.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AttachmentRef)]
pub(crate) struct AttachmentView {
    /// SHA-256 of its content, in hex.
    hash: String,
    /// Its media type.
    media_type: String,
    /// Its name, if it came with one.
    file_name: Option<String>,
    /// Bytes of its content.
    size: u64,
}

impl From<AttachmentRef> for AttachmentView {
    fn from(attachment: AttachmentRef) -> Self {
        let AttachmentRef { hash, media_type, file_name, size } = attachment;
        Self { hash, media_type, file_name, size }
    }
}

/// One message of a conversation.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Message)]
pub(crate) struct MessageView {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    id: MessageId,
    /// The conversation.
    #[schema(schema_with = schema::uuid)]
    session_id: SessionId,
    /// The task that brought it.
    #[schema(schema_with = schema::uuid_or_null)]
    task_id: Option<JobId>,
    /// Who said it.
    #[schema(schema_with = schema::role)]
    role: Role,
    /// What was said.
    content: String,
    /// What came with it; the contents are at `/agent/sessions/{id}/attachments/{hash}`.
    attachments: Vec<AttachmentView>,
    /// Position in the conversation, from 1 without gaps.
    pub(crate) ordinal: i64,
    /// Said.
    #[schema(schema_with = schema::time)]
    created_at: Timestamp,
}

impl From<Message> for MessageView {
    fn from(message: Message) -> Self {
        Self {
            id: message.id,
            session_id: message.session_id,
            task_id: message.job_id,
            role: message.role,
            content: message.content,
            attachments: message.attachments.into_iter().map(AttachmentView::from).collect(),
            ordinal: message.ordinal,
            created_at: message.created_at,
        }
    }
}
