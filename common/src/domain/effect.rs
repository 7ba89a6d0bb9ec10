//! Effects: calls to the outside, each with an intent written before it and a receipt written after it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{JobId, Timestamp};

/// What came of an effect. Without one, nobody knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "result", content = "answer", rename_all = "snake_case")]
pub enum Receipt {
    /// The destination did it. It is not asked again; the answer is what the handler needs to go on.
    Done(Value),
    /// The destination said that it did not do it, or was not reached: it may be asked again, under the same key.
    Failed(Value),
}

impl Receipt {
    /// One word for people and programs.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Failed(_) => "failed",
        }
    }

    /// What the destination answered.
    #[must_use]
    pub const fn answer(&self) -> &Value {
        match self {
            Self::Done(answer) | Self::Failed(answer) => answer,
        }
    }
}

/// An effect as kept.
#[derive(Clone, PartialEq, Debug)]
pub struct Effect {
    /// The job it belongs to.
    pub job_id: JobId,
    /// Its place among the job's effects, from 1.
    pub ordinal: u32,
    /// What the destination knows it by.
    pub key: String,
    /// The kind of call: `http`, …
    pub kind: String,
    /// Where it goes: `host:port` for what speaks HTTP.
    pub destination: String,
    /// Of what is sent; the key never stands for two different calls.
    pub fingerprint: String,
    /// What must be the same each time it is sent, where the job alone does not say it: written with the first intent.
    pub request: Option<String>,
    /// The claim that intended it last.
    pub claim: i64,
    /// The attempt that intended it last.
    pub attempt: u32,
    /// When it was intended last, before it was sent.
    pub intent_at: Timestamp,
    /// What came of it, and when that was written.
    pub receipt: Option<(Receipt, Timestamp)>,
}

/// The key of a job's effect: the same in every attempt, on every worker, after every deploy.
#[must_use]
pub fn key(job: JobId, ordinal: u32) -> String {
    if ordinal <= 1 { job.to_string() } else { format!("{job}:{ordinal}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_effect_is_known_by_its_jobs_id() {
        let id = JobId::new();
        assert_eq!(key(id, 1), id.to_string());
        assert_eq!(key(id, 2), format!("{id}:2"));
    }

    #[test]
    fn a_receipt_is_kept_with_its_word() {
        let receipt = Receipt::Done(json!({"status": 200}));
        let kept = serde_json::to_value(&receipt).expect("plain data");
        assert_eq!(kept, json!({"result": "done", "answer": {"status": 200}}));
        assert_eq!(serde_json::from_value::<Receipt>(kept).expect("read again"), receipt);
    }
}
