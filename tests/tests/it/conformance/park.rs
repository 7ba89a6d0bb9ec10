//! Jobs that wait for a person without a holder: let go of, or lost.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use errand_common::{
    domain::{ApprovalScope, Decision, JobState, NewEvent, OnBusy, Stream, WorkerId, event::EventType},
    port::store::{Append, CancelRequest, EngineState, Outcome, Park, Parked, RescueScope, Ruling},
};
use errand_tests::wait;
use serde_json::json;

use super::{
    Fixture, LEASE, MARKER, TENANT,
    approval::{call, denied, park},
    now, on_both, task, text,
};

const BLINK: Duration = Duration::from_millis(1);
/// Long enough to ask and to decide.
const SHORT: Duration = Duration::from_millis(1_500);

fn state() -> EngineState {
    EngineState { engine: "echo".to_owned(), engine_session: "s".to_owned(), content: "so far".to_owned() }
}

fn retraction() -> NewEvent {
    NewEvent::new(EventType::TextRetracted, json!({}))
}

impl Fixture {
    /// Ends a lease by its passing.
    async fn lose(&self) {
        wait::until("a lease lapses", || async {
            let count = self.store.rescue(RescueScope::Lapsed, now(), 10).await.unwrap().0.len();
            (count > 0).then_some(())
        })
        .await;
    }
}

