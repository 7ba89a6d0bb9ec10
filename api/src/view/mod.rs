//! What clients are shown.

mod instance;
mod job;
mod place;
mod record;
pub(crate) mod schema;
mod session;
mod task;
mod usage;
mod webhook;

pub(crate) use instance::{InstanceSessionView, InstanceView};
pub(crate) use job::{JobView, List};
pub(crate) use place::{AgentView, BoardView, GatewayView};
pub(crate) use record::{ActivityView, MemoryView, QuestionView};
pub(crate) use session::{MessageView, SessionView};
pub(crate) use task::TaskView;
pub(crate) use usage::UsageView;
pub(crate) use webhook::{DeliveryView, WebhookView};
