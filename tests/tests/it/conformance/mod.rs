//! The promises of the store, run against each database that claims to keep them.

#![expect(clippy::unwrap_used, reason = "a panic is how a test reports")]

mod access;
mod approval;
mod attachment;
mod bus;
mod callback;
mod control;
mod coordination;
mod dedup;
mod effect;
mod engine_state;
mod family;
mod gate;
mod hang;
mod line;
mod park;
mod place;
mod queue;
mod read;
mod retain;
mod retry;
mod run;
mod schema;
mod submit;
mod sweep;
mod usage;
mod user;
mod vault;
mod webhook;
mod workers;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use errand_common::{
    adapter::sql::{self, Migration, OpenOptions, SchemaCheck},
    domain::{
        Failure, FailureClass, JobId, NewEvent, OnBusy, Priority, RetryPolicy, SessionId, Stream, Timestamp, WorkerId,
        event::EventType,
    },
    port::{
        Store,
        store::{
            Claimed, Created, Finish, IdempotencyRecord, Interruption, NewJob, NewTask, Outcome, Refused, Submission,
            Submitted, WorkerInfo,
        },
    },
};
use errand_tests::postgres::Postgres;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

pub(crate) const TENANT: &str = "acme";
pub(crate) const LEASE: Duration = Duration::from_secs(30);
pub(crate) const MARKER: &str = "\n[interrupted]";

/// A store of its own, on one of the databases.
pub(crate) struct Fixture {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) check: Arc<dyn SchemaCheck>,
    url: String,
    _directory: tempfile::TempDir,
}

fn options() -> OpenOptions {
    OpenOptions {
        migration: Migration::Apply,
        max_connections: 8,
        renewal_connections: 1,
        acquire_timeout: Duration::from_secs(30),
        answer_timeout: Duration::from_secs(30),
        idle_transaction: Duration::from_secs(1),
        interrupted_marker: MARKER.to_owned(),
    }
}

pub(crate) async fn sqlite() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", directory.path().join("errand.db").display());
    let (store, check) = sql::open(&url, &options()).await.unwrap();
    Fixture { store, check, url, _directory: directory }
}

pub(crate) async fn postgres() -> Fixture {
    let url = Postgres::shared().await.create_database().await.unwrap();
    let (store, check) = sql::open(&url, &options()).await.unwrap();
    Fixture { store, check, url, _directory: tempfile::tempdir().unwrap() }
}

