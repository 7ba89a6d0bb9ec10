//! From an agent's news to what a viewer sees, and to the whole answer. News may be missing; the gateway's history is the truth.

use std::time::Duration;

use errand_common::domain::{EventType, FailureClass};

use super::{TurnContext, TurnFailure, code, failed};
use crate::gateway::{ChatNews, ChatState, Delivered, Gateway, GatewayFailure, HistoryRequest, RunEndStatus, Watch};

/// Without news for so long, the history is looked at.
const SILENCE: Duration = Duration::from_secs(15);
/// A turn that neither runs nor has an answer is looked for so often, so far apart, before it counts as lost: it may be about to
/// begin.
const LOOKS: u32 = 3;
const LOOK: Duration = Duration::from_millis(500);
/// Rows of the history that are looked through for an answer, and most characters of each: as many as gateways tell.
const ROWS: u32 = 200;
const MOST_CHARS: u32 = 500_000;

/// How a turn ended.
pub(super) enum Ended {
    /// With this text.
    Answered(String),
    /// The gateway failed or lost it: it may be asked again, under another key.
    Gone(TurnFailure),
}

/// What the gateway says of a turn when asked.
enum Look {
    /// It goes on, or waits for the end of another.
    UnderWay,
    Answered(String),
    Failed(String),
    Lost,
}

/// Listens to one turn.
pub(super) struct Listener<'a> {
    gateway: &'a Gateway,
    session_key: &'a str,
    key: &'a str,
    watch: Watch,
    /// What viewers were shown.
    said: String,
}

impl<'a> Listener<'a> {
    /// Before the prompt is said, so that nothing is missed.
    pub(super) async fn open(gateway: &'a Gateway, session_key: &'a str, key: &'a str) -> Result<Self, TurnFailure> {
        let watch = gateway.watch(session_key, Some(key)).await;
        let watch = watch.map_err(|unanswered| failed(unanswered.failure()))?;
        Ok(Self { gateway, session_key, key, watch, said: String::new() })
    }

    /// Listens until it is over.
    pub(super) async fn until_over(
        &mut self,
        delivered: Delivered,
        context: &TurnContext,
    ) -> Result<Ended, TurnFailure> {
        // One that was said by an earlier run may be over already.
        let mut must_look = delivered == Delivered::Found;
        let mut lost = 0;
        loop {
            if must_look {
                match self.look().await {
                    Ok(Look::Answered(text)) => return self.answered(text, context).await,
                    Ok(Look::Failed(why)) => return Ok(Ended::Gone(turn_failed(why))),
                    Ok(Look::UnderWay) => (lost, must_look) = (0, false),
                    Ok(Look::Lost) if lost < LOOKS => {
                        lost += 1;
                        tokio::time::sleep(LOOK).await;
                        continue;
                    }
                    Ok(Look::Lost) => return Ok(Ended::Gone(turn_failed("the gateway lost the turn"))),
                    // The agent goes on meanwhile: the attempt's own limit bounds the wait.
                    Err(failure) if failure.may_pass() => {
                        tokio::time::sleep(failure.retry_after.unwrap_or_default().max(LOOK)).await;
                        continue;
                    }
                    Err(failure) => return Err(failed(&failure)),
                }
            }
            let news = match tokio::time::timeout(SILENCE, self.watch.next()).await {
                Ok(news) => news.map_err(|failure| failed(&failure))?,
                Err(_) => ChatNews::Gap,
            };
            match news {
                ChatNews::Gap => must_look = true,
                ChatNews::Event(event) => match event.state {
                    ChatState::Delta { text, replace, whole } => self.say(&text, replace, whole, context).await?,
                    ChatState::Final { text: Some(text) } => return self.answered(text, context).await,
                    ChatState::Final { text: None } => must_look = true,
                    ChatState::Aborted { .. } => {
                        let message = "the turn was stopped at the gateway";
                        return Err(TurnFailure::new(FailureClass::Fatal, code::EXECUTION_ERROR, message));
                    }
                    ChatState::Error { failure, .. } => return Err(failed(&failure)),
                    ChatState::Status { .. } | ChatState::Other => {}
                },
            }
        }
    }

    /// Asks the gateway how the turn stands.
    async fn look(&self) -> Result<Look, GatewayFailure> {
        let request = HistoryRequest { limit: ROWS, offset: 0, max_chars: Some(MOST_CHARS) };
        let page = self.gateway.history(self.session_key, &request).await;
        let page = page.map_err(|unanswered| unanswered.failure().clone())?;
        if page.is_under_way(self.key) {
            return Ok(Look::UnderWay);
        }
        if let Some(answer) = page.answer(self.key) {
            return Ok(Look::Answered(answer));
        }
        // The last resort: gateways tell the beginning of a long answer only.
        let end = self.gateway.wait_for_run(self.key, Duration::ZERO).await;
        let end = end.map_err(|unanswered| unanswered.failure().clone())?;
        Ok(match end.status {
            RunEndStatus::Error => Look::Failed(end.error.unwrap_or_else(|| "the turn failed".to_owned())),
            RunEndStatus::Ok => Look::Answered(end.text.unwrap_or_default()),
            RunEndStatus::Unknown => Look::Lost,
        })
    }

    async fn say(
        &mut self,
        text: &str,
        replace: bool,
        whole: Option<String>,
        context: &TurnContext,
    ) -> Result<(), TurnFailure> {
        match whole {
            Some(whole) => self.show(&whole, context).await,
            None if replace => self.show(text, context).await,
            None if text.is_empty() => Ok(()),
            None => {
                self.said.push_str(text);
                context.say(EventType::Text, text).await
            }
        }
    }

    /// Viewers have been shown exactly this, after it.
    async fn show(&mut self, whole: &str, context: &TurnContext) -> Result<(), TurnFailure> {
        match whole.strip_prefix(self.said.as_str()) {
            Some("") => return Ok(()),
            Some(rest) => context.say(EventType::Text, rest).await?,
            None => context.retract(whole).await?,
        }
        whole.clone_into(&mut self.said);
        Ok(())
    }

    async fn answered(&mut self, text: String, context: &TurnContext) -> Result<Ended, TurnFailure> {
        self.show(&text, context).await?;
        Ok(Ended::Answered(text))
    }
}

fn turn_failed(why: impl Into<String>) -> TurnFailure {
    TurnFailure::new(FailureClass::Transient, code::EXECUTION_ERROR, why)
}
