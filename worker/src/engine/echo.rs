//! `echo`: a trial engine. It understands nothing and says the prompt back, word by word, so that everything around an
//! engine can be seen at work without one.

use std::time::Duration;

use async_trait::async_trait;
use errand_common::{config::EchoEngine, domain::EventType};

use super::{Availability, Capabilities, Engine, Turn, TurnContext, TurnEnd, TurnFailure};

/// The trial engine.
pub(super) struct Echo {
    word_delay: Duration,
}

impl Echo {
    pub(super) fn new(config: &EchoEngine) -> Self {
        Self { word_delay: Duration::from_millis(config.word_delay_ms.into()) }
    }

    async fn speak(&self, turn: Turn, context: &TurnContext) -> Result<TurnEnd, TurnFailure> {
        for word in words(&turn.prompt) {
            if !self.word_delay.is_zero() {
                tokio::time::sleep(self.word_delay).await;
            }
            if context.must_end_by.borrow().has_passed() {
                return Err(TurnFailure::lease_over());
            }
            context.say(EventType::Text, word).await?;
        }
        Ok(TurnEnd { text: turn.prompt, model: Some("echo".to_owned()) })
    }
}

#[async_trait]
impl Engine for Echo {
    fn capabilities(&self) -> Capabilities {
        Capabilities { streaming: true, ..Capabilities::default() }
    }

    async fn availability(&self) -> Availability {
        Availability::Available
    }

    async fn run(&self, turn: Turn, context: TurnContext) -> Result<TurnEnd, TurnFailure> {
        tokio::select! {
            biased;
            () = context.stop.cancelled() => Err(TurnFailure::stopped()),
            end = self.speak(turn, &context) => end,
        }
    }
}

/// The words of a text, each with the white space that follows it: together they are the text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let space = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (word, after) = rest.split_at(space);
        let gap = after.find(|c: char| !c.is_whitespace()).unwrap_or(after.len());
        let (piece, after) = rest.split_at(word.len() + gap);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{mpsc, watch};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        engine::{
            Ledger,
            trial::{TrialLink, turn},
        },
        guard::MonotonicInstant,
    };

    #[test]
    fn words_together_are_the_text() {
        for text in ["", " ", "one", "one  two\n", "  lead", "\u{4f60}\u{597d} \u{3000}x"] {
            assert_eq!(words(text).collect::<String>(), text);
        }
        assert_eq!(words("a  b c").collect::<Vec<_>>(), ["a  ", "b ", "c"]);
    }

    #[tokio::test]
    async fn the_prompt_comes_back_word_by_word() {
        let (events, mut heard) = mpsc::channel(64);
        let (_lease, must_end_by) = watch::channel(MonotonicInstant::now().plus(Duration::from_secs(60)));
        let context = TurnContext {
            events,
            stop: CancellationToken::new(),
            must_end_by,
            ledger: Ledger::default(),
            link: Arc::new(TrialLink::allowing()),
        };
        let echo = Echo::new(&EchoEngine { word_delay_ms: 1, ..EchoEngine::default() });
        let end = echo.run(turn("say it back"), context);
        assert_eq!(end.await.expect("echo succeeds").text, "say it back");
        let mut said = Vec::new();
        while let Some(event) = heard.recv().await {
            assert_eq!(event.kind, EventType::Text);
            said.push(event.data["content"].as_str().expect("text").to_owned());
        }
        assert_eq!(said, ["say ", "it ", "back"]);
    }

    #[tokio::test]
    async fn a_stop_ends_it_between_words() {
        let (events, mut heard) = mpsc::channel(64);
        let (_lease, must_end_by) = watch::channel(MonotonicInstant::now().plus(Duration::from_secs(600)));
        let stop = CancellationToken::new();
        let context = TurnContext {
            events,
            stop: stop.clone(),
            must_end_by,
            ledger: Ledger::default(),
            link: Arc::new(TrialLink::allowing()),
        };
        let slow = Echo::new(&EchoEngine { word_delay_ms: 200, ..EchoEngine::default() });
        let run = tokio::spawn(async move { slow.run(turn(&"word ".repeat(10_000)), context).await });
        heard.recv().await.expect("a first word");
        stop.cancel();
        run.await.expect("no panic").expect_err("stopped");
    }
}
