//! What is left on boards, asked of people and told of who did what, as clients see it.

use errand_common::domain::{
    ActivityId, AgentId, BoardId, JobId, MemoryId, QuestionId, Timestamp,
    coordination::{Activity, Memory, Question, QuestionState},
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::schema;

/// An item of a board's memory.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Memory)]
pub(crate) struct MemoryView {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    pub(crate) id: MemoryId,
    /// Where.
    #[schema(schema_with = schema::uuid)]
    pub(crate) board_id: BoardId,
    /// What.
    pub(crate) content: String,
    /// As given.
    pub(crate) tags: Vec<String>,
    /// Who or what it is from, in the writer's words.
    pub(crate) source: Option<String>,
    /// It is part of the chat.
    pub(crate) is_chat: bool,
    /// The agent that wrote it.
    #[schema(schema_with = schema::uuid_or_null)]
    pub(crate) agent_id: Option<AgentId>,
    /// The question that it answered.
    #[schema(schema_with = schema::uuid_or_null)]
    pub(crate) question_id: Option<QuestionId>,
    /// When.
    #[schema(schema_with = schema::time)]
    pub(crate) created_at: Timestamp,
}

impl From<Memory> for MemoryView {
    fn from(memory: Memory) -> Self {
        Self {
            id: memory.id,
            board_id: memory.board_id,
            content: memory.content,
            tags: memory.tags,
            source: memory.source,
            is_chat: memory.is_chat,
            agent_id: memory.agent_id,
            question_id: memory.question_id,
            created_at: memory.created_at,
        }
    }
}

/// A question to a person.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Question)]
pub(crate) struct QuestionView {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    pub(crate) id: QuestionId,
    /// The board that asks.
    #[schema(schema_with = schema::uuid)]
    pub(crate) board_id: BoardId,
    /// The job that waits for the answer.
    #[schema(schema_with = schema::uuid)]
    pub(crate) job_id: JobId,
    /// The agent that asks.
    #[schema(schema_with = schema::uuid_or_null)]
    pub(crate) agent_id: Option<AgentId>,
    /// What is asked.
    pub(crate) content: String,
    /// The asker's own mark.
    pub(crate) correlation_id: Option<String>,
    /// Tags that an answer by board memory carries.
    pub(crate) reply_tags: Vec<String>,
    /// Source that an answer by board memory names.
    pub(crate) reply_source: String,
    /// JSON Schema that an answer has to follow.
    #[schema(value_type = Option<Value>)]
    pub(crate) answer_schema: Option<Value>,
    /// Whether it waits.
    #[schema(schema_with = schema::question_state)]
    pub(crate) state: QuestionState,
    /// The answer that won.
    #[schema(value_type = Option<Value>)]
    pub(crate) answer: Option<Value>,
    /// Who gave it: a key's id, `user:<id>` or `agent:<id>`.
    pub(crate) answered_by: Option<String>,
    /// The item of board memory that it came by.
    #[schema(schema_with = schema::uuid_or_null)]
    pub(crate) memory_id: Option<MemoryId>,
    /// How often its asking was repeated.
    pub(crate) reminders: u32,
    /// Until when it waits.
    #[schema(schema_with = schema::time)]
    pub(crate) expires_at: Timestamp,
    /// Asked.
    #[schema(schema_with = schema::time)]
    pub(crate) created_at: Timestamp,
    /// Answered, expired or withdrawn.
    #[schema(schema_with = schema::time_or_null)]
    pub(crate) ended_at: Option<Timestamp>,
}

impl From<Question> for QuestionView {
    fn from(question: Question) -> Self {
        Self {
            id: question.id,
            board_id: question.board_id,
            job_id: question.job_id,
            agent_id: question.agent_id,
            content: question.content,
            correlation_id: question.correlation_id,
            reply_tags: question.reply_tags,
            reply_source: question.reply_source,
            answer_schema: question.answer_schema,
            state: question.state,
            answer: question.answer,
            answered_by: question.answered_by,
            memory_id: question.memory_id,
            reminders: question.reminders,
            expires_at: question.expires_at,
            created_at: question.created_at,
            ended_at: question.ended_at,
        }
    }
}

/// A line of the audit: who did what to whom.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Activity)]
pub(crate) struct ActivityView {
    /// Its id.
    #[schema(schema_with = schema::uuid)]
    pub(crate) id: ActivityId,
    /// What happened.
    #[schema(example = "agent.nudge.sent")]
    pub(crate) event_type: String,
    /// For people.
    pub(crate) message: String,
    /// The actor.
    #[schema(schema_with = schema::uuid_or_null)]
    pub(crate) agent_id: Option<AgentId>,
    /// Where.
    #[schema(schema_with = schema::uuid_or_null)]
    pub(crate) board_id: Option<BoardId>,
    /// By which job.
    #[schema(schema_with = schema::uuid_or_null)]
    pub(crate) job_id: Option<JobId>,
    /// What joins it to logs.
    pub(crate) trace_id: Option<String>,
    /// When.
    #[schema(schema_with = schema::time)]
    pub(crate) created_at: Timestamp,
}

impl From<Activity> for ActivityView {
    fn from(line: Activity) -> Self {
        Self {
            id: line.id,
            event_type: line.event_type,
            message: line.message,
            agent_id: line.agent_id,
            board_id: line.board_id,
            job_id: line.job_id,
            trace_id: line.trace_id,
            created_at: line.created_at,
        }
    }
}
