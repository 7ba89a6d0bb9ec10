//! Effects: what was about to be done outside, and what is known to have come of it.

use async_trait::async_trait;
use serde_json::Value;

use super::{Stale, StoreError};
use crate::domain::{Effect, Fence, JobId, Receipt, Timestamp};

/// An effect about to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEffect {
    /// Its place among the job's effects, from 1.
    pub ordinal: u32,
    /// The kind of call: `http`, …
    pub kind: String,
    /// Where it goes.
    pub destination: String,
    /// Of what is sent.
    pub fingerprint: String,
    /// As [`Effect::request`]; what was written with an earlier intent stays.
    pub request: Option<String>,
}

/// What came of one effect of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EffectReceipt {
    /// Which.
    pub ordinal: u32,
    /// What came of it.
    pub receipt: Receipt,
}

/// Asks to be allowed to send.
#[derive(Clone, Debug)]
pub struct Intend {
    /// Whose.
    pub fence: Fence,
    /// Receipts of this run that are not written yet.
    pub receipts: Vec<EffectReceipt>,
    /// What is about to be sent.
    pub effect: NewEffect,
}

/// What the store knows of an effect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Intended {
    /// The intent is durable. Nothing was sent under it, or what was sent is known to have failed: send.
    Fresh {
        /// What to send it with.
        key: String,
    },
    /// An earlier run intended it, and nothing is known of what came of it.
    InDoubt {
        /// What it may have been sent with.
        key: String,
    },
    /// It is done: don't send.
    Done {
        /// The destination's answer.
        answer: Value,
    },
    /// The ordinal stands for another call than this one: don't send.
    Changed,
}

/// Effects.
#[async_trait]
pub trait Effects: Send + Sync {
    /// Writes intents, or finds what is known of them. One answer per entry. A run intends each ordinal once; if it has to
    /// repeat the request because the answer was lost, nothing was sent in between, and it is [`Intended::Fresh`]. A receipt that says that the effect failed is
    /// taken back with the new intent: from here on it is in doubt again until the next receipt.
    async fn intend(&self, batch: Vec<Intend>, now: Timestamp) -> Result<Vec<Result<Intended, Stale>>, StoreError>;

    /// The effects of a job by ordinal, the first `limit`; not scoped, as [`super::Reads::timeline`].
    async fn effects(&self, id: JobId, limit: u32) -> Result<Vec<Effect>, StoreError>;
}
