//! The job: one piece of work of a kind.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{JobId, LeaseToken, RetryPolicy, SessionId, Timestamp, TraceContext, WorkerId};

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every value, in the order of the declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name on the wire and in the database.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::domain::job::UnknownName;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text { $($text => Ok(Self::$variant),)+ _ => Err(crate::domain::job::UnknownName(text.to_owned())) }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use text_enum;

/// A name that is none of those allowed in its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown name {0:?}")]
pub struct UnknownName(pub String);

text_enum! {
    /// Where a job is in its life; the legal moves are in [`super::lifecycle`].
    JobState {
        /// Waits for its `run_at`.
        Scheduled = "scheduled",
        /// Due: any worker of its queue may claim it.
        Queued = "queued",
        /// Waits for its session to be free, or for the job before it under its dedup key to end.
        Blocked = "blocked",
        /// A parent whose children run.
        AwaitingChildren = "awaiting_children",
        /// A worker holds its lease.
        Running = "running",
        /// Failed, and waits out its backoff.
        Retrying = "retrying",
        /// A tool call waits for a person's decision.
        AwaitingApproval = "awaiting_approval",
        /// A question waits for its answer.
        AwaitingAnswer = "awaiting_answer",
        /// A bridge has it and will call back.
        AwaitingCallback = "awaiting_callback",
        /// Done.
        Completed = "completed",
        /// Done in part: some children failed.
        Partial = "partial",
        /// Given up; `failure` says why.
        Failed = "failed",
        /// Stopped on request.
        Cancelled = "cancelled",
        /// Not started in time.
        Expired = "expired",
    }
}

impl JobState {
    /// A terminal state never changes.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Partial | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// Ended without having done all of its work: it can be retried.
    #[must_use]
    pub const fn is_unsuccessful(self) -> bool {
        matches!(self, Self::Partial | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// Occupies its session: at most one such job a session.
    #[must_use]
    pub const fn occupies_session(self) -> bool {
        matches!(
            self,
            Self::Queued
                | Self::Running
                | Self::Retrying
                | Self::AwaitingApproval
                | Self::AwaitingAnswer
                | Self::AwaitingCallback
                | Self::AwaitingChildren
        )
    }
}

/// 0 (first) to 3 (last).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Priority(u8);

impl Priority {
    /// How many there are.
    pub const COUNT: usize = 4;

    /// The number, 0 to 3.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(2)
    }
}

impl TryFrom<u8> for Priority {
    type Error = &'static str;
    fn try_from(number: u8) -> Result<Self, Self::Error> {
        if number < 4 { Ok(Self(number)) } else { Err("priority must be 0 (high) to 3 (low)") }
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> Self {
        priority.0
    }
}

text_enum! {
    /// What kind of failure it was; decides whether another attempt may help.
    FailureClass {
        /// May pass by itself: connection refused, 5xx, time-out of one call.
        Transient = "transient",
        /// The destination asked us to slow down.
        RateLimited = "rate_limited",
        /// Credentials refused.
        Auth = "auth",
        /// The request itself is wrong.
        Invalid = "invalid",
        /// The outcome cannot be known, so nothing is repeated.
        Ambiguous = "ambiguous",
        /// Failed for good.
        Fatal = "fatal",
        /// The worker that ran it died.
        Crash = "crash",
        /// Ran out of its time.
        Timeout = "timeout",
        /// Stopped on request.
        Cancelled = "cancelled",
    }
}

/// Why an attempt, or the job, failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Decides about another attempt.
    pub class: FailureClass,
    /// Stable, for programs: `EXECUTION_ERROR`, `TIMEOUT`, …
    pub code: String,
    /// One sentence for people.
    pub message: String,
    /// The attempt that failed.
    pub attempt: u32,
}

/// Proves who may write for a job: each claim makes `claim` +1 (never reused) with a random token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fence {
    /// The job.
    pub job_id: JobId,
    /// Its session, if it has one: known to the holder, so that stores can lock it first.
    pub session_id: Option<SessionId>,
    /// Number of the claim.
    pub claim: i64,
    /// Random half.
    pub token: LeaseToken,
}

/// A job, but for what only its store and its holder deal with.
#[derive(Clone, PartialEq, Debug)]
pub struct Job {
    /// Its id; a task's `taskId`.
    pub id: JobId,
    /// Whose it is.
    pub tenant: String,
    /// Names the handler.
    pub kind: String,
    /// Which workers may take it.
    pub queue: String,
    /// Where it is in its life.
    pub state: JobState,
    /// 0 first, 3 last.
    pub priority: Priority,
    /// The attempt that runs or ran last; starts at 1.
    pub attempt: u32,
    /// How it is retried.
    pub retry: RetryPolicy,
    /// The input, by the kind's schema.
    pub payload: Value,
    /// The version of that schema.
    pub payload_version: u32,
    /// The output of a completed job.
    pub result: Option<Value>,
    /// Why it failed, or last failed.
    pub failure: Option<Failure>,
    /// Last progress the handler reported.
    pub progress: Option<Value>,
    /// Its conversation.
    pub session_id: Option<SessionId>,
    /// The job that fanned out to it.
    pub parent_id: Option<JobId>,
    /// The job it repeats.
    pub retry_of: Option<JobId>,
    /// The user who submitted it; `None`: a key did.
    pub user_id: Option<String>,
    /// Who holds it, or held it last.
    pub worker_id: Option<WorkerId>,
    /// Until when the holder may write.
    pub lease_until: Option<Timestamp>,
    /// Not before.
    pub run_at: Timestamp,
    /// Expires if not started by then.
    pub expires_at: Option<Timestamp>,
    /// Ends, one way or another, by then.
    pub deadline: Option<Timestamp>,
    /// Bounds one attempt, in milliseconds.
    pub timeout_ms: Option<i64>,
    /// Submitted.
    pub created_at: Timestamp,
    /// First started.
    pub started_at: Option<Timestamp>,
    /// Reached a terminal state.
    pub finished_at: Option<Timestamp>,
    /// Grows with each change of the row; the ETag.
    pub version: i64,
    /// The client's own.
    pub metadata: Option<Value>,
    /// Deduplicates submissions.
    pub dedup_key: Option<String>,
    /// Number of the last event of its stream; 0 if none.
    pub tail_seq: i64,
    /// The span that made it, if somebody said which; see [`Job::trace_context`].
    pub trace: Option<TraceContext>,
}

impl Job {
    /// The trace it belongs to: that of what made it, or one of its own.
    #[must_use]
    pub fn trace_context(&self) -> TraceContext {
        self.trace.clone().unwrap_or_else(|| TraceContext::of_job(self.id))
    }
}
