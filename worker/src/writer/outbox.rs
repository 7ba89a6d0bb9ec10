//! The events of one run on their way to the store.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use errand_common::{
    domain::{EventType, NewEvent},
    port::store::{AgentWritten, EffectReceipt, EngineState, Release},
};
use serde_json::Value;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};

use crate::{engine::Ledger, registry::Run};

/// A delta grows by those that follow it to about so many bytes.
const DELTA_BYTES: usize = 32 * 1024;
/// What an event costs beside its text.
const EVENT_BYTES: usize = 64;

/// Events of one run, in order. Whoever holds its commit lock is the only one to take events out and write them, so that
/// they reach the store in the order they came in.
#[derive(Debug)]
pub(crate) struct Outbox {
    run: Arc<Run>,
    waiting: Mutex<Waiting>,
    /// What came of the run's effects, as far as it is not written yet: bounded by their number.
    receipts: Mutex<Vec<EffectReceipt>>,
    /// What the run spends.
    ledger: Ledger,
    /// What its engine needs to go on with the conversation.
    engine_state: Mutex<Option<EngineState>>,
    /// What it did to an agent of a gateway.
    agent: Mutex<Option<AgentWritten>>,
    room: Notify,
    commit: Arc<AsyncMutex<()>>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<NewEvent>,
    bytes: usize,
    /// The writer knows of them.
    announced: bool,
}

/// What a push asks of the writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Announce {
    Needed,
    Done,
}

impl Outbox {
    pub(super) fn new(run: Arc<Run>, limit: usize) -> Self {
        Self {
            run,
            waiting: Mutex::default(),
            receipts: Mutex::default(),
            ledger: Ledger::default(),
            engine_state: Mutex::default(),
            agent: Mutex::default(),
            room: Notify::new(),
            commit: Arc::default(),
            limit: limit.max(EVENT_BYTES),
        }
    }

