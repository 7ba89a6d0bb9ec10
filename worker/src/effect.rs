//! Calls to the outside, each done once: the intent before it, the receipt after it, and what to do when one is missing.
//!
//! ```text
//! gate ─► intent ─► fresh ──────────────► send ─► done, failed ─► receipt
//!                 ├ done ───────────────► (nothing: the receipt answers)
//!                 ├ in doubt ─► ask ─► done ─► receipt
//!                 │                  └ else ─► send again under the same key, if the destination deduplicates by it
//!                 │                         └ ambiguous, if it does not
//!                 └ changed ────────────► fatal
//! ```
//!
//! Receipts ride with the run's end, so a plain call costs one write: its intent.

use std::time::Duration;

use async_trait::async_trait;
use errand_common::{
    domain::{FailureClass, Receipt, gate::Verdict},
    port::store::{Intended, NewEffect},
    telemetry::metric,
};
use serde_json::{Value, json};

use crate::{
    gate::{Closed, Passage, Policies},
    handler::{HandlerFailure, RunContext},
    writer::Unwritten,
};

/// What a call is, before it is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Description {
    /// The kind of call; a label of metrics.
    pub(crate) kind: &'static str,
    /// Where it goes: names the gate.
    pub(crate) destination: String,
    /// Of what is sent: equal for equal calls, in every version of Errand.
    pub(crate) fingerprint: String,
}

/// How a call that was tried ended.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Sent {
    /// What is known of its effect.
    pub(crate) end: End,
    /// What it showed of its destination.
    pub(crate) verdict: Verdict,
    /// How long the destination wants to be left alone.
    pub(crate) pause: Option<Duration>,
}

/// What is known of a call's effect.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum End {
    /// The destination did it.
    Done(Value),
    /// The destination said that it did not, or nothing reached it.
    Failed {
        /// Whether another attempt may help.
        class: FailureClass,
        /// For programs.
        code: &'static str,
        /// For people.
        message: String,
        /// For the receipt.
        answer: Value,
    },
    /// It was sent, and no whole answer came.
    Doubt(String),
    /// It may have been done, can't be found out, and must not be sent again.
    Ambiguous(String),
}

/// What a destination says of an earlier call.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Asked {
    /// It did it, with this answer.
    Done(Value),
    /// It knows nothing of it.
    NotThere,
    /// It can't be asked, or did not say.
    Unknown,
}

/// One call to the outside.
#[async_trait]
pub(crate) trait Call: Send + Sync {
    /// What it is.
    fn describe(&self) -> Description;

    /// What must be the same each time it is sent, where the job alone does not say it: kept with the first intent.
    fn request(&self) -> Option<String> {
        None
    }

    /// Makes it under this key. Bounded in time; dropping the future ends it.
    async fn send(&self, key: &str) -> Sent;

    /// Asks what came of an earlier call under this key.
    async fn ask(&self, key: &str) -> Asked {
        let _ = key;
        Asked::Unknown
    }

    /// Whether the destination does what comes twice under one key once.
    fn deduplicates(&self) -> bool;
}

/// Does effect number `ordinal` of the run's job, unless it is done already. Returns the destination's answer.
///
/// # Errors
/// Why it is not known to be done, and whether another attempt may help.
pub(crate) async fn perform(
    context: &RunContext,
    policies: &Policies,
    ordinal: u32,
    call: &dyn Call,
) -> Result<Value, HandlerFailure> {
    let Description { kind, destination, fingerprint } = call.describe();
    // The gate first: whoever is held back there has intended nothing.
    let passage = Passage::enter(&context.backend, policies, &destination)
        .await
        .map_err(|Closed { until, reason }| HandlerFailure::HeldBack { until, reason: reason.as_str() })?;
    let effect = NewEffect { ordinal, kind: kind.to_owned(), destination, fingerprint, request: call.request() };
    let intended = context.intend(effect).await.map_err(unwritten)?;
    let step = Step { context, ordinal, call, kind };
    match intended {
        Intended::Fresh { key } => step.send(&key, passage, "sent").await,
        Intended::InDoubt { key } => step.clear_up(&key, passage).await,
        Intended::Done { answer } => {
            passage.leave(Verdict::Neutral, None).await;
            count(kind, "skipped");
            Ok(answer)
        }
        Intended::Changed => {
            passage.leave(Verdict::Neutral, None).await;
            count(kind, "failed");
            let message = "the call differs from the one that was intended under the same key; it was not sent";
            Err(failed(FailureClass::Fatal, "EFFECT_CHANGED", message.to_owned(), None))
        }
    }
}

