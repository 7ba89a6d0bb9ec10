//! What a job is and how it may change. Pure: no I/O, no clock, no randomness of its own.

pub mod address;
pub mod approval;
pub mod attachment;
pub mod coordination;
pub mod dedup;
pub mod effect;
pub mod event;
pub mod family;
pub mod gate;
pub mod id;
pub mod instance;
pub mod job;
pub mod lifecycle;
pub mod poison;
pub mod prompt;
pub mod retry;
pub mod session;
pub mod template;
pub mod time;
pub mod trace;
pub mod usage;
pub mod webhook;

pub use approval::{Approval, ApprovalScope, ApprovalState, Decision, ToolCall};
pub use attachment::{AttachmentContent, AttachmentRef};
pub use dedup::{Dedup, DedupMode};
pub use effect::{Effect, Receipt};
pub use event::{Event, EventType, NewEvent, Stream};
pub use family::Children;
pub use id::{
    ActivityId, AgentId, ApiKeyId, ApprovalId, BoardId, GatewayId, InstanceId, JobId, LeaseToken, MemoryId, MessageId,
    QuestionId, SessionId, UsageId, WebhookEventId, WebhookId, WorkerId,
};
pub use job::{Failure, FailureClass, Fence, Job, JobState, Priority};
pub use lifecycle::{Change, Illegal};
pub use retry::RetryPolicy;
pub use session::{Message, OnBusy, Role, Session, SessionStatus};
pub use time::Timestamp;
pub use trace::TraceContext;
pub use usage::{Usage, UsageRecord, UsageReport, nano_usd, usd_text};
pub use webhook::WebhookEvent;
