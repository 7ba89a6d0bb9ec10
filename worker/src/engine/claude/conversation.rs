//! One turn with the program, from the prompt to the result.

use std::collections::{BTreeMap, BTreeSet};

use errand_common::domain::{Decision, EventType, FailureClass, NewEvent, ToolCall};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use serde_json::{Value, json};

use super::{
    frames::{Block, Frame, Outcome, Piece, Request, Retry, Tokens, ToolResult},
    process::Process,
    request,
    speech::Speech,
    verdict,
};
use crate::engine::{Spending, Turn, TurnContext, TurnEnd, TurnFailure, code};

/// Most of one tool's answer that an event carries, in bytes.
const TOOL_RESULT_LIMIT: usize = 64 * 1024;

/// What happens in one turn.
pub(super) struct Conversation<'a> {
    turn: &'a Turn,
    context: &'a TurnContext,
    output_limit: usize,
    speech: Speech,
    spending: Option<Spending>,
    meter: Meter,
    /// It made a request, or may have.
    asked_the_model: bool,
    /// Reasoning of the answer under way was streamed.
    thought: bool,
    /// What the last error text was marked with.
    error_name: String,
    questions: FuturesUnordered<BoxFuture<'a, Answered>>,
    /// Calls that wait, by the program's request.
    pending: BTreeMap<String, String>,
    tools: BTreeMap<String, String>,
    withdrawn: BTreeSet<String>,
}

/// A question about a tool, answered.
struct Answered {
    request_id: String,
    call: ToolCall,
    decision: Result<Decision, TurnFailure>,
}

/// How a conversation ended.
pub(super) enum End {
    /// With its result.
    Result(Box<Outcome>),
    /// The program closed its output before.
    Silence,
}

impl<'a> Conversation<'a> {
    pub(super) fn new(turn: &'a Turn, context: &'a TurnContext, output_limit: usize) -> Self {
        Self {
            turn,
            context,
            output_limit,
            speech: Speech::default(),
            spending: None,
            meter: Meter::default(),
            asked_the_model: false,
            thought: false,
            error_name: String::new(),
            questions: FuturesUnordered::new(),
            pending: BTreeMap::new(),
            tools: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
        }
    }

    /// What stands of its text.
    pub(super) fn said(&self) -> &str {
        self.speech.said()
    }

    /// Whether nothing was done yet.
    pub(super) const fn is_untouched(&self) -> bool {
        !self.asked_the_model
    }

    /// Says again what an earlier run of this turn said, if it goes on from there.
    pub(super) async fn go_on_from(&mut self, said: String) -> Result<(), TurnFailure> {
        let (speech, events) = Speech::going_on_from(said);
        self.speech = speech;
        tell(self.context, events).await
    }

    /// Talks until the turn is over.
    ///
    /// # Errors
    /// The run must not go on; the program has not ended.
    pub(super) async fn talk(&mut self, process: &mut Process) -> Result<End, TurnFailure> {
        self.spending = Some(self.context.ledger.begin());
        loop {
            tokio::select! {
                frame = process.next() => match frame? {
                    Some(Frame::Result(outcome)) => return Ok(End::Result(outcome)),
                    Some(frame) => self.hear(frame, process).await?,
                    None => return Ok(End::Silence),
                },
                Some(answered) = self.questions.next(), if !self.questions.is_empty() => {
                    self.answer(answered, process)?;
                }
            }
        }
    }

    async fn hear(&mut self, frame: Frame, process: &Process) -> Result<(), TurnFailure> {
        match frame {
            Frame::Init => self.asked_the_model = true,
            Frame::Retry(retry) => tell(self.context, [progress(&retry)]).await?,
            Frame::Piece { parent, piece } => self.piece(parent.as_deref(), piece).await?,
            Frame::Block { parent, block } => self.block(parent.as_deref(), block).await?,
            Frame::ToolResults(results) => {
                for result in results {
                    let event = self.tool_result(&result);
                    tell(self.context, [event]).await?;
                }
            }
            Frame::Request { id, request } => self.request(id, request, process).await?,
            Frame::Withdrawn { id } => {
                if let Some(call_id) = self.pending.get(&id).cloned() {
                    self.withdrawn.insert(id);
                    self.context.link.withdraw(vec![call_id]).await;
                }
            }
            Frame::Refused { id, error } if id == request::INITIALIZE => {
                let message = format!("the program refuses its beginning: {error}");
                return Err(TurnFailure::new(FailureClass::Fatal, code::ENGINE_UNAVAILABLE, message));
            }
            Frame::Refused { .. } | Frame::Result(_) | Frame::Other => {}
        }
        Ok(())
    }

