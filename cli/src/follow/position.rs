//! Where a follower stands in a stream, so that a lost connection loses and repeats nothing. Pure.

use serde_json::Value;
use sse_stream::Sse;

/// A frame, judged.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Frame {
    /// The next event.
    Event {
        /// As it came.
        raw: String,
        /// Read.
        event: Value,
    },
    /// An event that was seen before: nothing to show.
    Repeated,
    /// The position was not known: the stream starts over from what is kept.
    Snapshot,
    /// No more will come.
    End,
    /// Nothing of the stream's.
    Other,
}

/// The last event seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Position {
    last: Option<(String, i64)>,
}

impl Position {
    /// What to send as `Last-Event-ID`.
    pub(crate) fn last_event_id(&self) -> Option<String> {
        self.last.as_ref().map(|(epoch, seq)| format!("{epoch}:{seq}"))
    }

    /// Judges a frame and moves on.
    pub(crate) fn accept(&mut self, frame: Sse) -> Frame {
        match frame.event.as_deref() {
            Some("end") => return Frame::End,
            Some("snapshot") => {
                self.last = None;
                return Frame::Snapshot;
            }
            Some(name) if name != "message" => return Frame::Other,
            _ => {}
        }
        let Some(raw) = frame.data else { return Frame::Other };
        let Ok(event) = serde_json::from_str::<Value>(&raw) else { return Frame::Other };
        if let Some((epoch, seq)) = frame.id.as_deref().and_then(parse) {
            if self.last.as_ref().is_some_and(|(known, last)| *known == epoch && seq <= *last) {
                return Frame::Repeated;
            }
            self.last = Some((epoch, seq));
        }
        Frame::Event { raw, event }
    }
}

/// `<epoch>:<seq>`
fn parse(id: &str) -> Option<(String, i64)> {
    let (epoch, seq) = id.rsplit_once(':')?;
    Some((epoch.to_owned(), seq.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: &str) -> Sse {
        Sse::default().id(id).data(r#"{"type":"text","content":"x"}"#)
    }

    fn is_new(frame: &Frame) -> bool {
        matches!(frame, Frame::Event { .. })
    }

    #[test]
    fn a_follower_resumes_after_the_last_event_it_saw() {
        let mut position = Position::default();
        assert_eq!(position.last_event_id(), None);
        assert!(is_new(&position.accept(event("e1:1"))));
        assert!(is_new(&position.accept(event("e1:2"))));
        assert_eq!(position.last_event_id().as_deref(), Some("e1:2"));
    }

    #[test]
    fn an_event_that_comes_again_is_not_shown_again() {
        let mut position = Position::default();
        position.accept(event("e1:5"));
        assert_eq!(position.accept(event("e1:5")), Frame::Repeated);
        assert_eq!(position.accept(event("e1:4")), Frame::Repeated);
        assert_eq!(position.last_event_id().as_deref(), Some("e1:5"));
        assert!(is_new(&position.accept(event("e1:6"))));
    }

    #[test]
    fn a_snapshot_and_a_new_epoch_start_over() {
        let mut position = Position::default();
        position.accept(event("e1:5"));
        assert_eq!(position.accept(Sse::default().event("snapshot").data("{}")), Frame::Snapshot);
        assert!(is_new(&position.accept(event("e1:1"))), "after a snapshot numbers may start over");
        assert!(is_new(&position.accept(event("e2:1"))), "in a new epoch numbers start over");
        assert_eq!(position.last_event_id().as_deref(), Some("e2:1"));
    }

    #[test]
    fn control_frames_and_noise_move_nothing() {
        let mut position = Position::default();
        position.accept(event("e1:5"));
        for (frame, expected) in [
            (Sse::default().event("end").data("{}"), Frame::End),
            (Sse::default().event("news").data("{}").id("e1:9"), Frame::Other),
            (Sse::default().data("not JSON").id("e1:9"), Frame::Other),
            (Sse::default(), Frame::Other),
        ] {
            assert_eq!(position.accept(frame), expected);
            assert_eq!(position.last_event_id().as_deref(), Some("e1:5"));
        }
    }
}
