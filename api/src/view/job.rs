//! A job as `GET /jobs/{id}` shows it.

use std::{collections::BTreeMap, fmt::Write as _};

use errand_common::domain::{self, FailureClass, Job, JobId, JobState, SessionId, Stream, Timestamp, WorkerId};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::schema;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    /// The entries.
    pub(crate) items: Vec<T>,
    /// Give it as `cursor` to get the next page; null at the end.
    pub(crate) next_cursor: Option<String>,
}

/// Where the job's stream stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamView {
    /// `job:<id>` or `session:<id>`.
    pub(crate) name: String,
    /// A new one says that numbers start over.
    pub(crate) epoch: String,
    /// Number of the newest event; 0 if none.
    pub(crate) tail_seq: i64,
}

impl StreamView {
    pub(crate) fn new(stream: Stream, epoch: &str, tail_seq: i64) -> Self {
        Self { name: stream.to_string(), epoch: epoch.to_owned(), tail_seq }
    }
}

/// The jobs that a job fanned out to.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Children {
    /// How many there are.
    pub(crate) total: u64,
    /// How many are in each state.
    #[schema(schema_with = schema::counts)]
    pub(crate) by_state: BTreeMap<String, u64>,
}

/// Why a job failed, or last failed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FailureView {
    /// What kind of failure.
    #[schema(schema_with = schema::failure_class)]
    pub(crate) class: FailureClass,
    /// Stable, for programs.
    #[schema(example = "EXECUTION_ERROR")]
    pub(crate) code: String,
    /// One sentence for people.
    pub(crate) message: String,
    /// The attempt that failed.
    pub(crate) attempt: u32,
}

impl FailureView {
    pub(crate) fn of(job: &Job) -> Option<Self> {
        let failure = job.failure.as_ref()?;
        Some(Self {
            class: failure.class,
            code: failure.code.clone(),
            message: failure.message.clone(),
            attempt: failure.attempt,
        })
    }
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub(crate) struct JobView {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    id: JobId,
    /// Names the handler.
    #[schema(example = "task")]
    kind: String,
    /// Which workers may take it.
    queue: String,
    /// Where it is in its life.
    #[schema(schema_with = schema::job_state)]
    state: JobState,
    /// 0 first, 3 last.
    #[schema(minimum = 0, maximum = 3)]
    priority: u8,
    /// The attempt that runs or ran last; starts at 1.
    attempt: u32,
    /// No attempt beyond this one.
    max_attempts: u32,
    /// The input, by the kind's schema; of a group, `{jobs}` with their number.
    #[schema(value_type = Object)]
    payload: Value,
    /// The output of a completed job; of a group that has ended, `{children: {total, by_state}}`.
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
    /// Why it failed, or last failed.
    failure: Option<FailureView>,
    /// Last progress the handler reported.
    #[schema(value_type = Option<Object>)]
    progress: Option<Value>,
    /// Its conversation.
    #[schema(schema_with = schema::uuid_or_null)]
    session_id: Option<SessionId>,
    /// The job that fanned out to it.
    #[schema(schema_with = schema::uuid_or_null)]
    parent_id: Option<JobId>,
    /// The job it repeats.
    #[schema(schema_with = schema::uuid_or_null)]
    retry_of: Option<JobId>,
    /// The jobs it fanned out to.
    children: Children,
    /// Who holds it, or held it last.
    #[schema(schema_with = schema::uuid_or_null)]
    worker_id: Option<WorkerId>,
    /// Until when the holder may write.
    #[schema(schema_with = schema::time_or_null)]
    lease_until: Option<Timestamp>,
    /// Not before.
    #[schema(schema_with = schema::time)]
    run_at: Timestamp,
    /// Expires if not started by then.
    #[schema(schema_with = schema::time_or_null)]
    expires_at: Option<Timestamp>,
    /// Ends by then.
    #[schema(schema_with = schema::time_or_null)]
    deadline: Option<Timestamp>,
    /// Submitted.
    #[schema(schema_with = schema::time)]
    created_at: Timestamp,
    /// First started.
    #[schema(schema_with = schema::time_or_null)]
    started_at: Option<Timestamp>,
    /// Reached a terminal state.
    #[schema(schema_with = schema::time_or_null)]
    finished_at: Option<Timestamp>,
    /// Grows with each change.
    version: i64,
    /// The client's own.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
    /// Deduplicates submissions.
    dedup_key: Option<String>,
    /// Where its stream stands.
    stream: StreamView,
}

impl JobView {
    /// Another one after each change of what is shown: of the job, of its stream, which grows without a change of the job, and
    /// of its children's states.
    pub(crate) fn etag(&self) -> String {
        let mut tag = format!("\"{}-{}", self.version, self.stream.tail_seq);
        for (state, count) in &self.children.by_state {
            let _ = write!(tag, "-{state}{count}");
        }
        tag + "\""
    }

    pub(crate) fn new(job: Job, epoch: &str, children: &domain::Children) -> Self {
        Self {
            failure: FailureView::of(&job),
            stream: StreamView::new(Stream::Job(job.id), epoch, job.tail_seq),
            id: job.id,
            kind: job.kind,
            queue: job.queue,
            state: job.state,
            priority: job.priority.get(),
            attempt: job.attempt,
            max_attempts: job.retry.max_attempts,
            payload: job.payload,
            result: job.result,
            progress: job.progress,
            session_id: job.session_id,
            parent_id: job.parent_id,
            retry_of: job.retry_of,
            children: Children {
                total: children.total(),
                by_state: children.by_state.iter().map(|(state, count)| (state.to_string(), *count)).collect(),
            },
            worker_id: job.worker_id,
            lease_until: job.lease_until,
            run_at: job.run_at,
            expires_at: job.expires_at,
            deadline: job.deadline,
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
            version: job.version,
            metadata: job.metadata,
            dedup_key: job.dedup_key,
        }
    }
}