    async fn piece(&mut self, parent: Option<&str>, piece: Piece) -> Result<(), TurnFailure> {
        let own = parent.is_none();
        match piece {
            Piece::Start(tokens) => {
                self.meter.start(parent, tokens);
                self.spent_so_far();
                if own {
                    self.thought = false;
                    let events = self.speech.settle();
                    tell(self.context, events).await?;
                }
            }
            Piece::Abandoned if own => {
                let events = self.speech.settle();
                tell(self.context, events).await?;
            }
            Piece::Text(text) if own => {
                let event = self.speech.delta(text);
                self.check_length()?;
                tell(self.context, event).await?;
            }
            Piece::Thinking(text) if own => {
                self.thought = true;
                self.context.say(EventType::Thinking, &crate::engine::text::without_nul(text)).await?;
            }
            Piece::Spent(tokens) => {
                self.meter.update(parent, tokens);
                self.spent_so_far();
            }
            Piece::Abandoned | Piece::Text(_) | Piece::Thinking(_) => {}
        }
        Ok(())
    }

    async fn block(&mut self, parent: Option<&str>, block: Block) -> Result<(), TurnFailure> {
        let own = parent.is_none();
        match block {
            Block::Text(text) if own => {
                let events = self.speech.block(text);
                self.check_length()?;
                tell(self.context, events).await?;
            }
            Block::Thinking(text) if own && !self.thought && !text.is_empty() => {
                self.context.say(EventType::Thinking, &crate::engine::text::without_nul(text)).await?;
            }
            Block::ToolUse { id, name, input } => {
                let event = json!({ "toolName": name, "toolInput": input, "toolUseId": id, "parentToolUseId": parent });
                self.tools.insert(id, name);
                tell(self.context, [NewEvent::new(EventType::ToolUse, event)]).await?;
            }
            Block::Error(name) => self.error_name = name,
            Block::Text(_) | Block::Thinking(_) => {}
        }
        Ok(())
    }

    fn tool_result(&mut self, result: &ToolResult) -> NewEvent {
        let name = self.tools.remove(&result.id);
        let output = tool_output(&result.content);
        let output = crate::engine::text::excerpt(&output, TOOL_RESULT_LIMIT);
        let fields = json!({ "toolName": name, "toolUseId": result.id, "output": output, "isError": result.is_error });
        NewEvent::new(EventType::ToolResult, fields)
    }

    async fn request(&mut self, id: String, request: Request, process: &Process) -> Result<(), TurnFailure> {
        match request {
            Request::Tool { call_id, tool, input } => {
                self.pending.insert(id.clone(), call_id.clone());
                let call = ToolCall { id: call_id, tool, input };
                let link = &self.context.link;
                let question = async move {
                    let decisions = link.approve(vec![call.clone()]).await;
                    let denied = || Decision::Deny { message: "nobody decided about this tool call".to_owned() };
                    let decision = decisions.map(|decisions| decisions.into_iter().next().unwrap_or_else(denied));
                    Answered { request_id: id, call, decision }
                };
                self.questions.push(question.boxed());
                Ok(())
            }
            Request::Hook { tool } => {
                // A tool's answer goes back to the model: the next request.
                self.context.link.next_turn().await?;
                let allowed = self.turn.allowed_tools.contains(&tool);
                process.say(&request::before_tool(&id, allowed))
            }
            Request::Unknown { subtype } => process.say(&request::unsupported(&id, &subtype)),
        }
    }

    fn answer(&mut self, answered: Answered, process: &Process) -> Result<(), TurnFailure> {
        let Answered { request_id, call, decision } = answered;
        let decision = decision?;
        self.pending.remove(&request_id);
        if self.withdrawn.remove(&request_id) {
            return Ok(());
        }
        process.say(&request::decided(&request_id, &call.id, &call.input, &decision))
    }

    /// Makes a result the turn's end.
    ///
    /// # Errors
    /// The result says so.
    pub(super) async fn conclude(&mut self, outcome: &Outcome) -> Result<TurnEnd, TurnFailure> {
        self.spent(outcome);
        let events = self.speech.settle();
        tell(self.context, events).await?;
        if outcome.is_error {
            return Err(verdict::failure(outcome, &self.error_name));
        }
        if self.speech.said().is_empty() {
            let events = self.speech.block(outcome.text.clone());
            self.check_length()?;
            tell(self.context, events).await?;
        }
        Ok(TurnEnd { text: self.speech.said().to_owned(), model: None })
    }

