//! Events: numbered facts about a job, in its stream and in its session's; and about a board, in its own.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BoardId, JobId, SessionId, Timestamp, job::text_enum};

text_enum! {
    /// What an event says. Names are part of the contract with clients.
    EventType {
        /// Text of the answer, to be appended: `{content}`.
        Text = "text",
        /// Reasoning of the engine: `{content}`.
        Thinking = "thinking",
        /// A tool is called.
        ToolUse = "tool_use",
        /// A tool answered.
        ToolResult = "tool_result",
        /// A tool call waits for a decision: `{approvalId, toolName, toolInput, toolUseId, expiresAt}`.
        ApprovalRequired = "approval_required",
        /// It waits no more: `{approvalId, state, scope?, message?, decidedBy?}`.
        ApprovalResolved = "approval_resolved",
        /// The job is done: `{summary, tokensUsed, …}` for a task.
        Completed = "completed",
        /// The job failed, or expired (code `EXPIRED`): `{message, code, class}`.
        Error = "error",
        /// The job was cancelled: `{message, code}`, and `effect_unknown: true` if a call to the outside was under way.
        Cancelled = "cancelled",
        /// A task of the session: `{taskId}`.
        TaskInfo = "task_info",
        /// The session of the task: `{sessionId}`.
        SessionInfo = "session_info",
        /// An engine asks the user to sign in; passed through.
        OauthPrompt = "oauth_prompt",
        /// The job entered its queue, or waits: for its time, its session, its children, or the job before it under its dedup
        /// key: `{state, run_at?, reason?}`. The reason `debounced` or `replaced` says that its input is another one now.
        Queued = "queued",
        /// A worker claimed it: `{worker_id}`.
        Started = "started",
        /// It will be tried again: `{class, code, message, delay_ms, run_at}`.
        Retrying = "retrying",
        /// How far the handler is.
        Progress = "progress",
        /// The text since `from_seq`, a number of the job's stream, is void: `{from_seq}`. Whoever emits it leaves the field out: the
        /// store fills it, so that all text that stands is meant, and drops the event if none does.
        TextRetracted = "text_retracted",
        /// A child has ended: `{child_id, kind, state, code?}`, with the code of its failure.
        ChildCompleted = "child_completed",
        /// What a run spent: `{inputTokens, outputTokens, cacheReadTokens, cacheWriteTokens, totalTokens, costUsd, costBasis, model,
        /// engineType, unknown}`.
        Usage = "usage",
        /// A callback came after the job had ended, and changed nothing: `{ok, ordinal}`. Of each job, the first one.
        LateCallback = "late_callback",
        /// An item was left on a board, as lists show it. In its board's stream only.
        Memory = "memory",
        /// A person is asked: `{question_id, board_id, agent_id, content, correlation_id?, expires_at}`.
        QuestionOpened = "question_opened",
        /// The first valid answer came: `{question_id, board_id, answer, answered_by, memory_id?}`.
        QuestionAnswered = "question_answered",
        /// Nobody answered in time: `{question_id, board_id}`.
        QuestionExpired = "question_expired",
        /// The job that asked ended without an answer: `{question_id, board_id}`. In its board's stream only.
        QuestionCancelled = "question_cancelled",
    }
}

impl EventType {
    /// Part of the engine's talk, as opposed to a change of the job.
    #[must_use]
    pub const fn is_output(self) -> bool {
        matches!(
            self,
            Self::Text | Self::Thinking | Self::ToolUse | Self::ToolResult | Self::Progress | Self::OauthPrompt
        )
    }
}

/// An event before its numbers are known.
#[derive(Clone, PartialEq, Debug)]
pub struct NewEvent {
    /// What it says.
    pub kind: EventType,
    /// Its fields: always a JSON object.
    pub data: Value,
}

/// What a task asked by voice does not show to those who watch its session.
const UNSPOKEN: &[EventType] = &[EventType::Thinking, EventType::ToolUse, EventType::ToolResult];
/// The field that says so.
const VOICE_MODE: &str = "voiceMode";

impl NewEvent {
    /// The event as a task in voice mode emits it: what is not spoken is marked, for [`Event::is_withheld`].
    #[must_use]
    pub fn by_voice(mut self) -> Self {
        if UNSPOKEN.contains(&self.kind)
            && let Some(fields) = self.data.as_object_mut()
        {
            fields.insert(VOICE_MODE.to_owned(), Value::Bool(true));
        }
        self
    }

    /// `data` must be a JSON object.
    #[must_use]
    pub fn new(kind: EventType, data: Value) -> Self {
        debug_assert!(data.is_object(), "an event's data is an object");
        Self { kind, data }
    }
}

/// An event as committed: one row, one number in each stream it belongs to. Those of a job are in the job's stream and in its
/// session's, those of a board in the board's alone.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// The job it is about; what people and agents leave on a board is about none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// The board in whose stream it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_id: Option<BoardId>,
    /// Its number in `board:<id>`, if it is in a board's stream, else in `job:<id>`; from 1 without gaps.
    pub seq: i64,
    /// The job's session.
    pub session_id: Option<SessionId>,
    /// Its number in `session:<id>`.
    pub session_seq: Option<i64>,
    /// When it was committed.
    pub ts: Timestamp,
    /// The attempt it belongs to.
    pub attempt: u32,
    /// What it says.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// Its fields: a JSON object.
    pub data: Value,
}

impl Event {
    /// Whether those who watch `stream` are not shown it: a session's, of a task in voice mode, where only what is spoken counts.
    /// Who watches the job itself sees all.
    #[must_use]
    pub fn is_withheld(&self, stream: Stream) -> bool {
        matches!(stream, Stream::Session(_))
            && UNSPOKEN.contains(&self.kind)
            && self.data.get(VOICE_MODE).is_some_and(|mode| *mode == Value::Bool(true))
    }

    /// Its number in `stream`, if it belongs there.
    #[must_use]
    pub fn seq_in(&self, stream: Stream) -> Option<i64> {
        match stream {
            Stream::Job(id) => (self.board_id.is_none() && Some(id) == self.job_id).then_some(self.seq),
            Stream::Session(id) => (Some(id) == self.session_id).then_some(self.session_seq).flatten(),
            Stream::Board(id) => (Some(id) == self.board_id).then_some(self.seq),
        }
    }
}

/// A numbered stream that can be watched.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stream {
    /// `job:<id>`
    Job(JobId),
    /// `session:<id>`
    Session(SessionId),
    /// `board:<id>`
    Board(BoardId),
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(id) => write!(f, "job:{id}"),
            Self::Session(id) => write!(f, "session:{id}"),
            Self::Board(id) => write!(f, "board:{id}"),
        }
    }
}

impl FromStr for Stream {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "a stream is named job:<id>, session:<id> or board:<id>";
        let (family, id) = text.split_once(':').ok_or(WANTED)?;
        match family {
            "job" => id.parse().map(Self::Job).map_err(|_| WANTED),
            "session" => id.parse().map(Self::Session).map_err(|_| WANTED),
            "board" => id.parse().map(Self::Board).map_err(|_| WANTED),
            _ => Err(WANTED),
        }
    }
}
