//! How servers of one kind are spoken to.

use errand_common::domain::ToolCall;
use serde_json::Value;

use super::{
    failure::{ErrorBody, Refusal},
    progress::Round,
};
use crate::engine::{TurnFailure, prices::Tokens};

/// How one kind of server is spoken to; one value a turn.
pub(in crate::engine) trait Protocol: Send + Sync {
    /// The body of the request that follows these rounds.
    fn request(&self, rounds: &[Round]) -> Value;

    /// After a refusal: speaks plainer from now on, if that may help.
    fn adapt(&mut self, _refusal: &Refusal) -> bool {
        false
    }

    /// What puts the answer together.
    fn listen(&self) -> Box<dyn Listener>;
}

/// Puts one answer together from the pieces it comes in.
pub(in crate::engine) trait Listener: Send {
    /// Takes one piece.
    ///
    /// # Errors
    /// The server says that it can't go on.
    fn take(&mut self, piece: &Value) -> Result<Vec<Said>, ErrorBody>;

    /// The server has said that nothing follows.
    fn done(&mut self) {}

    /// Nothing is missing but perhaps the token counts.
    fn is_complete(&self) -> bool;

    /// Nothing more is worth waiting for.
    fn is_over(&self) -> bool;

    /// Bytes of what was said so far, and is kept: text, reasoning, tool calls, and whatever else the server wants back.
    fn size(&self) -> usize;

    /// The model that answers, if it said so.
    fn model(&self) -> Option<&str>;

    /// What the answer spent, as far as it is known now.
    fn spent(&self) -> Spent;

    /// The end of a complete answer.
    ///
    /// # Errors
    /// The model said that it has no answer.
    fn finish(self: Box<Self>) -> Result<Answer, TurnFailure>;
}

/// Something to pass on at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::engine) enum Said {
    Text(String),
    Thinking(String),
}

/// What is known of what an answer spent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) enum Spent {
    /// Nothing is known.
    Unknown,
    /// So much, and maybe more.
    AtLeast(Tokens),
    /// All of it.
    Exactly(Tokens),
}

/// A whole answer.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::engine) struct Answer {
    /// The assistant's part as its server wants it back in the next request.
    pub(in crate::engine) said: Value,
    /// Its text.
    pub(in crate::engine) text: String,
    /// What it wants to be done.
    pub(in crate::engine) calls: Vec<ToolCall>,
    /// The server paused a long turn: it goes on when its own words are sent back.
    pub(in crate::engine) paused: bool,
    /// For people, if the answer is not what it might have been.
    pub(in crate::engine) note: Option<&'static str>,
    /// The model that gave it.
    pub(in crate::engine) model: Option<String>,
}
