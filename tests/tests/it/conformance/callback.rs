//! What bridges say, whatever state their job is in; and instances and tickets as rows.

use std::time::Duration;

use errand_common::{
    domain::{
        EventType, FailureClass, InstanceId, JobId, JobState, OnBusy, SessionId, Stream, Timestamp, Usage,
        instance::{Instance, InstanceStatus, Said},
    },
    port::store::{
        Callback, Claimed, EffectReceipt, Finish, InstanceChange, Intend, Intended, NewEffect, NewJob, NewTask,
        Outcome, Received, SessionFilter, coordination::Removed,
    },
    wire::instance::{KIND, POLL},
};
use serde_json::json;

use super::{Fixture, LEASE, TENANT, coordination::cancel, failure, now, on_both, record, task};

const SECOND: Duration = Duration::from_secs(1);

fn instance() -> Instance {
    Instance {
        id: InstanceId::new(),
        tenant: TENANT.to_owned(),
        name: "near".to_owned(),
        user_id: None,
        server_host: Some("127.0.0.1".to_owned()),
        host_port: 9100,
        status: InstanceStatus::Running,
        callback_secret: None,
        poll_seconds: None,
        created_at: now(),
        updated_at: now(),
    }
}

fn prompt(instance: InstanceId, session: Option<SessionId>) -> NewJob {
    let mut job = task(session, "what is new?", OnBusy::Enqueue);
    let asked = NewTask { instance_id: Some(instance), engine: "openclaw".to_owned(), ..job.task.take().unwrap() };
    NewJob { kind: KIND.to_owned(), payload: json!({"instanceId": instance}), task: Some(asked), ..job }
}

fn done(result: &str) -> Said {
    Said::Done { result: result.to_owned(), usage: None }
}

fn piece(content: &str, number: Option<i64>) -> Said {
    Said::Piece { content: content.to_owned(), number }
}

fn broken() -> Said {
    Said::Failed { class: FailureClass::Fatal, code: "EXECUTION_ERROR".to_owned(), message: "no".to_owned() }
}

impl Fixture {
    async fn kept_instance(&self) -> InstanceId {
        let new = instance();
        let id = new.id;
        assert_eq!(self.store.create_instance(new, None, now()).await.unwrap(), None);
        id
    }

    /// A prompt for an instance, whose dispatch is intended.
    async fn dispatched(&self) -> (JobId, SessionId, Claimed) {
        let made = self.submit(prompt(self.kept_instance().await, None)).await.unwrap();
        let run = self.claim(made.id, LEASE).await;
        assert!(matches!(self.dispatch(&run, 1).await, Intended::Fresh { .. }));
        (made.id, made.session_id.unwrap(), run)
    }

    async fn dispatch(&self, run: &Claimed, ordinal: u32) -> Intended {
        let effect = NewEffect {
            ordinal,
            kind: KIND.to_owned(),
            destination: format!("bridge-{ordinal}:1"),
            fingerprint: "f".to_owned(),
            request: Some(format!("token {ordinal} of claim {}", run.fence.claim)),
        };
        let entry = Intend { fence: run.fence, receipts: vec![], effect };
        self.store.intend(vec![entry], now()).await.unwrap().remove(0).unwrap()
    }

    async fn parked(&self, until: Timestamp) -> (JobId, SessionId, Claimed) {
        let (id, session, run) = self.dispatched().await;
        let receipt = errand_common::domain::Receipt::Done(json!({"status": 202}));
        let mut end = Finish::new(run.fence, Outcome::AwaitingCallback { until, poll_every: Some(SECOND) });
        end.receipts = vec![EffectReceipt { ordinal: 1, receipt }];
        assert_eq!(self.store.finish(vec![end], now()).await.unwrap().0, [Ok(())]);
        let job = self.job(id).await;
        assert_eq!((job.state, job.lease_until), (JobState::AwaitingCallback, None));
        (id, session, run)
    }

    async fn says(&self, id: JobId, ordinal: u32, said: Said) -> Received {
        let callback = Callback { tenant: TENANT.to_owned(), job_id: id, ordinal, said };
        self.store.call_back(vec![callback], now()).await.unwrap().0[0]
    }

