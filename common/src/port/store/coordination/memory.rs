//! What is left on boards.

use async_trait::async_trait;

use crate::{
    domain::{
        AgentId, BoardId, MemoryId, QuestionId, Timestamp,
        coordination::{Memory, Question},
    },
    port::store::{Consequences, IdempotencyRecord, NewJob, StoreError, StoredAnswer},
};

/// An item to be kept.
#[derive(Clone, Debug)]
pub struct NewMemory {
    /// Its id.
    pub id: MemoryId,
    /// Whose it is.
    pub tenant: String,
    /// Where.
    pub board_id: BoardId,
    /// What.
    pub content: String,
    /// As given.
    pub tags: Vec<String>,
    /// Who or what it is from.
    pub source: Option<String>,
    /// The agent that wrote it.
    pub agent_id: Option<AgentId>,
    /// The question it says it answers.
    pub question_id: Option<QuestionId>,
    /// The correlation id it says it answers.
    pub correlation_id: Option<String>,
    /// Who wrote it, for the question's record: an agent's, key's or user's id.
    pub written_by: String,
    /// What tells others of it, made in the same transaction: notices to those who are mentioned.
    pub notices: Vec<NewJob>,
    /// Kept with it.
    pub idempotency: Option<IdempotencyRecord>,
}

/// What became of an item.
#[derive(Clone, PartialEq, Debug)]
pub enum Posted {
    /// It is there.
    Done {
        /// As kept.
        memory: Box<Memory>,
        /// The question it answered, as it is now.
        answered: Option<Box<Question>>,
        /// The question that it names, which had ended before, as it shows.
        late: Option<Box<Question>>,
        /// It was meant for a question, but does not follow its schema: why.
        unfit: Option<String>,
    },
    /// No such board.
    Unknown,
    /// The key was used before.
    Replayed(StoredAnswer),
}

/// Which items.
#[derive(Clone, Debug)]
pub struct MemoryFilter {
    /// Whose.
    pub tenant: String,
    /// Which board.
    pub board_id: BoardId,
    /// Of the chat, or not of it.
    pub is_chat: Option<bool>,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// So many are left out first.
    pub offset: u32,
    /// How many.
    pub limit: u32,
}

/// What is left on boards.
#[async_trait]
pub trait Memories: Send + Sync {
    /// Keeps an item: the item, its event in the board's stream, its notices, `/pause` and `/resume` on the board, and the answer it
    /// is to a question ([`crate::domain::coordination::question::meant`]), all in one transaction. Chat answers no question
    /// unless it names one by its id.
    async fn post_memory(&self, new: NewMemory, now: Timestamp) -> Result<(Posted, Consequences), StoreError>;

    /// One.
    async fn memory(&self, tenant: &str, id: MemoryId) -> Result<Option<Memory>, StoreError>;

    /// Items, newest first, and how many there are in all.
    async fn memories(&self, filter: &MemoryFilter) -> Result<(Vec<Memory>, u64), StoreError>;
}