/// Each body becomes a test on each database.
macro_rules! on_both {
    ($($(#[$meta:meta])* async fn $name:ident($fixture:ident: Fixture) $body:block)+) => {
        $(
            $(#[$meta])*
            mod $name {
                use super::*;
                async fn body($fixture: Fixture) $body
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn sqlite() {
                    body(crate::conformance::sqlite().await).await;
                }
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn postgres() {
                    body(crate::conformance::postgres().await).await;
                }
            }
        )+
    };
}
pub(crate) use on_both;

pub(crate) fn now() -> Timestamp {
    chrono::Utc::now().into()
}

pub(crate) fn plain_job() -> NewJob {
    NewJob {
        id: JobId::new(),
        tenant: TENANT.to_owned(),
        kind: "task".to_owned(),
        queue: "default".to_owned(),
        priority: Priority::default(),
        payload: json!({"prompt": "hello"}),
        payload_version: 1,
        retry: RetryPolicy::TASK,
        timeout_ms: None,
        run_at: None,
        expires_at: None,
        deadline: None,
        metadata: None,
        retry_of: None,
        user_id: None,
        task: None,
        dedup: None,
        children: Vec::new(),
        coordination: None,
        webhook: None,
        trace: None,
    }
}

pub(crate) fn task(session: Option<SessionId>, prompt: &str, on_busy: OnBusy) -> NewJob {
    let task = NewTask {
        session_id: session,
        fresh: SessionId::new(),
        engine: "echo".to_owned(),
        system_prompt: None,
        prompt: prompt.to_owned(),
        title: prompt.to_owned(),
        voice_mode: false,
        on_busy,
        attachments: vec![],
        metered: false,
        interruption: Interruption::Task,
        instance_id: None,
    };
    NewJob { task: Some(task), ..plain_job() }
}

pub(crate) fn record(key: &str, fingerprint: &str, answer: Value) -> IdempotencyRecord {
    IdempotencyRecord {
        tenant: TENANT.to_owned(),
        owner: "owner".to_owned(),
        key: key.to_owned(),
        fingerprint: fingerprint.to_owned(),
        status: 202,
        answer,
        expires_at: now().plus(Duration::from_secs(3600)),
    }
}

pub(crate) fn failure(class: FailureClass) -> Failure {
    Failure { class, code: "EXECUTION_ERROR".to_owned(), message: "it broke".to_owned(), attempt: 1 }
}

pub(crate) fn text(content: &str) -> NewEvent {
    NewEvent::new(EventType::Text, json!({"content": content}))
}

impl Fixture {
    /// Past the store, as an operator or a fault would.
    pub(crate) async fn tamper(&self, sql: &'static str) {
        if self.url.starts_with("sqlite") {
            SqliteConnection::connect(&self.url).await.unwrap().execute(sql).await.unwrap();
        } else {
            PgConnection::connect(&self.url).await.unwrap().execute(sql).await.unwrap();
        }
    }

    /// One number, read past the store.
    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        if self.url.starts_with("sqlite") {
            sqlx::query_scalar(sql).fetch_one(&mut SqliteConnection::connect(&self.url).await.unwrap()).await.unwrap()
        } else {
            sqlx::query_scalar(sql).fetch_one(&mut PgConnection::connect(&self.url).await.unwrap()).await.unwrap()
        }
    }

    pub(crate) async fn submit(&self, job: NewJob) -> Result<Created, Refused> {
        let submission = Submission { jobs: vec![job], idempotency: None };
        let (mut results, _) = self.store.submit(vec![submission], now()).await;
        match results.remove(0).unwrap() {
            Submitted::Done(mut made) => made.remove(0),
            other => panic!("{other:?}"),
        }
    }

    /// Registers a worker that lives for a lease.
    pub(crate) async fn worker(&self) -> WorkerId {
        let id = WorkerId::new();
        let info = WorkerInfo {
            id,
            host: "host".to_owned(),
            version: "0".to_owned(),
            queues: vec!["default".to_owned()],
            kinds: BTreeMap::from([("task".to_owned(), 1)]),
            engines: vec![],
            concurrency: 1,
            running: 0,
            draining: false,
            drainable: true,
            started_at: now(),
            alive_until: now(),
        };
        self.store.register_worker(&info, LEASE).await.unwrap();
        id
    }

    pub(crate) async fn claim(&self, id: JobId, lease: Duration) -> Claimed {
        let worker = self.worker().await;
        self.claim_as(worker, id, lease).await
    }

    pub(crate) async fn claim_as(&self, worker: WorkerId, id: JobId, lease: Duration) -> Claimed {
        let claimed = &mut self.store.claim(worker, lease, &[id], now()).await.unwrap().0.claimed;
        assert_eq!(claimed.len(), 1, "{id} can be claimed");
        claimed.remove(0)
    }

    pub(crate) async fn claim_alone(&self, id: JobId) -> Claimed {
        let worker = self.worker().await;
        self.store.claim_alone(worker, LEASE, id, now()).await.unwrap().0.unwrap()
    }

    pub(crate) async fn finish(&self, claimed: &Claimed, outcome: Outcome) -> bool {
        let entry = Finish::new(claimed.fence, outcome);
        self.store.finish(vec![entry], now()).await.unwrap().0.remove(0).is_ok()
    }

    pub(crate) async fn complete(&self, claimed: &Claimed, answer: &str) -> bool {
        let outcome = Outcome::Completed { result: json!({"summary": answer}), message: Some(answer.to_owned()) };
        self.finish(claimed, outcome).await
    }

    pub(crate) async fn job(&self, id: JobId) -> errand_common::domain::Job {
        self.store.job(TENANT, id).await.unwrap().unwrap()
    }

    /// The types of a stream's events, after checking that its numbers have no gap and agree with its tail.
    pub(crate) async fn events(&self, stream: Stream) -> Vec<EventType> {
        let events = self.store.events(stream, 0, 10_000).await.unwrap();
        let numbers: Vec<_> = events.iter().map(|event| event.seq_in(stream).unwrap()).collect();
        assert_eq!(numbers, (1..=i64::try_from(events.len()).unwrap()).collect::<Vec<_>>(), "{stream} has a gap");
        let state = self.store.stream(TENANT, stream).await.unwrap().unwrap();
        assert_eq!(state.tail_seq, i64::try_from(events.len()).unwrap(), "the tail of {stream}");
        events.into_iter().map(|event| event.kind).collect()
    }

    /// What was said in a session, in order.
    pub(crate) async fn said(&self, session: SessionId) -> Vec<String> {
        let messages = self.store.messages(session, 0, 1_000).await.unwrap();
        messages.into_iter().map(|message| message.content).collect()
    }
}
