//! Requests of one connection that wait for their answers, and what each was when the connection ended: sent, or not.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use errand_common::domain::FailureClass;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{
    GatewayFailure, Unanswered,
    failure::code,
    frame::{ErrorFrame, Payload, Response},
};

/// An answer.
pub(super) type Outcome = Result<Payload, ErrorFrame>;

/// How far a request has come. It leaves its first stage once: whoever is first decides whether it was sent.
#[derive(Debug, Default)]
pub(super) struct Stage(AtomicU8);

impl Stage {
    const QUEUED: u8 = 0;
    const SENT: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// The writer is about to write it; `false` if nobody wants it any more.
    pub(super) fn send(&self) -> bool {
        self.leave_for(Self::SENT)
    }

    /// Nobody wants it any more; `false` if it may be on its way already.
    pub(super) fn withdraw(&self) -> bool {
        self.leave_for(Self::WITHDRAWN)
    }

    fn leave_for(&self, next: u8) -> bool {
        self.0.compare_exchange(Self::QUEUED, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// What a request without an answer is.
    pub(super) fn unanswered(&self, failure: GatewayFailure) -> Unanswered {
        if self.withdraw() { Unanswered::Refused(failure) } else { Unanswered::Doubt(failure) }
    }
}

#[derive(Debug, Default)]
struct Table {
    waiting: HashMap<String, oneshot::Sender<Outcome>>,
    /// Why the connection ended.
    end: Option<GatewayFailure>,
}

/// Those of one connection.
#[derive(Debug, Default)]
pub(super) struct Requests {
    table: Mutex<Table>,
    ended: CancellationToken,
}

impl Requests {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for the answer to request `id`, or says why none can come.
    pub(super) fn enter(self: &Arc<Self>, id: String) -> Result<Waiting, GatewayFailure> {
        let (answer, answered) = oneshot::channel();
        let mut table = self.table();
        if let Some(end) = &table.end {
            return Err(end.clone());
        }
        table.waiting.insert(id.clone(), answer);
        drop(table);
        Ok(Waiting { requests: self.clone(), id, stage: Arc::new(Stage::default()), answered })
    }

    /// Hands an answer over. A second one to the same request, or one that comes too late, is nobody's.
    pub(super) fn answer(&self, response: Response) {
        let waiting = self.table().waiting.remove(&response.id);
        if waiting.is_none_or(|waiting| waiting.send(response.outcome).is_err()) {
            tracing::debug!(id = response.id, "an answer of a gateway came late, or a second time");
        }
    }

    /// The connection has ended: nobody is answered any more.
    pub(super) fn end(&self, failure: GatewayFailure) {
        let mut table = self.table();
        table.end.get_or_insert(failure);
        let waiting = std::mem::take(&mut table.waiting);
        drop(table);
        drop(waiting);
        self.ended.cancel();
    }

    /// Why the connection ended, if it has.
    pub(super) fn ended(&self) -> Option<GatewayFailure> {
        self.table().end.clone()
    }

    /// Returns once it has.
    pub(super) async fn wait_for_end(&self) {
        self.ended.cancelled().await;
    }
}

/// One request, from before it is sent. Dropped, it is sent no more if it was not yet.
#[derive(Debug)]
pub(super) struct Waiting {
    requests: Arc<Requests>,
    id: String,
    pub(super) stage: Arc<Stage>,
    answered: oneshot::Receiver<Outcome>,
}

impl Waiting {
    /// The answer, or why there is none.
    pub(super) async fn answer(&mut self) -> Result<Outcome, Unanswered> {
        (&mut self.answered).await.map_err(|_| {
            let end = self.requests.ended();
            let unknown = || GatewayFailure::new(FailureClass::Transient, code::CLOSED, "the connection ended");
            self.stage.unanswered(end.unwrap_or_else(unknown))
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.stage.withdraw();
        self.requests.table().waiting.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> GatewayFailure {
        GatewayFailure::new(FailureClass::Transient, code::CLOSED, "cut")
    }

    fn answer(id: &str) -> Response {
        Response { id: id.to_owned(), outcome: Ok(Payload::default()) }
    }

    #[tokio::test]
    async fn what_was_not_sent_is_refused_and_what_was_is_in_doubt() {
        let requests = Arc::new(Requests::default());
        let mut unsent = requests.enter("1".into()).expect("open");
        let mut sent = requests.enter("2".into()).expect("open");
        assert!(sent.stage.send());
        requests.end(failure());
        assert!(matches!(unsent.answer().await, Err(Unanswered::Refused(_))));
        assert!(matches!(sent.answer().await, Err(Unanswered::Doubt(_))));
        assert_eq!(requests.enter("3".into()).expect_err("ended"), failure());
    }

    #[tokio::test]
    async fn answers_find_their_request_once() {
        let requests = Arc::new(Requests::default());
        let mut first = requests.enter("1".into()).expect("open");
        let mut second = requests.enter("2".into()).expect("open");
        for id in ["2", "1", "1", "9"] {
            requests.answer(answer(id));
        }
        assert!(first.answer().await.expect("answered").is_ok());
        assert!(second.answer().await.expect("answered").is_ok());
    }

    #[test]
    fn a_request_that_nobody_waits_for_is_not_sent() {
        let requests = Arc::new(Requests::default());
        let waiting = requests.enter("1".into()).expect("open");
        let stage = waiting.stage.clone();
        drop(waiting);
        assert!(!stage.send());
        assert!(requests.table().waiting.is_empty());
    }
}
