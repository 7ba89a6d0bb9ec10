//! Tool calls of a task that a person decides about.
//!
//! While one waits, its run holds no slot, and the attempt's clock stands. A decision comes by signal, and is looked for by
//! polling besides. A run whose engine can go on later is parked when it has waited for long enough, when too many wait, or
//! when the worker stops: its next run asks the same again, and finds what was decided.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use errand_common::{
    config,
    domain::{ApprovalId, Decision, FailureClass, ToolCall},
    port::{StoreError, store::Ask},
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    engine::{TurnFailure, code},
    handler::RunContext,
    pace::within,
    warm::Place,
    writer::Unwritten,
};

/// How approvals are waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// A call that nobody decides about for so long is denied.
    expires: Duration,
    /// Between two looks for decisions.
    poll: Duration,
    /// Bounds one call to the store.
    call_limit: Duration,
}

impl Rules {
    pub(super) fn new(config: &config::Worker) -> Self {
        Self {
            expires: Duration::from_secs(config.approval_expires_seconds.into()),
            poll: Duration::from_millis(config.poll_interval_ms.max(10).into()),
            call_limit: Duration::from_secs(config.lease_seconds.into()),
        }
    }
}

/// What one run of a task asks.
pub(super) struct Approvals {
    pub(super) context: Arc<RunContext>,
    pub(super) rules: Rules,
    /// Tools that need no asking.
    pub(super) allowed_tools: Vec<String>,
    /// Its engine can go on in a later run.
    pub(super) can_be_parked: bool,
    /// Answered once all events that the engine sent before are in the outbox.
    pub(super) flush: mpsc::Sender<oneshot::Sender<()>>,
    /// What waits, by the engine's ids of the calls.
    pub(super) waiting: Mutex<HashMap<String, ApprovalId>>,
}

/// A call with what is known of it.
struct Asking {
    call: ToolCall,
    id: ApprovalId,
    decision: Option<Decision>,
}

