//! What a trial has seen of its task: every event once and in order, or it has failed. Pure.

use anyhow::bail;
use serde_json::Value;

use crate::exit;

/// The stream so far.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Number of the last event.
    seq: i64,
    outcome: Option<&'static str>,
    ended: bool,
}

impl Log {
    /// Takes a frame in; returns what is worth saying of it.
    ///
    /// # Errors
    /// The server refused, or an event is missing, doubled or out of order.
    pub(super) fn take(&mut self, frame: &Value) -> anyhow::Result<Option<String>> {
        let text = |name: &str| frame.get(name).and_then(Value::as_str).unwrap_or_default();
        match text("type") {
            "event" => {
                let seq = frame.get("seq").and_then(Value::as_i64).unwrap_or_default();
                if seq != self.seq + 1 {
                    bail!("event {seq} came after event {}: the stream has a gap or says things twice", self.seq);
                }
                self.seq = seq;
                let what = text("event_type");
                self.outcome = self.outcome.or_else(|| exit::state_after(what));
                let detail = if what == "error" { text("message") } else { "" };
                Ok(Some(format!("{seq} {what} {detail}").trim_end().to_owned()))
            }
            "end" => {
                self.ended = true;
                Ok(None)
            }
            "error" => bail!("the server refused the stream: {}", text("detail")),
            _ => Ok(None),
        }
    }

    /// Nothing more will come.
    pub(super) const fn ended(&self) -> bool {
        self.ended
    }

    /// The state the task ended in.
    pub(super) const fn outcome(&self) -> Option<&'static str> {
        self.outcome
    }

    /// In a few words.
    pub(super) fn describe(&self) -> String {
        format!("{} after {} events", self.outcome.unwrap_or("unfinished"), self.seq)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(seq: i64, event_type: &str) -> Value {
        json!({"type": "event", "seq": seq, "event_type": event_type})
    }

    #[test]
    fn a_whole_stream_ends_with_the_tasks_outcome() {
        let mut log = Log::default();
        for frame in [json!({"type": "subscribed", "id": 1}), event(1, "queued"), event(2, "completed")] {
            log.take(&frame).expect("in order");
        }
        assert!(!log.ended(), "the server has the last word");
        log.take(&json!({"type": "end"})).expect("the end");
        assert!(log.ended());
        assert_eq!(log.outcome(), Some("completed"));
        assert_eq!(log.describe(), "completed after 2 events");
    }

    #[test]
    fn a_gap_a_repetition_and_a_refusal_fail_it() {
        for frames in [
            vec![event(2, "text")],
            vec![event(1, "queued"), event(1, "queued")],
            vec![json!({"type": "error", "detail": "no such job"})],
        ] {
            let mut log = Log::default();
            assert!(frames.iter().any(|frame| log.take(frame).is_err()), "{frames:?}");
        }
    }
}