on_both! {
    async fn a_parked_job_is_queued_by_the_decision_and_finds_it_again(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        let asks = [call("Bash", "ls"), call("Bash", "ls")];
        fixture.ask(run.fence, &asks).await;
        assert_eq!(fixture.store.park(park(run.fence), now()).await.unwrap().0, Parked::Done);
        assert!(!fixture.complete(&run, "late").await);
        assert_eq!(fixture.store.park(park(run.fence), now()).await.unwrap().0, Parked::Stale);
        let job = fixture.job(created.id).await;
        assert_eq!((job.state, job.lease_until, job.attempt), (JobState::AwaitingApproval, None, 1));

        let _ = fixture.rule(created.id, Some(asks[0].id), Ruling::Approve(ApprovalScope::Once)).await;
        let (_, consequences) = fixture.rule(created.id, None, Ruling::Deny { message: "once is enough".to_owned() }).await;
        assert!(consequences.decided.is_empty());
        assert_eq!(consequences.ready[0].id, created.id);
        let job = fixture.job(created.id).await;
        assert_eq!((job.state, job.attempt), (JobState::Queued, 1));

        let run = fixture.claim(created.id, LEASE).await;
        assert_eq!((run.fence.claim, run.job.attempt), (2, 1));
        let again = [call("Bash", "ls"), call("Bash", "ls"), call("Bash", "ls"), call("Bash", "pwd")];
        let expected = [Some(Decision::Allow), denied("once is enough"), None, None];
        for _ in 0..2 {
            let asked = fixture.ask(run.fence, &again).await;
            assert_eq!(asked.decisions.iter().map(|(_, decision)| decision.clone()).collect::<Vec<_>>(), expected);
        }
        assert_eq!(fixture.states(created.id).await.len(), 4, "two were decided, two wait");
    }

    async fn a_decision_outlives_the_crash_of_the_run_that_asked(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        fixture.ask(run.fence, &[call("Bash", "ls")]).await;
        let _ = fixture.approve(created.id).await;
        fixture.store.renew(LEASE, &[run.fence]).await.unwrap()[0].unwrap();
        assert_eq!(fixture.store.rescue(RescueScope::All, now(), 10).await.unwrap().0.len(), 1);
        assert_eq!(fixture.job(created.id).await.attempt, 2, "it ran when it died");
        let run = fixture.claim(created.id, LEASE).await;
        assert_eq!(fixture.ask(run.fence, &[call("Bash", "ls")]).await.decisions[0].1, Some(Decision::Allow));
        assert_eq!(fixture.store.rescue(RescueScope::All, now(), 10).await.unwrap().0.len(), 1);
        let run = fixture.claim_alone(created.id).await;
        assert_eq!(fixture.ask(run.fence, &[call("Bash", "ls")]).await.decisions[0].1, Some(Decision::Allow));
        assert_eq!(fixture.ask(run.fence, &[call("Bash", "ls")]).await.decisions[0].1, None, "one call a run");
    }

    async fn a_holder_lost_before_it_heard_of_the_decision_costs_no_attempt(fixture: Fixture) {
        let created = fixture.submit(task(None, "hi", OnBusy::default())).await.unwrap();
        let run = fixture.claim_as(WorkerId::new(), created.id, SHORT).await;
        fixture.ask(run.fence, &[call("Bash", "ls")]).await;
        let _ = fixture.approve(created.id).await;
        assert_eq!(fixture.job(created.id).await.state, JobState::Running, "its lease holds yet");
        fixture.lose().await;
        let job = fixture.job(created.id).await;
        assert_eq!((job.state, job.attempt), (JobState::Queued, 1));

        // One that renewed its lease afterwards, and so had heard of it, died at work.
        let run = fixture.claim_as(WorkerId::new(), created.id, LEASE).await;
        fixture.ask(run.fence, &[call("Bash", "pwd")]).await;
        let _ = fixture.approve(created.id).await;
        fixture.store.renew(SHORT, &[run.fence]).await.unwrap()[0].unwrap();
        fixture.lose().await;
        let job = fixture.job(created.id).await;
        assert_eq!((job.state, job.attempt), (JobState::Queued, 2));
    }

    async fn a_holder_lost_while_the_job_waits_parks_it(fixture: Fixture) {
        let created = fixture.submit(task(None, "hi", OnBusy::default())).await.unwrap();
        let run = fixture.claim_as(WorkerId::new(), created.id, BLINK).await;
        fixture.ask(run.fence, &[call("Bash", "ls")]).await;
        fixture.lose().await;
        let job = fixture.job(created.id).await;
        assert_eq!((job.state, job.attempt, job.lease_until), (JobState::AwaitingApproval, 1, None));
        assert!(job.failure.is_none());
        let _ = fixture.approve(created.id).await;
        let run = fixture.claim(created.id, LEASE).await;
        assert_eq!((run.job.attempt, run.fence.claim), (1, 2));
        assert!(run.cut_off_at.is_some() && !run.resumes);
        assert_eq!(fixture.ask(run.fence, &[call("Bash", "ls")]).await.decisions[0].1, Some(Decision::Allow));
        assert_eq!(fixture.count("SELECT crashes FROM jobs").await, 0);
    }

    async fn a_decision_for_a_lease_that_has_passed_queues_the_job(fixture: Fixture) {
        let created = fixture.submit(task(None, "hi", OnBusy::default())).await.unwrap();
        let run = fixture.claim_as(WorkerId::new(), created.id, BLINK).await;
        fixture.ask(run.fence, &[call("Bash", "ls")]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let consequences = fixture.approve(created.id).await;
        assert!(consequences.decided.is_empty());
        let job = fixture.job(created.id).await;
        assert_eq!((job.state, job.attempt, job.lease_until), (JobState::Queued, 1, None));
        assert!(!fixture.complete(&run, "late").await);
    }

    async fn what_was_said_before_a_park_stands_and_what_was_said_after_it_does_not(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        let say = async |fence, words: &str| {
            let entry = Append { fence, events: vec![text(words)] };
            fixture.store.append(vec![entry], now()).await.unwrap().0[0].unwrap();
        };
        say(run.fence, "before ").await;
        fixture.ask(run.fence, &[call("Bash", "ls")]).await;
        let left = Park { events: vec![text("parked ")], engine_state: Some(state()), ..park(run.fence) };
        assert_eq!(fixture.store.park(left, now()).await.unwrap().0, Parked::Done);
        let session = created.session_id.unwrap();
        assert_eq!(fixture.store.engine_state(session, "echo").await.unwrap(), Some(state()));
        let _ = fixture.approve(created.id).await;

        let run = fixture.claim(created.id, LEASE).await;
        assert!(run.resumes);
        say(run.fence, "void ").await;
        assert!(fixture.finish(&run, Outcome::HandedBack { reason: "drain".to_owned() }).await);
        let run = fixture.claim(created.id, LEASE).await;
        assert!(run.resumes);
        say(run.fence, "after").await;
        use EventType::{ApprovalRequired, ApprovalResolved, Queued, Started, Text, TextRetracted};
        let expected = [
            Queued, Started, Text, ApprovalRequired, Text, ApprovalResolved, Queued, Started, Text, Queued, TextRetracted,
            Started, Text,
        ];
        assert_eq!(fixture.events(Stream::Job(created.id)).await, expected);
        let cancel = CancelRequest {
            tenant: TENANT.to_owned(),
            id: created.id,
            code: "USER_CANCEL".to_owned(),
            message: "Task cancelled by user".to_owned(),
            now: now(),
        };
        let _ = fixture.store.cancel(cancel).await.unwrap().unwrap();
        assert_eq!(fixture.said(session).await, ["hi".to_owned(), format!("before parked after{MARKER}")]);
    }

    async fn a_park_that_comes_after_the_decision_queues_the_job_to_be_resumed(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        fixture.ask(run.fence, &[call("Bash", "ls")]).await;
        let _ = fixture.approve(created.id).await;
        let late = Park { events: vec![text("x")], engine_state: Some(state()), ..park(run.fence) };
        let (parked, consequences) = fixture.store.park(late, now()).await.unwrap();
        assert_eq!((parked, consequences.ready[0].id), (Parked::Decided, created.id));
        assert!(!fixture.complete(&run, "late").await);
        let run = fixture.claim(created.id, LEASE).await;
        assert_eq!((run.resumes, run.job.attempt), (true, 1));
        assert!(!fixture.events(Stream::Job(created.id)).await.contains(&EventType::TextRetracted));
        assert_eq!(fixture.ask(run.fence, &[call("Bash", "ls")]).await.decisions[0].1, Some(Decision::Allow));
        assert!(fixture.complete(&run, "ok").await);
    }

    async fn a_resumed_run_may_take_back_what_was_said_before_it_was_parked(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        fixture.ask(run.fence, &[call("Bash", "ls")]).await;
        let left = Park { events: vec![text("before")], engine_state: Some(state()), ..park(run.fence) };
        assert_eq!(fixture.store.park(left, now()).await.unwrap().0, Parked::Done);
        let said_at = fixture.job(created.id).await.tail_seq;
        let _ = fixture.approve(created.id).await;
        let run = fixture.claim(created.id, LEASE).await;
        // An engine that goes on does not know what stands: it takes all back and says it again.
        let entry = Append { fence: run.fence, events: vec![retraction(), text("before"), text(" after")] };
        let (answers, consequences) = fixture.store.append(vec![entry], now()).await.unwrap();
        answers[0].unwrap();
        assert_eq!(consequences.events[0].data["from_seq"], said_at);
        assert!(fixture.complete(&run, "before after").await);
    }

    async fn a_waiting_job_that_is_handed_back_waits_on(fixture: Fixture) {
        let (created, run) = fixture.running_task().await;
        fixture.ask(run.fence, &[call("Bash", "ls")]).await;
        assert!(fixture.finish(&run, Outcome::HandedBack { reason: "drain".to_owned() }).await);
        let job = fixture.job(created.id).await;
        assert_eq!((job.state, job.lease_until), (JobState::AwaitingApproval, None));
        assert_eq!(fixture.approve(created.id).await.ready[0].id, created.id);
    }

    async fn a_park_and_a_decision_that_race_leave_one_of_two_outcomes(fixture: Fixture) {
        let fixture = Arc::new(fixture);
        let mut seen = BTreeSet::new();
        for _ in 0..10 {
            let (created, run) = fixture.running_task().await;
            fixture.ask(run.fence, &[call("Bash", "ls")]).await;
            let parker = {
                let fixture = fixture.clone();
                tokio::spawn(async move { fixture.store.park(park(run.fence), now()).await.unwrap().0 })
            };
            let ruler = {
                let fixture = fixture.clone();
                tokio::spawn(async move { fixture.approve(created.id).await })
            };
            let (parked, consequences) = (parker.await.unwrap(), ruler.await.unwrap());
            let state = fixture.job(created.id).await.state;
            match parked {
                Parked::Done => assert_eq!((state, consequences.ready.len()), (JobState::Queued, 1)),
                Parked::Decided => assert_eq!((state, consequences.decided.len()), (JobState::Queued, 1)),
                Parked::Stale => panic!("nobody else took it"),
            }
            seen.insert(format!("{parked:?}"));
        }
        println!("seen: {seen:?}");
    }
}