    pub(super) const fn run(&self) -> &Arc<Run> {
        &self.run
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event; waits while too much is waiting already.
    pub(super) async fn push(&self, event: NewEvent) -> Announce {
        loop {
            {
                let mut waiting = self.waiting();
                if waiting.bytes < self.limit {
                    waiting.push(event);
                    return if std::mem::replace(&mut waiting.announced, true) {
                        Announce::Done
                    } else {
                        Announce::Needed
                    };
                }
            }
            self.room.notified().await;
        }
    }

    /// The right to write events of this run; `None` while another has it.
    pub(super) fn try_commit(&self) -> Option<OwnedMutexGuard<()>> {
        self.commit.clone().try_lock_owned().ok()
    }

    /// The right to write events of this run.
    pub(super) async fn commit(&self) -> OwnedMutexGuard<()> {
        self.commit.clone().lock_owned().await
    }

    /// All that waits. The caller holds the commit lock.
    pub(super) fn take(&self) -> Vec<NewEvent> {
        let mut waiting = self.waiting();
        waiting.bytes = 0;
        waiting.announced = false;
        let events = std::mem::take(&mut waiting.events);
        drop(waiting);
        self.room.notify_one();
        events.into()
    }

    /// Keeps what came of an effect, to be written with the run's end or its next intent.
    pub(super) fn keep(&self, receipt: EffectReceipt) {
        self.receipts.lock().unwrap_or_else(PoisonError::into_inner).push(receipt);
    }

    /// What the run spends.
    pub(crate) const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Keeps what the run's engine needs to go on, to be written with the run's end.
    pub(crate) fn checkpoint(&self, state: EngineState) {
        *self.engine_state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }

    /// What was kept last.
    pub(crate) fn engine_state(&self) -> Option<EngineState> {
        self.engine_state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps what the run did to an agent, to be written with its end.
    pub(crate) fn wrote_agent(&self, written: AgentWritten) {
        *self.agent.lock().unwrap_or_else(PoisonError::into_inner) = Some(written);
    }

    /// What the run did to an agent.
    pub(super) fn agent(&self) -> Option<AgentWritten> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is left to say of a run whose job was ended from outside.
    pub(crate) fn release(&self) -> Release {
        Release { fence: self.run.fence(), usage: self.ledger.report(), engine_state: self.engine_state() }
    }

    /// Whether there are receipts to be written.
    pub(crate) fn has_receipts(&self) -> bool {
        !self.receipts.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The receipts that are not known to be written.
    pub(super) fn receipts(&self) -> Vec<EffectReceipt> {
        self.receipts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first so many of them are written.
    pub(super) fn receipts_written(&self, count: usize) {
        let mut receipts = self.receipts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = count.min(receipts.len());
        receipts.drain(..count);
    }

    /// Puts back what could not be written, before all that came since. Returns whether the writer must be told.
    pub(super) fn put_back(&self, events: Vec<NewEvent>) -> Announce {
        let mut waiting = self.waiting();
        waiting.bytes += events.iter().map(size).sum::<usize>();
        for event in events.into_iter().rev() {
            waiting.events.push_front(event);
        }
        if std::mem::replace(&mut waiting.announced, true) { Announce::Done } else { Announce::Needed }
    }
}

impl Waiting {
    fn push(&mut self, event: NewEvent) {
        match self.events.back_mut() {
            Some(last) if joins(last, &event) => self.bytes += append_content(last, &event),
            _ => {
                self.bytes += size(&event);
                self.events.push_back(event);
            }
        }
    }
}

/// The text of a delta that carries nothing else.
fn content(event: &NewEvent) -> Option<&str> {
    if !matches!(event.kind, EventType::Text | EventType::Thinking) {
        return None;
    }
    let fields = event.data.as_object()?;
    if fields.len() == 1 { fields.get("content")?.as_str() } else { None }
}

/// Whether `next` only goes on where `last` stopped.
fn joins(last: &NewEvent, next: &NewEvent) -> bool {
    last.kind == next.kind
        && matches!((content(last), content(next)), (Some(a), Some(b)) if a.len() + b.len() <= DELTA_BYTES)
}

/// Returns by how many bytes it grew.
fn append_content(last: &mut NewEvent, next: &NewEvent) -> usize {
    let (Some(Value::String(text)), Some(more)) = (last.data.get_mut("content"), content(next)) else { return 0 };
    text.push_str(more);
    more.len()
}

fn size(event: &NewEvent) -> usize {
    EVENT_BYTES + content(event).map_or_else(|| json_size(&event.data), str::len)
}

/// About how many bytes a value takes as JSON.
fn json_size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| json_size(item) + 1).sum::<usize>() + 2,
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| name.len() + 4 + json_size(value)).sum::<usize>() + 2
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use serde_json::json;

    use super::*;
    use crate::registry::{
        Registry,
        tests::{fence, hold},
    };

    fn outbox(limit: usize) -> Outbox {
        let registry = Arc::new(Registry::default());
        let held = hold(&registry, fence(), Duration::from_secs(30));
        Outbox::new(held.run().clone(), limit)
    }

    fn text(content: &str) -> NewEvent {
        NewEvent::new(EventType::Text, json!({ "content": content }))
    }

    fn thinking(content: &str) -> NewEvent {
        NewEvent::new(EventType::Thinking, json!({ "content": content }))
    }

    #[tokio::test]
    async fn deltas_in_a_row_become_one_and_order_is_kept() {
        let outbox = outbox(1 << 20);
        let tool = NewEvent::new(EventType::ToolUse, json!({ "name": "ls" }));
        let all = [thinking("h"), thinking("m"), text("a"), text("b"), tool.clone(), text("c"), thinking("x")];
        for event in all {
            outbox.push(event).await;
        }
        assert_eq!(outbox.take(), vec![thinking("hm"), text("ab"), tool, text("c"), thinking("x")]);
        assert!(outbox.take().is_empty());
    }

    #[tokio::test]
    async fn text_after_a_retraction_stays_after_it() {
        let outbox = outbox(1 << 20);
        let retracted = NewEvent::new(EventType::TextRetracted, json!({}));
        for event in [text("a"), text("b"), retracted.clone(), text("c"), text("d")] {
            outbox.push(event).await;
        }
        assert_eq!(outbox.take(), vec![text("ab"), retracted, text("cd")]);
    }

    #[tokio::test]
    async fn a_delta_that_carries_more_than_its_text_stays_alone() {
        let outbox = outbox(1 << 20);
        let marked = NewEvent::new(EventType::Text, json!({ "content": "b", "index": 1 }));
        for event in [text("a"), marked.clone(), text("c")] {
            outbox.push(event).await;
        }
        assert_eq!(outbox.take(), vec![text("a"), marked, text("c")]);
    }

    #[tokio::test]
    async fn a_joined_delta_stays_of_bounded_size() {
        let outbox = outbox(1 << 20);
        let chunk = "x".repeat(DELTA_BYTES / 2);
        for _ in 0..5 {
            outbox.push(text(&chunk)).await;
        }
        let events = outbox.take();
        assert_eq!(events.len(), 3);
        assert!(events.iter().all(|event| content(event).is_some_and(|text| text.len() <= DELTA_BYTES)));
    }

    #[tokio::test]
    async fn a_flooding_engine_waits_until_there_is_room() {
        let outbox = outbox(100);
        assert_eq!(outbox.push(text(&"x".repeat(200))).await, Announce::Needed);
        let mut blocked = Box::pin(outbox.push(text("y")));
        assert!(blocked.as_mut().now_or_never().is_none(), "the second must wait");
        assert_eq!(outbox.take().len(), 1);
        assert_eq!(blocked.await, Announce::Needed, "what was taken is no longer announced");
        assert_eq!(outbox.take(), vec![text("y")]);
    }

    #[tokio::test]
    async fn what_could_not_be_written_goes_before_what_came_since() {
        let outbox = outbox(1 << 20);
        outbox.push(text("a")).await;
        let taken = outbox.take();
        assert_eq!(outbox.push(text("b")).await, Announce::Needed);
        assert_eq!(outbox.put_back(taken), Announce::Done);
        assert_eq!(outbox.take(), vec![text("a"), text("b")]);
    }
}
