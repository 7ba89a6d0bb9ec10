//! `echo`: a trial engine. It understands nothing and says the prompt back, word by word, so that everything around an
//! engine can be seen at work without one.
//!
//! Where it `asks`, it also plays an engine with tools: it asks about each line `!tool NAME JSON` of the prompt whether the
//! tool may be called so, lines that follow each other all at once, and says what was decided in place of the line. Nothing is
//! called. A run that starts over asks again, and finds what was decided.

use std::time::Duration;

use async_trait::async_trait;
use errand_common::{
    config::EchoEngine,
    domain::{Decision, EventType, FailureClass, NewEvent, ToolCall},
};
use serde_json::json;

use super::{Availability, Capabilities, Engine, Turn, TurnContext, TurnEnd, TurnFailure, code};

/// The trial engine.
pub(super) struct Echo {
    word_delay: Duration,
    asks: bool,
    resumes: bool,
}

impl Echo {
    pub(super) fn new(config: &EchoEngine) -> Self {
        Self {
            word_delay: Duration::from_millis(config.word_delay_ms.into()),
            asks: config.asks,
            resumes: config.asks && config.resumes,
        }
    }

    async fn speak(&self, turn: Turn, context: &TurnContext) -> Result<TurnEnd, TurnFailure> {
        let pieces = if self.asks { script(&turn.prompt)? } else { vec![Piece::Text(turn.prompt)] };
        let mut said = String::new();
        for piece in pieces {
            let text = match piece {
                Piece::Text(text) => text,
                Piece::Calls(calls) => ask(calls, context).await?,
            };
            self.say(&text, context).await?;
            said.push_str(&text);
        }
        Ok(TurnEnd { text: said, model: Some("echo".to_owned()) })
    }

    async fn say(&self, text: &str, context: &TurnContext) -> Result<(), TurnFailure> {
        for word in words(text) {
            if !self.word_delay.is_zero() {
                tokio::time::sleep(self.word_delay).await;
            }
            if context.must_end_by.borrow().has_passed() {
                return Err(TurnFailure::lease_over());
            }
            context.say(EventType::Text, word).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Engine for Echo {
    fn capabilities(&self) -> Capabilities {
        Capabilities { streaming: true, approvals: self.asks, resume: self.resumes, ..Capabilities::default() }
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

/// A part of a prompt that asks.
#[derive(PartialEq, Debug)]
enum Piece {
    /// To be said.
    Text(String),
    /// To be asked, all at once.
    Calls(Vec<ToolCall>),
}

/// A prompt's lines, those alike taken together.
fn script(prompt: &str) -> Result<Vec<Piece>, TurnFailure> {
    let mut pieces = Vec::new();
    for (number, line) in prompt.split_inclusive('\n').enumerate() {
        let Some(call) = line.strip_prefix("!tool ") else {
            match pieces.last_mut() {
                Some(Piece::Text(text)) => text.push_str(line),
                _ => pieces.push(Piece::Text(line.to_owned())),
            }
            continue;
        };
        let (tool, input) = call.trim().split_once(char::is_whitespace).unwrap_or((call.trim(), "{}"));
        let input = serde_json::from_str(input).map_err(|error| {
            let message = format!("line {}: {input:?} is no JSON: {error}; write !tool NAME JSON", number + 1);
            TurnFailure::new(FailureClass::Invalid, code::EXECUTION_ERROR, message)
        })?;
        let call = ToolCall { id: format!("line-{}", number + 1), tool: tool.to_owned(), input };
        match pieces.last_mut() {
            Some(Piece::Calls(calls)) => calls.push(call),
            _ => pieces.push(Piece::Calls(vec![call])),
        }
    }
    Ok(pieces)
}

/// Asks, and says a line about each decision.
async fn ask(calls: Vec<ToolCall>, context: &TurnContext) -> Result<String, TurnFailure> {
    let decisions = context.link.approve(calls.clone()).await?;
    let mut text = String::new();
    for (call, decision) in calls.into_iter().zip(decisions) {
        match decision {
            Decision::Allow => {
                let data = json!({"toolUseId": call.id, "toolName": call.tool, "toolInput": call.input});
                let used = context.events.send(NewEvent::new(EventType::ToolUse, data)).await;
                used.map_err(|_| TurnFailure::stopped())?;
                text.push_str("allowed\n");
            }
            Decision::Deny { message } => text.push_str(&format!("denied: {message}\n")),
        }
    }
    Ok(text)
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

    /// Runs a prompt to its end: what it returned, and the events on the way.
    async fn run(
        config: EchoEngine,
        link: Arc<TrialLink>,
        prompt: &str,
    ) -> (Result<TurnEnd, TurnFailure>, Vec<NewEvent>) {
        let (events, mut heard) = mpsc::channel(64);
        let (_lease, must_end_by) = watch::channel(MonotonicInstant::now().plus(Duration::from_secs(60)));
        let stop = CancellationToken::new();
        let context = TurnContext { events, stop, must_end_by, ledger: Ledger::default(), link };
        let end = Echo::new(&config).run(turn(prompt), context).await;
        let mut all = Vec::new();
        while let Some(event) = heard.recv().await {
            all.push(event);
        }
        (end, all)
    }

    fn fast() -> EchoEngine {
        EchoEngine { word_delay_ms: 0, ..EchoEngine::default() }
    }

    #[tokio::test]
    async fn the_prompt_comes_back_word_by_word() {
        let (end, events) = run(fast(), Arc::new(TrialLink::allowing()), "say it back\n!tool Bash {}").await;
        assert_eq!(end.expect("echo succeeds").text, "say it back\n!tool Bash {}", "it asks only if it is told to");
        let said: Vec<_> = events.iter().filter_map(|event| event.data["content"].as_str()).collect();
        assert_eq!(said, ["say ", "it ", "back\n", "!tool ", "Bash ", "{}"]);
    }

    #[tokio::test]
    async fn an_asking_one_asks_lines_that_follow_each_other_at_once_and_says_what_was_decided() {
        let link = Arc::new(TrialLink::deciding(|call| match call.tool.as_str() {
            "Bash" => Decision::Allow,
            _ => Decision::Deny { message: "not today".to_owned() },
        }));
        let prompt = "first\n!tool Bash {\"command\": \"ls -l\"}\n!tool Write\nthen\n!tool Bash {}\n";
        let (end, events) = run(EchoEngine { asks: true, ..fast() }, link.clone(), prompt).await;
        assert_eq!(end.expect("it ends").text, "first\nallowed\ndenied: not today\nthen\nallowed\n");
        let used: Vec<_> = events.iter().filter(|event| event.kind == EventType::ToolUse).collect();
        assert_eq!(used.len(), 2, "what was denied is not used");
        assert_eq!(used[0].data["toolInput"], json!({"command": "ls -l"}));
        let asked: Vec<_> = link.remembered().asked.into_iter().map(|call| (call.id, call.tool)).collect();
        let wanted = [("line-2", "Bash"), ("line-3", "Write"), ("line-5", "Bash")];
        assert_eq!(asked, wanted.map(|(id, tool)| (id.to_owned(), tool.to_owned())));
    }

    #[tokio::test]
    async fn a_tool_line_that_is_no_json_is_named() {
        let (end, _) =
            run(EchoEngine { asks: true, ..fast() }, Arc::new(TrialLink::allowing()), "x\n!tool Bash ls").await;
        let failure = end.expect_err("it fails");
        assert_eq!(failure.class, FailureClass::Invalid);
        assert!(failure.message.contains("line 2"), "{failure}");
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
