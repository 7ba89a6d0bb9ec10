use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use errand_common::{
    backend::Backend,
    config::{self, Config},
    domain::{JobId, Priority, RetryPolicy, WorkerId},
    port::store::{Claimed, NewJob, Outcome, Submission},
};

use super::*;
use crate::{
    registry::{Held, Registry, StopReason, tests::hold},
    writer::{Finished, Outbox, Writer},
};

const LEASE: Duration = Duration::from_secs(30);

/// A destination that does as told and remembers under which keys it was called.
struct Fake {
    deduplicates: bool,
    fingerprint: &'static str,
    end: End,
    asked: Asked,
    sent: Mutex<Vec<String>>,
    questions: AtomicUsize,
}

impl Fake {
    fn new(deduplicates: bool, end: End, asked: Asked) -> Self {
        let (sent, questions) = (Mutex::default(), AtomicUsize::new(0));
        Self { deduplicates, fingerprint: "f", end, asked, sent, questions }
    }

    fn sent(&self) -> Vec<String> {
        self.sent.lock().expect("no panic").clone()
    }

    fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Call for Fake {
    fn describe(&self) -> Description {
        Description { kind: "fake", destination: "x:1".to_owned(), fingerprint: self.fingerprint.to_owned() }
    }

    async fn send(&self, key: &str) -> Sent {
        self.sent.lock().expect("no panic").push(key.to_owned());
        Sent { end: self.end.clone(), verdict: Verdict::Success, pause: None }
    }

    async fn ask(&self, _key: &str) -> Asked {
        self.questions.fetch_add(1, Ordering::SeqCst);
        self.asked.clone()
    }

    fn deduplicates(&self) -> bool {
        self.deduplicates
    }
}

/// A store of its own, and the writers of a worker.
struct Place {
    backend: Backend,
    writer: Writer,
    registry: Arc<Registry>,
    policies: Policies,
    _directory: tempfile::TempDir,
}

/// One claim with all that a handler has.
struct Attempt {
    context: RunContext,
    outbox: Arc<Outbox>,
    claimed: Claimed,
    held: Held,
}

impl Place {
    async fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite://{}", directory.path().join("errand.db").display());
        let config = Config::default();
        let backend = Backend::open(&config, &url).await.expect("a database");
        let (writer, loops) = Writer::new(&backend, &config.worker);
        tokio::spawn(loops.finish.run());
        tokio::spawn(loops.intend.run());
        let policies = Policies::new(&config::Gates::default(), LEASE);
        Self { backend, writer, registry: Arc::default(), policies, _directory: directory }
    }

    async fn job(&self) -> JobId {
        let job = NewJob {
            id: JobId::new(),
            tenant: "t".to_owned(),
            kind: "fake".to_owned(),
            queue: "default".to_owned(),
            priority: Priority::default(),
            payload_version: 1,
            payload: json!({}),
            retry: RetryPolicy::HTTP,
            timeout_ms: None,
            run_at: None,
            expires_at: None,
            deadline: None,
            metadata: None,
            retry_of: None,
            user_id: None,
            dedup: None,
            children: Vec::new(),
            task: None,
            coordination: None,
            webhook: None,
            trace: None,
        };
        let id = job.id;
        let submission = Submission { jobs: vec![job], idempotency: None };
        let (results, _) = self.backend.store.submit(vec![submission], self.backend.clock.now()).await;
        assert!(results[0].is_ok(), "{results:?}");
        id
    }

    async fn claim(&self, id: JobId) -> Attempt {
        let now = self.backend.clock.now();
        let (mut claimed, _) =
            self.backend.store.claim(WorkerId::new(), LEASE, &[id], now).await.expect("the store answers");
        let claimed = claimed.claimed.pop().expect("it can be claimed");
        let held = hold(&self.registry, claimed.fence, LEASE);
        let outbox = self.writer.outbox(held.run().clone());
        let context = RunContext::new(
            self.backend.clone(),
            held.run().clone(),
            self.writer.clone(),
            outbox.clone(),
            crate::warm::Warm::new(&errand_common::config::Worker::default()),
        );
        Attempt { context, outbox, claimed, held }
    }

    /// Ends an attempt as a drain would: due again at once.
    async fn hand_back(&self, attempt: Attempt) -> JobId {
        let outcome = Outcome::HandedBack { reason: "drain".to_owned() };
        assert_eq!(self.writer.finish(attempt.outbox, outcome).await, Finished::Written);
        attempt.claimed.job.id
    }

    async fn perform(&self, attempt: &Attempt, call: &Fake) -> Result<Value, HandlerFailure> {
        perform(&attempt.context, &self.policies, 1, call).await
    }