    async fn count_of(&self, id: JobId, kind: EventType) -> usize {
        self.events(Stream::Job(id)).await.into_iter().filter(|seen| *seen == kind).count()
    }
}

fn later(by: Duration) -> Timestamp {
    now().plus(by)
}

on_both! {
    async fn an_answer_ends_a_parked_job_once(fixture: Fixture) {
        let (id, session, _) = fixture.parked(later(LEASE)).await;
        let usage = Usage { input_tokens: 3, output_tokens: 4, ..Usage::default() };
        let said = Said::Done { result: "much".to_owned(), usage: Some(usage) };
        assert_eq!(fixture.says(id, 1, said.clone()).await, Received::Accepted);
        assert_eq!(fixture.says(id, 1, said.clone()).await, Received::Repeated);
        let job = fixture.job(id).await;
        assert_eq!((job.state, job.failure), (JobState::Completed, None));
        let result = job.result.unwrap();
        assert_eq!((&result["summary"], &result["tokensUsed"]), (&json!("much"), &json!(7)));
        assert_eq!(fixture.said(session).await, ["what is new?", "much"]);
        assert_eq!(fixture.store.usage_of(TENANT, id).await.unwrap().len(), 1);
        use EventType::{Completed, Queued, SessionInfo, Started, TaskInfo, Text};
        let told = [SessionInfo, TaskInfo, Queued, Started, Queued, Text, EventType::Usage, Completed];
        assert_eq!(fixture.events(Stream::Job(id)).await, told);
        assert_eq!(fixture.events(Stream::Session(session)).await, told);

        assert_eq!(fixture.says(id, 1, done("other")).await, Received::Late);
        assert_eq!(fixture.says(id, 1, broken()).await, Received::Late);
        assert_eq!(fixture.says(id, 1, said).await, Received::Repeated, "still");
        assert_eq!(fixture.count_of(id, EventType::LateCallback).await, 1, "told of once");
        assert_eq!(fixture.job(id).await.state, JobState::Completed);
    }

    async fn an_answer_that_comes_before_its_acknowledgement_wins(fixture: Fixture) {
        let (id, session, run) = fixture.dispatched().await;
        let next = fixture.submit(prompt(fixture.store.instance_of(TENANT, id).await.unwrap().unwrap().id, Some(session))).await.unwrap();
        assert_eq!(next.state, JobState::Blocked);
        assert_eq!(fixture.says(id, 1, done("fast")).await, Received::Accepted);
        assert_eq!(fixture.job(id).await.state, JobState::Completed);
        assert_eq!(fixture.job(next.id).await.state, JobState::Blocked, "the holder has not let go");
        assert!(!fixture.finish(&run, Outcome::AwaitingCallback { until: later(LEASE), poll_every: None }).await);
        assert!(fixture.store.release(run.fence.into(), now()).await.unwrap().0.is_ok());
        assert_eq!(fixture.job(next.id).await.state, JobState::Queued);
        let effects = fixture.store.effects(id, 10).await.unwrap();
        assert!(effects[0].receipt.is_some(), "it is known to have arrived");
        assert_eq!(fixture.said(session).await, ["what is new?", "fast", "what is new?"]);
    }

    async fn an_answer_counts_in_every_state_before_the_end(fixture: Fixture) {
        let wait = |run: &Claimed| (run.job.id, later(LEASE));
        for (state, outcome) in [
            (JobState::Running, None),
            (JobState::Retrying, Some(Outcome::Retry { failure: failure(FailureClass::Transient), run_at: later(LEASE) })),
            (JobState::Scheduled, Some(Outcome::HeldBack { run_at: later(LEASE), reason: "destination_busy".to_owned() })),
            (JobState::Queued, Some(Outcome::HandedBack { reason: "drain".to_owned() })),
        ] {
            for said in [done("yes"), broken()] {
                let (id, _, run) = fixture.dispatched().await;
                if let Some(outcome) = outcome.clone() {
                    assert!(fixture.finish(&run, outcome).await, "{:?}", wait(&run));
                }
                assert_eq!(fixture.job(id).await.state, state);
                let ends = if said == broken() { JobState::Failed } else { JobState::Completed };
                assert_eq!(fixture.says(id, 1, said).await, Received::Accepted, "{state}");
                assert_eq!(fixture.job(id).await.state, ends, "{state}");
            }
        }
    }

    async fn what_nobody_dispatched_is_unknown(fixture: Fixture) {
        let (id, _, _) = fixture.parked(later(LEASE)).await;
        assert_eq!(fixture.says(JobId::new(), 1, done("x")).await, Received::Unknown);
        assert_eq!(fixture.says(id, 2, done("x")).await, Received::Unknown);
        let foreign = Callback { tenant: "other".to_owned(), job_id: id, ordinal: 1, said: done("x") };
        assert_eq!(fixture.store.call_back(vec![foreign], now()).await.unwrap().0, [Received::Unknown]);
        let fresh = fixture.submit(prompt(fixture.kept_instance().await, None)).await.unwrap().id;
        assert_eq!(fixture.says(fresh, 1, done("x")).await, Received::Unknown, "nothing was sent yet");
        assert_eq!(fixture.job(id).await.state, JobState::AwaitingCallback);
        assert_eq!(fixture.store.instance_of("other", id).await.unwrap(), None);
    }

    async fn a_dispatch_under_another_number_supersedes_the_one_before(fixture: Fixture) {
        let (id, _, run) = fixture.dispatched().await;
        assert!(fixture.finish(&run, Outcome::HandedBack { reason: "drain".to_owned() }).await);
        let again = fixture.claim(id, LEASE).await;
        assert!(matches!(fixture.dispatch(&again, 1).await, Intended::InDoubt { .. }));
        let request = fixture.store.effects(id, 10).await.unwrap()[0].request.clone();
        assert_eq!(request.as_deref(), Some("token 1 of claim 1"), "what was written first stays");
        assert!(matches!(fixture.dispatch(&again, 2).await, Intended::Fresh { .. }));
        assert_eq!(fixture.says(id, 1, done("old")).await, Received::Superseded);
        assert_eq!(fixture.job(id).await.state, JobState::Running);
        assert_eq!(fixture.says(id, 2, done("new")).await, Received::Accepted);
    }

    async fn a_cancelled_job_stays_cancelled(fixture: Fixture) {
        let (id, session, _) = fixture.parked(later(LEASE)).await;
        drop(fixture.store.cancel(cancel(id)).await.unwrap().unwrap());
        assert_eq!(fixture.says(id, 1, done("late")).await, Received::Late);
        assert_eq!(fixture.job(id).await.state, JobState::Cancelled);
        assert_eq!(fixture.said(session).await, ["what is new?"]);
        assert_eq!(fixture.count_of(id, EventType::LateCallback).await, 1);
    }

    async fn an_empty_answer_is_one(fixture: Fixture) {
        let (id, session, _) = fixture.parked(later(LEASE)).await;
        assert_eq!(fixture.says(id, 1, done("")).await, Received::Accepted);
        assert_eq!(fixture.job(id).await.result.unwrap()["summary"], "");
        assert_eq!(fixture.said(session).await, ["what is new?"]);
        assert_eq!(fixture.count_of(id, EventType::Text).await, 0);
    }

    async fn pieces_are_shown_once_and_the_answer_completes_or_replaces_them(fixture: Fixture) {
        for (result, answer, retracted, texts) in
            [("ab c", "ab c", 0, 3), ("", "ab", 0, 2), ("other", "other", 1, 3), ("ab", "ab", 0, 2)]
        {
            let (id, session, _) = fixture.parked(later(LEASE)).await;
            assert_eq!(fixture.says(id, 1, piece("a", Some(1))).await, Received::Accepted);
            assert_eq!(fixture.says(id, 1, piece("a", Some(1))).await, Received::Repeated);
            assert_eq!(fixture.says(id, 1, piece("b", Some(2))).await, Received::Accepted);
            assert_eq!(fixture.says(id, 1, done(result)).await, Received::Accepted);
            assert_eq!(fixture.said(session).await, ["what is new?", answer], "{result:?}");
            assert_eq!(fixture.job(id).await.result.unwrap()["summary"], answer);
            assert_eq!(fixture.count_of(id, EventType::TextRetracted).await, retracted, "{result:?}");
            assert_eq!(fixture.count_of(id, EventType::Text).await, texts, "{result:?}");
            assert_eq!(fixture.says(id, 1, piece("b", Some(2))).await, Received::Repeated);
            assert_eq!(fixture.says(id, 1, piece("c", None)).await, Received::Late);
        }
    }

    async fn many_say_things_at_once_and_each_counts_once(fixture: Fixture) {
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(fixture.parked(later(LEASE)).await.0);
        }
        let all: Vec<_> = (0..20)
            .flat_map(|_| &ids)
            .map(|id| Callback { tenant: TENANT.to_owned(), job_id: *id, ordinal: 1, said: done("yes") })
            .collect();
        let (left, right) = all.split_at(50);
        let (left, right) = tokio::join!(
            fixture.store.call_back(left.to_vec(), now()),
            fixture.store.call_back(right.to_vec(), now()),
        );
        let answers = [left.unwrap().0, right.unwrap().0].concat();
        let count = |wanted| answers.iter().filter(|answer| **answer == wanted).count();
        assert_eq!((count(Received::Accepted), count(Received::Repeated)), (5, 95));
        for id in ids {
            assert_eq!(fixture.count_of(id, EventType::Completed).await, 1);
        }
    }

    async fn what_is_not_called_back_in_time_fails(fixture: Fixture) {
        let (id, session, _) = fixture.parked(later(SECOND)).await;
        let (other, _, _) = fixture.parked(later(LEASE)).await;
        let instance = fixture.store.instance_of(TENANT, id).await.unwrap().unwrap().id;
        let next = fixture.submit(prompt(instance, Some(session))).await.unwrap();
        let at = later(2 * SECOND);
        assert_eq!(fixture.store.expire_callbacks("too late", now(), 10).await.unwrap().0, 0);
        assert_eq!(fixture.store.expire_callbacks("too late", at, 10).await.unwrap().0, 1);
        assert_eq!(fixture.store.expire_callbacks("too late", at, 10).await.unwrap().0, 0);
        let failed = fixture.job(id).await.failure.unwrap();
        assert_eq!((failed.class, failed.code.as_str(), failed.message.as_str()), (FailureClass::Timeout, "TIMEOUT", "too late"));
        assert_eq!(fixture.job(next.id).await.state, JobState::Queued, "its conversation goes on");
        assert_eq!(fixture.says(id, 1, done("late")).await, Received::Late);
        assert_eq!(fixture.job(other).await.state, JobState::AwaitingCallback);
    }

    async fn bridges_are_asked_again_and_again(fixture: Fixture) {
        let (id, _, _) = fixture.parked(later(LEASE)).await;
        for round in 1..=2 {
            let at = later(3 * round * SECOND);
            assert_eq!(fixture.store.poll_callbacks(at, 10).await.unwrap().0, 1);
            assert_eq!(fixture.store.poll_callbacks(at, 10).await.unwrap().0, 0, "not before its time");
        }
        let filter = errand_common::port::store::JobFilter { kind: Some(POLL.to_owned()), limit: 10, ..Default::default() };
        let polls = fixture.store.jobs(TENANT, &filter).await.unwrap();
        assert_eq!(polls.len(), 2);
        assert!(polls.iter().all(|poll| poll.payload == json!({"jobId": id})), "{polls:?}");
        assert_eq!(fixture.says(id, 1, done("x")).await, Received::Accepted);
        assert_eq!(fixture.store.poll_callbacks(later(LEASE), 10).await.unwrap().0, 0);
    }

    async fn a_repetition_is_dispatched_anew(fixture: Fixture) {
        let (id, session, _) = fixture.parked(later(LEASE)).await;
        assert_eq!(fixture.says(id, 1, broken()).await, Received::Accepted);
        let instance = fixture.store.instance_of(TENANT, id).await.unwrap().unwrap().id;
        let again = fixture.submit(NewJob { retry_of: Some(id), ..prompt(instance, Some(session)) }).await.unwrap().id;
        assert_eq!(fixture.store.effects(again, 10).await.unwrap(), []);
    }

    async fn a_conversation_is_with_one_instance(fixture: Fixture) {
        let (one, other) = (fixture.kept_instance().await, fixture.kept_instance().await);
        let session = fixture.submit(prompt(one, None)).await.unwrap().session_id;
        assert_eq!(fixture.submit(prompt(one, session)).await.unwrap().session_id, session);
        assert_ne!(fixture.submit(prompt(other, session)).await.unwrap().session_id, session);
        assert_ne!(fixture.submit(task(session, "hi", OnBusy::Enqueue)).await.unwrap().session_id, session);
        let plain = fixture.submit(task(None, "hi", OnBusy::Enqueue)).await.unwrap().session_id;
        assert_ne!(fixture.submit(prompt(one, plain)).await.unwrap().session_id, plain);
        let filter = SessionFilter { instance_id: Some(one), limit: 10, ..SessionFilter::default() };
        let sessions = fixture.store.sessions(TENANT, &filter).await.unwrap();
        assert_eq!(sessions.len(), 2);
        assert!(sessions.iter().all(|session| session.instance_id == Some(one)));
        assert_eq!(fixture.store.sessions("other", &filter).await.unwrap(), []);
        assert_eq!(fixture.store.remove_instance(TENANT, one).await.unwrap(), Removed::InUse(3));
    }

    async fn instances_are_kept_changed_and_removed(fixture: Fixture) {
        let new = Instance { user_id: Some("ann".to_owned()), poll_seconds: Some(30), ..instance() };
        let id = new.id;
        let key = record("k", "f", json!({"id": id}));
        assert_eq!(fixture.store.create_instance(new.clone(), Some(key.clone()), now()).await.unwrap(), None);
        let again = Instance { id: InstanceId::new(), ..new.clone() };
        assert!(fixture.store.create_instance(again.clone(), Some(key), now()).await.unwrap().is_some());
        assert_eq!(fixture.store.instance(TENANT, again.id).await.unwrap(), None);
        let kept = fixture.store.instance(TENANT, id).await.unwrap().unwrap();
        assert_eq!(kept, Instance { created_at: kept.created_at, updated_at: kept.updated_at, ..new });
        assert_eq!(fixture.store.instance("other", id).await.unwrap(), None);
        let anyones = fixture.kept_instance().await;
        let of = async |user: Option<&str>| -> Vec<InstanceId> {
            let found = fixture.store.instances(TENANT, user, None, 10).await.unwrap();
            found.into_iter().map(|instance| instance.id).collect()
        };
        assert_eq!(of(None).await, [anyones, id]);
        assert_eq!(of(Some("ann")).await, [anyones, id]);
        assert_eq!(of(Some("bob")).await, [anyones]);
        let before = fixture.store.instances(TENANT, None, Some(anyones), 10).await.unwrap();
        assert_eq!(before.len(), 1);

        let change = InstanceChange {
            status: Some(InstanceStatus::Stopped),
            server_host: Some(None),
            user_id: Some(None),
            ..InstanceChange::default()
        };
        let changed = fixture.store.change_instance(TENANT, id, change.clone(), now()).await.unwrap().unwrap();
        assert_eq!((changed.status, changed.server_host, changed.user_id), (InstanceStatus::Stopped, None, None));
        assert_eq!((changed.name.as_str(), changed.poll_seconds), ("near", Some(30)));
        assert_eq!(fixture.store.change_instance("other", id, change, now()).await.unwrap(), None);
        assert_eq!(fixture.store.remove_instance("other", id).await.unwrap(), Removed::Unknown);
        assert_eq!(fixture.store.remove_instance(TENANT, id).await.unwrap(), Removed::Done);
        assert_eq!(fixture.store.instance(TENANT, id).await.unwrap(), None);
    }

    async fn a_ticket_is_used_once_and_in_time(fixture: Fixture) {
        for (hash, until) in [("a", LEASE), ("b", LEASE), ("c", Duration::ZERO)] {
            fixture.store.keep_ticket(hash, "{}", later(until)).await.unwrap();
        }
        let taken = async |hash: &str| fixture.store.take_ticket(hash, later(SECOND)).await.unwrap();
        assert_eq!(taken("a").await.as_deref(), Some("{}"));
        assert_eq!(taken("a").await, None);
        assert_eq!(taken("c").await, None);
        assert_eq!(taken("x").await, None);
        assert_eq!(fixture.store.drop_tickets(later(2 * LEASE), 10).await.unwrap(), 1);
        assert_eq!(taken("b").await, None);
    }
}
