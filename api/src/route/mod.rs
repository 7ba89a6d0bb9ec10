//! One file an endpoint, or a family of one resource's.

pub(crate) mod engine_list;
pub(crate) mod health;
pub(crate) mod index;
pub(crate) mod job_batch;
pub(crate) mod job_cancel;
pub(crate) mod job_list;
pub(crate) mod job_retry;
pub(crate) mod job_show;
pub(crate) mod job_submit;
pub(crate) mod job_timeline;
pub(crate) mod key_create;
pub(crate) mod key_list;
pub(crate) mod key_revoke;
pub(crate) mod metric;
pub(crate) mod queue_list;
pub(crate) mod session_close;
pub(crate) mod session_list;
pub(crate) mod session_messages;
pub(crate) mod session_show;
pub(crate) mod session_tasks;
pub(crate) mod stream;
pub(crate) mod task_cancel;
pub(crate) mod task_show;
pub(crate) mod task_submit;
pub(crate) mod worker_list;