    /// Takes in what an interrupted program still said, without telling anybody. Returns whether its turn came to an end.
    pub(super) fn overhear(&mut self, frames: Vec<Frame>) -> bool {
        for frame in frames {
            match frame {
                Frame::Block { parent: None, block: Block::Text(text) } => drop(self.speech.block(text)),
                Frame::Result(outcome) => {
                    // What an answer costs that was cut off in the middle, it does not say.
                    match self.spending.take() {
                        Some(spending) if outcome.terminal_reason != "aborted_tools" => {
                            spending.cut_off(verdict::usage(&outcome));
                        }
                        Some(spending) => spending.report(verdict::usage(&outcome)),
                        None => {}
                    }
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    /// It ended without a word about its costs.
    pub(super) fn nothing_told(&mut self) {
        match self.spending.take() {
            Some(spending) if !self.asked_the_model => spending.nothing(),
            _ => {}
        }
    }

    fn spent(&mut self, outcome: &Outcome) {
        if let Some(spending) = self.spending.take() {
            spending.report(verdict::usage(outcome));
        }
    }

    fn spent_so_far(&self) {
        if let Some(spending) = &self.spending {
            spending.so_far(self.meter.total().usage());
        }
    }

    fn check_length(&self) -> Result<(), TurnFailure> {
        if self.speech.len() <= self.output_limit {
            return Ok(());
        }
        let message = format!("said more than its limit of {} KiB (`output_limit_kib`)", self.output_limit / 1024);
        Err(TurnFailure::new(FailureClass::Fatal, code::OUTPUT_LIMIT, message))
    }
}

/// Sends events in order.
async fn tell<I>(context: &TurnContext, events: I) -> Result<(), TurnFailure>
where
    I: IntoIterator<Item = NewEvent, IntoIter: Send>,
{
    for event in events {
        context.events.send(event).await.map_err(|_| TurnFailure::stopped())?;
    }
    Ok(())
}

fn progress(retry: &Retry) -> NewEvent {
    let Retry { attempt, most, delay_ms, status, error } = retry;
    let answered = status.map_or_else(|| "did not answer".to_owned(), |status| format!("answered {status}"));
    let message =
        format!("the model's server {answered} ({error}); trying again in {delay_ms} ms, {attempt} of {most}");
    let fields = json!({
        "message": message, "attempt": attempt, "maxRetries": most, "delayMs": delay_ms, "status": status, "error": error,
    });
    NewEvent::new(EventType::Progress, fields)
}

/// What a tool said, as text: blocks that are none are named.
fn tool_output(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let text = |block: &Value| match block["text"].as_str() {
                Some(text) => text.to_owned(),
                None => format!("[{}]", block["type"].as_str().unwrap_or("something")),
            };
            blocks.iter().map(text).collect::<Vec<_>>().join("\n")
        }
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// What the answers of one turn cost, as far as they tell.
#[derive(Debug, Default)]
struct Meter {
    finished: Tokens,
    /// Under way, by the call of the sub-agent that answers.
    open: BTreeMap<Option<String>, Tokens>,
}

impl Meter {
    fn start(&mut self, parent: Option<&str>, tokens: Tokens) {
        if let Some(last) = self.open.insert(parent.map(str::to_owned), tokens) {
            self.finished = self.finished.plus(last);
        }
    }

    fn update(&mut self, parent: Option<&str>, tokens: Tokens) {
        let open = self.open.entry(parent.map(str::to_owned)).or_default();
        *open = open.updated(tokens);
    }

    fn total(&self) -> Tokens {
        self.open.values().fold(self.finished, |sum, open| sum.plus(*open))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_counts_of_an_answer_replace_earlier_ones_and_answers_add_up() {
        let tokens = |input, output| Tokens { input, output, ..Tokens::default() };
        let mut meter = Meter::default();
        meter.start(None, tokens(Some(25), Some(1)));
        meter.update(None, tokens(None, Some(5)));
        meter.start(Some("agent"), tokens(Some(10), Some(1)));
        meter.start(None, tokens(Some(30), Some(2)));
        assert_eq!(meter.total(), tokens(Some(65), Some(8)));
    }

    #[test]
    fn what_a_tool_says_is_text() {
        assert_eq!(tool_output(&json!("plain")), "plain");
        assert_eq!(tool_output(&json!([{"type": "text", "text": "a"}, {"type": "image"}])), "a\n[image]");
    }
}