    /// A job of which an earlier run has sent something, and got no answer.
    async fn in_doubt(&self, sent: &Fake) -> Attempt {
        let attempt = self.claim(self.job().await).await;
        self.perform(&attempt, sent).await.expect_err("no answer");
        self.claim(self.hand_back(attempt).await).await
    }
}

fn ok() -> End {
    End::Done(json!({"status": 200}))
}

fn doubt() -> End {
    End::Doubt("no answer".to_owned())
}

fn code(failure: HandlerFailure) -> &'static str {
    match failure {
        HandlerFailure::Failed { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_was_done_is_not_sent_again() {
    let place = Place::new().await;
    let attempt = place.claim(place.job().await).await;
    let key = attempt.claimed.job.id.to_string();
    let call = Fake::new(false, ok(), Asked::Unknown);
    assert_eq!(place.perform(&attempt, &call).await, Ok(json!({"status": 200})));
    let next = place.claim(place.hand_back(attempt).await).await;
    assert_eq!(place.perform(&next, &call).await, Ok(json!({"status": 200})));
    assert_eq!((call.sent(), call.questions()), (vec![key], 0));
}

#[tokio::test]
async fn doubt_is_cleared_up_by_asking() {
    let place = Place::new().await;
    let attempt = place.in_doubt(&Fake::new(true, doubt(), Asked::Unknown)).await;
    let call = Fake::new(true, ok(), Asked::Done(json!({"status": 201})));
    assert_eq!(place.perform(&attempt, &call).await, Ok(json!({"status": 201})));
    assert!(call.sent().is_empty(), "it was there");
    // The answer is the receipt.
    let next = place.claim(place.hand_back(attempt).await).await;
    let silent = Fake::new(true, ok(), Asked::Unknown);
    assert_eq!(place.perform(&next, &silent).await, Ok(json!({"status": 201})));
    assert_eq!((silent.sent().len(), silent.questions()), (0, 0));
}

#[tokio::test]
async fn what_is_not_there_is_sent_again_only_where_the_key_protects() {
    let place = Place::new().await;
    let attempt = place.in_doubt(&Fake::new(true, doubt(), Asked::Unknown)).await;
    let call = Fake::new(true, ok(), Asked::NotThere);
    assert!(place.perform(&attempt, &call).await.is_ok());
    assert_eq!((call.sent(), call.questions()), (vec![attempt.claimed.job.id.to_string()], 1));

    let attempt = place.in_doubt(&Fake::new(true, doubt(), Asked::Unknown)).await;
    let call = Fake::new(false, ok(), Asked::NotThere);
    assert_eq!(code(place.perform(&attempt, &call).await.expect_err("in doubt")), "OUTCOME_UNKNOWN");
    assert!(call.sent().is_empty());
}

#[tokio::test]
async fn a_call_that_must_not_be_doubled_forbids_a_rerun_until_its_end_is_known() {
    let place = Place::new().await;
    let attempt = place.claim(place.job().await).await;
    let call = Fake::new(false, doubt(), Asked::Unknown);
    assert_eq!(code(place.perform(&attempt, &call).await.expect_err("in doubt")), "OUTCOME_UNKNOWN");
    assert!(attempt.held.run().rerun_is_forbidden());

    let attempt = place.claim(place.job().await).await;
    place.perform(&attempt, &Fake::new(false, ok(), Asked::Unknown)).await.expect("done");
    assert!(!attempt.held.run().rerun_is_forbidden());
}

#[tokio::test]
async fn a_run_without_its_lease_or_told_to_stop_sends_nothing_and_leaves_no_doubt() {
    for reason in [StopReason::LeaseLost, StopReason::Revoked, StopReason::Drain] {
        let place = Place::new().await;
        let attempt = place.claim(place.job().await).await;
        attempt.held.run().stop(reason);
        let call = Fake::new(false, ok(), Asked::Unknown);
        assert_eq!(code(place.perform(&attempt, &call).await.expect_err("not sent")), "NOT_SENT", "{reason:?}");
        assert!(call.sent().is_empty(), "{reason:?}");
        if reason == StopReason::Drain {
            let next = place.claim(place.hand_back(attempt).await).await;
            assert!(place.perform(&next, &call).await.is_ok(), "nothing was sent, and the store knows it");
        }
    }
}

#[tokio::test]
async fn another_call_under_the_same_key_is_never_sent() {
    let place = Place::new().await;
    let attempt = place.in_doubt(&Fake::new(true, doubt(), Asked::Unknown)).await;
    let call = Fake { fingerprint: "another", ..Fake::new(true, ok(), Asked::Unknown) };
    assert_eq!(code(place.perform(&attempt, &call).await.expect_err("changed")), "EFFECT_CHANGED");
    assert!(call.sent().is_empty());
}
