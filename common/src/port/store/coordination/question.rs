//! Questions to people.

use async_trait::async_trait;
use serde_json::Value;

use crate::{
    domain::{
        AgentId, BoardId, QuestionId, Timestamp,
        coordination::{Question, QuestionState},
    },
    port::store::{Consequences, StoreError},
};

/// A question that a job asks; open from the job's making on.
#[derive(Clone, Debug)]
pub struct NewQuestion {
    /// Its id.
    pub id: QuestionId,
    /// The board that asks.
    pub board_id: BoardId,
    /// The agent that asks.
    pub agent_id: Option<AgentId>,
    /// What is asked.
    pub content: String,
    /// The asker's own mark.
    pub correlation_id: Option<String>,
    /// Tags that an answer carries.
    pub reply_tags: Vec<String>,
    /// Source that an answer names.
    pub reply_source: String,
    /// JSON Schema that an answer has to follow; compiled before, so that it is one.
    pub answer_schema: Option<Value>,
    /// When its asking is repeated first.
    pub remind_at: Option<Timestamp>,
    /// Until when it waits.
    pub expires_at: Timestamp,
}

/// What somebody answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Scope.
    pub tenant: String,
    /// Which question.
    pub id: QuestionId,
    /// A string, or what the schema asks for.
    pub content: Value,
    /// Who: an agent's, key's or user's id.
    pub answered_by: String,
    /// Now.
    pub now: Timestamp,
}

/// What became of an answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Answered {
    /// It won: the question is answered, its job completed, the asking agent is going to be told.
    Won(Box<Question>),
    /// The question has ended before, as it shows.
    Late(Box<Question>),
    /// It does not follow the question's schema.
    Unfit {
        /// Where, as a JSON pointer into the answer.
        pointer: String,
        /// Why.
        detail: String,
    },
}

/// Which questions.
#[derive(Clone, Debug)]
pub struct QuestionFilter {
    /// Whose.
    pub tenant: String,
    /// Those of one board.
    pub board_id: Option<BoardId>,
    /// Those in this state.
    pub state: Option<QuestionState>,
    /// Older than this one.
    pub before: Option<QuestionId>,
    /// How many.
    pub limit: u32,
}

/// Questions to people. A question ends with its job and a job with its question, in one transaction, whoever ends either: however
/// many answer at once, one wins.
#[async_trait]
pub trait Questions: Send + Sync {
    /// One.
    async fn question(&self, tenant: &str, id: QuestionId) -> Result<Option<Question>, StoreError>;

    /// Several, newest first.
    async fn questions(&self, filter: &QuestionFilter) -> Result<Vec<Question>, StoreError>;

    /// Answers one. It may not have been delivered yet: its job ends all the same. `None`: no such question in this tenant.
    async fn answer(&self, answer: Answer) -> Result<Option<(Answered, Consequences)>, StoreError>;

    /// Ends questions whose time has passed: their jobs fail, class `timeout`, code `QUESTION_EXPIRED`. Returns how many.
    async fn expire_questions(&self, now: Timestamp, limit: u32) -> Result<(usize, Consequences), StoreError>;

    /// Repeats the asking of questions that wait for long: a notice each, to whom the question went, and the time of the next.
    async fn remind(&self, every_seconds: u32, now: Timestamp, limit: u32)
    -> Result<(usize, Consequences), StoreError>;
}
