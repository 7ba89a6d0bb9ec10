//! What the viewers have seen of an answer, and what of it stands.
//!
//! Viewers get text as it is streamed. A stream may be abandoned and begun again, so only whole blocks stand; where the
//! two differ, all text is retracted and what stands is said again.

use errand_common::domain::{EventType, NewEvent};
use serde_json::json;

use crate::engine::text::without_nul;

/// Between two blocks of text.
const BETWEEN: &str = "\n\n";

/// The text of one run.
#[derive(Debug, Default)]
pub(super) struct Speech {
    /// What a viewer has, retracted text aside.
    shown: String,
    /// What stands.
    said: String,
}

impl Speech {
    /// What an earlier run of the same turn said, which this one goes on from.
    pub(super) fn going_on_from(said: String) -> (Self, Vec<NewEvent>) {
        if said.is_empty() {
            return (Self::default(), Vec::new());
        }
        let events = vec![retracted(), spoken(&said)];
        (Self { shown: said.clone(), said }, events)
    }

    /// What stands.
    pub(super) fn said(&self) -> &str {
        &self.said
    }

    /// Bytes of all that is shown.
    pub(super) const fn len(&self) -> usize {
        self.shown.len()
    }

    /// More text is streamed.
    pub(super) fn delta(&mut self, text: String) -> Option<NewEvent> {
        if text.is_empty() {
            return None;
        }
        let begins = self.shown.len() == self.said.len() && !self.said.is_empty();
        let text = without_nul(if begins { format!("{BETWEEN}{text}") } else { text });
        self.shown.push_str(&text);
        Some(spoken(&text))
    }

    /// A block of text is whole.
    pub(super) fn block(&mut self, text: String) -> Vec<NewEvent> {
        if text.is_empty() {
            return Vec::new();
        }
        if !self.said.is_empty() {
            self.said.push_str(BETWEEN);
        }
        self.said.push_str(&without_nul(text));
        match self.said.strip_prefix(&self.shown) {
            Some("") => Vec::new(),
            Some(rest) => {
                let event = spoken(rest);
                self.shown.clone_from(&self.said);
                vec![event]
            }
            None => self.settle(),
        }
    }

    /// What was streamed and has not become whole is void.
    pub(super) fn settle(&mut self) -> Vec<NewEvent> {
        if self.shown == self.said {
            return Vec::new();
        }
        self.shown.clone_from(&self.said);
        let again = (!self.said.is_empty()).then(|| spoken(&self.said));
        [retracted()].into_iter().chain(again).collect()
    }
}

fn spoken(text: &str) -> NewEvent {
    NewEvent::new(EventType::Text, json!({ "content": text }))
}

/// All text of the run so far; the store knows where it begins.
fn retracted() -> NewEvent {
    NewEvent::new(EventType::TextRetracted, json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a viewer has in the end, and how often text was retracted.
    #[derive(Default)]
    struct Viewer {
        text: String,
        retractions: u32,
    }

    impl Viewer {
        fn see(&mut self, events: impl IntoIterator<Item = NewEvent>) {
            for event in events {
                match event.kind {
                    EventType::Text => self.text.push_str(event.data["content"].as_str().expect("text")),
                    EventType::TextRetracted => {
                        self.text.clear();
                        self.retractions += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn deltas(speech: &mut Speech, viewer: &mut Viewer, texts: &[&str]) {
        for text in texts {
            viewer.see(speech.delta((*text).to_owned()));
        }
    }

    #[test]
    fn streamed_blocks_stand_as_they_were_streamed() {
        let (mut speech, mut viewer) = (Speech::default(), Viewer::default());
        deltas(&mut speech, &mut viewer, &["Let ", "me see."]);
        viewer.see(speech.block("Let me see.".into()));
        viewer.see(speech.settle());
        deltas(&mut speech, &mut viewer, &["Done."]);
        viewer.see(speech.block("Done.".into()));
        assert_eq!((viewer.text.as_str(), viewer.retractions), ("Let me see.\n\nDone.", 0));
        assert_eq!(speech.said(), viewer.text);
    }

    #[test]
    fn an_abandoned_answer_is_retracted_and_what_stood_before_said_again() {
        let (mut speech, mut viewer) = (Speech::default(), Viewer::default());
        viewer.see(speech.block("First.".into()));
        deltas(&mut speech, &mut viewer, &["Partial ", "answer "]);
        viewer.see(speech.settle());
        assert_eq!(viewer.text, "First.");
        deltas(&mut speech, &mut viewer, &["Partial "]);
        viewer.see(speech.block("Hello.".into()));
        assert_eq!((viewer.text.as_str(), viewer.retractions), ("First.\n\nHello.", 2));
        assert_eq!(speech.said(), viewer.text);
    }

    #[test]
    fn what_was_not_streamed_is_said_when_it_is_whole() {
        let (mut speech, mut viewer) = (Speech::default(), Viewer::default());
        deltas(&mut speech, &mut viewer, &["Hel"]);
        viewer.see(speech.block("Hello\0".into()));
        viewer.see(speech.block("World".into()));
        assert_eq!((viewer.text.as_str(), viewer.retractions), ("Hello\u{FFFD}\n\nWorld", 0));
    }

    #[test]
    fn a_run_that_goes_on_says_again_what_stood() {
        let (mut speech, events) = Speech::going_on_from("First.".into());
        let mut viewer = Viewer { text: "First. and a half".into(), retractions: 0 };
        viewer.see(events);
        viewer.see(speech.block("Second.".into()));
        assert_eq!((viewer.text.as_str(), viewer.retractions), ("First.\n\nSecond.", 1));
        assert_eq!(Speech::going_on_from(String::new()).1, []);
    }
}