impl Approvals {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, ApprovalId>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`crate::engine::Link::approve`].
    pub(super) async fn approve(&self, calls: Vec<ToolCall>) -> Result<Vec<Decision>, TurnFailure> {
        let mut asking: Vec<Asking> = calls.into_iter().map(|call| self.open(call)).collect();
        if asking.iter().any(|one| one.decision.is_none()) {
            // From here on, so that none that comes between the question and the wait is missed.
            let news = self.context.run.decided();
            match self.place_before_asking() {
                Ok(place) => {
                    self.ask(&mut asking).await?;
                    self.wait(&mut asking, place, news).await?;
                }
                Err(denial) => {
                    for one in &mut asking {
                        one.decision.get_or_insert_with(|| denial.clone());
                    }
                }
            }
        }
        Ok(asking.into_iter().filter_map(|one| one.decision).collect())
    }

    fn open(&self, call: ToolCall) -> Asking {
        let is_allowed = self.allowed_tools.contains(&call.tool);
        Asking { call, id: ApprovalId::new(), decision: is_allowed.then_some(Decision::Allow) }
    }

    /// The place of a run that can't be parked is taken before anybody is asked: there may be none.
    fn place_before_asking(&self) -> Result<Option<Place>, Decision> {
        if self.can_be_parked {
            return Ok(None);
        }
        self.context.wait_for_person(false).map(Some).ok_or_else(|| {
            let message = "This tool call needs an approval, and as many tasks of this kind wait for one already as this \
                           worker keeps; try again later";
            Decision::Deny { message: message.to_owned() }
        })
    }

    /// Asks what is not decided.
    async fn ask(&self, asking: &mut [Asking]) -> Result<(), TurnFailure> {
        let asks: Vec<_> = asking
            .iter()
            .filter(|one| one.decision.is_none())
            .map(|one| Ask { id: one.id, call: one.call.clone() })
            .collect();
        let run = &self.context.run;
        run.asks_open(asks.iter().map(|ask| ask.id));
        self.flushed().await;
        let expires_at = self.context.backend.clock.now().plus(self.rules.expires);
        let asked = tokio::select! {
            biased;
            () = run.stop_token().cancelled() => return Err(TurnFailure::stopped()),
            asked = self.context.ask(asks, expires_at) => asked,
        };
        let asked = asked.map_err(|unwritten| match unwritten {
            Unwritten::NotHeld => TurnFailure::stopped(),
            Unwritten::Refused => {
                let message = "the database refused the question for an approval; the worker's log says why";
                TurnFailure::new(FailureClass::Fatal, code::EXECUTION_ERROR, message)
            }
        })?;
        let undecided = asking.iter_mut().filter(|one| one.decision.is_none());
        let ids: Vec<_> = undecided
            .zip(asked.decisions)
            .map(|(one, (id, decision))| {
                let asked_as = std::mem::replace(&mut one.id, id);
                one.decision = decision;
                asked_as
            })
            .collect();
        run.asks_closed(&ids);
        run.asks_open(asking.iter().filter(|one| one.decision.is_none()).map(|one| one.id));
        self.waiting()
            .extend(asking.iter().filter(|one| one.decision.is_none()).map(|one| (one.call.id.clone(), one.id)));
        Ok(())
    }

    /// Waits until all are decided.
    async fn wait(
        &self,
        asking: &mut [Asking],
        place: Option<Place>,
        mut news: watch::Receiver<()>,
    ) -> Result<(), TurnFailure> {
        if asking.iter().all(|one| one.decision.is_some()) {
            return Ok(());
        }
        let Some(place) = place.or_else(|| self.context.wait_for_person(true)) else {
            return Err(TurnFailure::stopped());
        };
        let run = &self.context.run;
        loop {
            tokio::select! {
                biased;
                () = run.stop_token().cancelled() => return Err(TurnFailure::stopped()),
                _ = news.changed() => {}
                () = tokio::time::sleep(self.rules.poll) => {}
                () = place.cool() => continue,
            }
            self.look(asking).await;
            if asking.iter().all(|one| one.decision.is_some()) {
                return Ok(());
            }
        }
    }

    /// Reads what was decided. While the store is away nothing is.
    async fn look(&self, asking: &mut [Asking]) {
        let mut open: Vec<_> = asking.iter_mut().filter(|one| one.decision.is_none()).collect();
        let ids: Vec<_> = open.iter().map(|one| one.id).collect();
        let run = &self.context.run;
        match within(self.rules.call_limit, self.context.backend.store.decisions(run.fence(), &ids)).await {
            Ok(decisions) => {
                let mut closed = Vec::new();
                for (one, decision) in open.iter_mut().zip(decisions) {
                    if decision.is_some() {
                        one.decision = decision;
                        closed.push(one.id);
                        self.waiting().remove(&one.call.id);
                    }
                }
                run.asks_closed(&closed);
            }
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => tracing::error!(%error, "decisions about tool calls can't be read"),
        }
    }

    /// See [`crate::engine::Link::withdraw`].
    pub(super) async fn withdraw(&self, call_ids: Vec<String>) {
        let ids: Vec<_> = {
            let mut waiting = self.waiting();
            call_ids.iter().filter_map(|call| waiting.remove(call)).collect()
        };
        if ids.is_empty() {
            return;
        }
        self.flushed().await;
        // A run that may not write is stopping, and its job closes what it asked.
        if self.context.withdraw(ids.clone()).await.is_ok() {
            self.context.run.asks_closed(&ids);
            self.context.run.tell_decided();
        }
    }

    /// Waits until the engine's events so far are in the outbox, so that a question comes after them.
    async fn flushed(&self) {
        let (flushed, done) = oneshot::channel();
        if self.flush.send(flushed).await.is_ok() {
            // The forwarder has ended, with nothing left to forward, if it does not answer.
            let _ = done.await;
        }
    }
}