/// One effect on its way.
struct Step<'a> {
    context: &'a RunContext,
    ordinal: u32,
    call: &'a dyn Call,
    kind: &'static str,
}

impl Step<'_> {
    /// An earlier run may have sent it.
    async fn clear_up(&self, key: &str, passage: Passage) -> Result<Value, HandlerFailure> {
        if let Asked::Done(answer) = self.call.ask(key).await {
            passage.leave(Verdict::Success, None).await;
            count(self.kind, "skipped");
            self.context.receipt(self.ordinal, Receipt::Done(answer.clone()));
            return Ok(answer);
        }
        if self.call.deduplicates() {
            return self.send(key, passage, "resent").await;
        }
        passage.leave(Verdict::Neutral, None).await;
        Err(self.ambiguous("an earlier run may have sent it, and was cut off before it knew"))
    }

    async fn send(&self, key: &str, passage: Passage, success: &'static str) -> Result<Value, HandlerFailure> {
        let run = &self.context.run;
        // Between the intent and here the lease may have passed, or the run been told to stop.
        if !run.may_write() || run.stop_reason().is_some() {
            passage.leave(Verdict::Neutral, None).await;
            if success == "sent" {
                self.context.receipt(self.ordinal, Receipt::Failed(json!({"code": "NOT_SENT"})));
            }
            return Err(not_held());
        }
        if !self.call.deduplicates() {
            run.forbid_rerun();
        }
        let Sent { end, verdict, pause } = self.call.send(key).await;
        passage.leave(verdict, pause).await;
        match end {
            End::Done(answer) => {
                run.permit_rerun();
                count(self.kind, success);
                self.context.receipt(self.ordinal, Receipt::Done(answer.clone()));
                Ok(answer)
            }
            End::Failed { class, code, message, answer } => {
                run.permit_rerun();
                count(self.kind, "failed");
                self.context.receipt(self.ordinal, Receipt::Failed(answer));
                Err(failed(class, code, message, pause))
            }
            End::Doubt(message) if self.call.deduplicates() => {
                count(self.kind, "failed");
                Err(HandlerFailure::InDoubt { message })
            }
            End::Doubt(message) => match self.call.ask(key).await {
                Asked::Done(answer) => {
                    count(self.kind, success);
                    self.context.receipt(self.ordinal, Receipt::Done(answer.clone()));
                    Ok(answer)
                }
                Asked::NotThere | Asked::Unknown => Err(self.ambiguous(&message)),
            },
            End::Ambiguous(message) => Err(self.ambiguous(&message)),
        }
    }

    fn ambiguous(&self, message: &str) -> HandlerFailure {
        count(self.kind, "ambiguous");
        let message = format!("{message}; whether it was done is not known, and it must not be sent twice");
        failed(FailureClass::Ambiguous, "OUTCOME_UNKNOWN", message, None)
    }
}

const fn failed(
    class: FailureClass,
    code: &'static str,
    message: String,
    retry_after: Option<Duration>,
) -> HandlerFailure {
    HandlerFailure::Failed { class, code, message, retry_after }
}

/// Nothing of this is written: the run has stopped.
fn not_held() -> HandlerFailure {
    failed(FailureClass::Transient, "NOT_SENT", "the run was stopped before it had sent anything".to_owned(), None)
}

fn unwritten(why: Unwritten) -> HandlerFailure {
    match why {
        Unwritten::NotHeld => not_held(),
        Unwritten::Refused => failed(
            FailureClass::Fatal,
            "INTENT_REFUSED",
            "the database refused the intent of this call, so it was not sent; the worker's log says why".to_owned(),
            None,
        ),
    }
}

fn count(kind: &'static str, result: &'static str) {
    metrics::counter!(metric::EFFECTS_TOTAL, "kind" => kind, "result" => result).increment(1);
}

#[cfg(test)]
mod tests;
