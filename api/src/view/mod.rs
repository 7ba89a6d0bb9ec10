//! What clients are shown.

mod job;
pub(crate) mod schema;
mod session;
mod task;
mod usage;

pub(crate) use job::{JobView, List};
pub(crate) use session::{MessageView, SessionView};
pub(crate) use task::TaskView;
pub(crate) use usage::UsageView;
