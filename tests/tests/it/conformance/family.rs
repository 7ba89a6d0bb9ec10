//! Parents and children: a parent ends exactly once, when its last child does, whichever way that is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use errand_common::{
    domain::{FailureClass, JobId, JobState, OnBusy, SessionId, Stream, event::EventType},
    port::store::{CancelRequest, CancelResult, Finish, JobFilter, NewJob, Outcome, RescueScope, Submission},
};
use serde_json::json;

use super::{Fixture, LEASE, TENANT, failure, now, on_both, plain_job, task};

fn parent(children: Vec<NewJob>) -> NewJob {
    NewJob { kind: "group".to_owned(), children, ..plain_job() }
}

fn plain_children(count: usize) -> Vec<NewJob> {
    (0..count).map(|_| plain_job()).collect()
}

fn ids(children: &[NewJob]) -> Vec<JobId> {
    children.iter().map(|child| child.id).collect()
}

fn cancel(id: JobId) -> CancelRequest {
    CancelRequest { tenant: TENANT.to_owned(), id, code: "USER_CANCEL".to_owned(), message: "x".to_owned(), now: now() }
}

impl Fixture {
    async fn parent_of(&self, children: Vec<NewJob>) -> (JobId, Vec<JobId>) {
        let (parent, ids) = (parent(children.clone()), ids(&children));
        let created = self.submit(parent).await.unwrap();
        assert_eq!(created.state, JobState::AwaitingChildren);
        (created.id, ids)
    }

    /// The parent's end and its stream, after checking that it told each child once and ended after all of them.
    async fn ended_family(&self, parent: JobId, children: usize) -> (JobState, String) {
        let job = self.job(parent).await;
        let mut types = self.events(Stream::Job(parent)).await;
        assert_eq!(types.remove(0), EventType::Queued);
        let last = types.pop().unwrap();
        assert_eq!(types, vec![EventType::ChildCompleted; children], "{last}");
        let told = self.store.events(Stream::Job(parent), 1, 10_000).await.unwrap();
        let told: BTreeMap<_, _> = told.iter().map(|event| (event.data["child_id"].to_string(), ())).collect();
        assert_eq!(told.len(), children + 1, "each child once, and the end without one");
        assert!(job.finished_at.is_some());
        (job.state, last.as_str().to_owned())
    }
}

on_both! {
    async fn a_parent_is_born_waiting_and_ends_with_its_last_child(fixture: Fixture) {
        let (parent, children) = fixture.parent_of(plain_children(3)).await;
        let counts = fixture.store.children(&[parent]).await.unwrap();
        assert_eq!(counts[&parent].by_state, [(JobState::Queued, 3)]);
        let filter = JobFilter { parent_id: Some(parent), limit: 10, ..JobFilter::default() };
        assert_eq!(fixture.store.jobs(TENANT, &filter).await.unwrap().len(), 3);
        assert!(fixture.store.jobs("other", &filter).await.unwrap().is_empty());
        for (index, child) in children.iter().enumerate() {
            assert_eq!(fixture.job(*child).await.parent_id, Some(parent));
            assert_eq!(fixture.job(parent).await.state, JobState::AwaitingChildren, "after {index}");
            let run = fixture.claim(*child, LEASE).await;
            assert!(fixture.complete(&run, "ok").await);
        }
        assert_eq!(fixture.ended_family(parent, 3).await, (JobState::Completed, "completed".to_owned()));
        let result = fixture.job(parent).await.result.unwrap();
        assert_eq!(result, json!({"children": {"total": 3, "by_state": {"completed": 3}}}));
    }

    async fn the_ends_of_the_children_make_that_of_the_parent(fixture: Fixture) {
        for (completed, failed, state, event, code) in [
            (0, 2, JobState::Failed, "error", Some("CHILDREN_FAILED")),
            (1, 1, JobState::Partial, "completed", None),
        ] {
            let (parent, children) = fixture.parent_of(plain_children(completed + failed)).await;
            for (index, child) in children.iter().enumerate() {
                let run = fixture.claim(*child, LEASE).await;
                if index < completed {
                    assert!(fixture.complete(&run, "ok").await);
                } else {
                    assert!(fixture.finish(&run, Outcome::Failed { failure: failure(FailureClass::Fatal) }).await);
                }
            }
            assert_eq!(fixture.ended_family(parent, 2).await, (state, event.to_owned()));
            let why = fixture.job(parent).await.failure;
            assert_eq!(why.as_ref().map(|failure| failure.code.as_str()), code);
            assert!(why.is_none_or(|failure| failure.class == FailureClass::Fatal));
            let told = fixture.store.events(Stream::Job(parent), 0, 10).await.unwrap();
            let failures = told.iter().filter(|event| event.data["code"] == "EXECUTION_ERROR").count();
            assert_eq!(failures, failed);
        }
    }

    async fn every_way_a_child_can_end_ends_its_parent(fixture: Fixture) {
        let far = now().plus(Duration::from_secs(60));
        // Cancelled by its user.
        let (parent, children) = fixture.parent_of(plain_children(1)).await;
        let (_, _) = fixture.store.cancel(cancel(children[0])).await.unwrap().unwrap();
        assert_eq!(fixture.ended_family(parent, 1).await.0, JobState::Failed);
        // Expired, by a time of its own or its parent's.
        let own = NewJob { expires_at: Some(far), ..plain_job() };
        let inherits = NewJob { expires_at: Some(far), ..super::parent(plain_children(1)) };
        let heir = inherits.children[0].id;
        let (parent, _) = fixture.parent_of(vec![own]).await;
        let other = fixture.submit(inherits).await.unwrap().id;
        assert_eq!(fixture.job(heir).await.expires_at, Some(far));
        assert_eq!(fixture.store.expire(far, 10).await.unwrap().0, 2, "not the parents themselves");
        assert_eq!(fixture.ended_family(parent, 1).await.0, JobState::Failed);
        assert_eq!(fixture.ended_family(other, 1).await.0, JobState::Failed);
        // Overdue while it runs.
        let (parent, children) = fixture.parent_of(vec![NewJob { deadline: Some(far), ..plain_job() }]).await;
        fixture.claim(children[0], LEASE).await;
        assert_eq!(fixture.store.expire(far, 10).await.unwrap().0, 1);
        assert_eq!(fixture.ended_family(parent, 1).await.0, JobState::Failed);
        // Its worker died once too often.
        let mut last = plain_job();
        last.retry.max_attempts = 1;
        let (parent, children) = fixture.parent_of(vec![last]).await;
        fixture.claim(children[0], Duration::ZERO).await;
        let (_, _) = fixture.store.rescue(RescueScope::All, now(), 10).await.unwrap();
        assert_eq!(fixture.job(children[0]).await.state, JobState::Failed);
        assert_eq!(fixture.ended_family(parent, 1).await.0, JobState::Failed);
        // Come due while its session was busy; pushed aside by the next task of its session.
        let active = fixture.submit(task(None, "active", OnBusy::default())).await.unwrap();
        let pushed = task(None, "pushed", OnBusy::default());
        let (parent, children) = fixture.parent_of(vec![pushed]).await;
        let session = fixture.job(children[0]).await.session_id;
        fixture.submit(task(session, "pusher", OnBusy::Interrupt)).await.unwrap();
        assert_eq!(fixture.job(children[0]).await.failure.unwrap().code, "USER_INTERRUPT");
        assert_eq!(fixture.ended_family(parent, 1).await.0, JobState::Failed);
        // In a group nobody is refused: who would be waits.
        let (_, children) = fixture.parent_of(vec![task(active.session_id, "x", OnBusy::Reject)]).await;
        assert_eq!(fixture.job(children[0]).await.state, JobState::Blocked);
    }

    async fn siblings_that_push_each_other_aside_are_told_of(fixture: Fixture) {
        let busy = fixture.submit(task(None, "busy", OnBusy::default())).await.unwrap();
        let siblings = (0..3).map(|index| task(busy.session_id, &index.to_string(), OnBusy::Interrupt)).collect();
        let (parent, children) = fixture.parent_of(siblings).await;
        assert_eq!(fixture.job(children[2]).await.state, JobState::Queued);
        let run = fixture.claim(children[2], LEASE).await;
        assert!(fixture.complete(&run, "ok").await);
        assert_eq!(fixture.ended_family(parent, 3).await.0, JobState::Partial);
    }

    async fn cancelling_a_parent_cancels_the_children_that_go_on(fixture: Fixture) {
        let session = SessionId::new();
        let mut children = plain_children(3);
        children.push(task(Some(session), "in a session", OnBusy::default()));
        let (parent, children) = fixture.parent_of(children).await;
        let done = fixture.claim(children[0], LEASE).await;
        assert!(fixture.complete(&done, "ok").await);
        let running = fixture.claim(children[1], LEASE).await;
        let (result, consequences) = fixture.store.cancel(cancel(parent)).await.unwrap().unwrap();
        assert!(matches!(result, CancelResult::Cancelled(job) if job.state == JobState::Cancelled && job.id == parent));
        assert_eq!(consequences.stops.iter().map(|stop| stop.job_id).collect::<Vec<_>>(), [children[1]]);
        assert_eq!(consequences.ended.len(), 4);
        for child in &children[1..] {
            assert_eq!(fixture.job(*child).await.state, JobState::Cancelled);
        }
        assert_eq!(fixture.job(children[0]).await.state, JobState::Completed);
        assert_eq!(fixture.ended_family(parent, 4).await, (JobState::Cancelled, "cancelled".to_owned()));
        assert!(!fixture.complete(&running, "late").await, "its fence is void");
        let again = fixture.store.cancel(cancel(parent)).await.unwrap().unwrap().0;
        assert!(matches!(again, CancelResult::AlreadyTerminal(_)));
    }

    async fn a_parent_past_its_deadline_takes_its_children_along(fixture: Fixture) {
        let deadline = now().plus(Duration::from_secs(60));
        let parent = NewJob { deadline: Some(deadline), ..parent(plain_children(2)) };
        let (id, children) = (parent.id, ids(&parent.children));
        fixture.submit(parent).await.unwrap();
        fixture.claim(children[0], LEASE).await;
        let (ended, consequences) = fixture.store.expire(deadline, 10).await.unwrap();
        assert_eq!((ended, consequences.stops.len()), (1, 1));
        assert_eq!(fixture.ended_family(id, 2).await, (JobState::Failed, "error".to_owned()));
        let failure = fixture.job(id).await.failure.unwrap();
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Timeout, "TIMEOUT"));
        for child in children {
            let child = fixture.job(child).await;
            assert_eq!((child.state, child.failure.unwrap().code.as_str()), (JobState::Cancelled, "PARENT_TIMEOUT"));
        }
    }

    async fn a_thousand_children_that_finish_on_many_connections_end_their_parent_once(fixture: Fixture) {
        let fixture = Arc::new(fixture);
        let started = std::time::Instant::now();
        let (parent, children) = fixture.parent_of(plain_children(1_000)).await;
        println!("a parent with 1,000 children took {:?} to submit", started.elapsed());
        let worker = fixture.worker().await;
        let (claimed, _) = fixture.store.claim(worker, Duration::from_secs(600), &children, now()).await.unwrap();
        assert_eq!(claimed.claimed.len(), 1_000);
        let started = std::time::Instant::now();
        let racers = (0..8).map(|racer| {
            let fixture = fixture.clone();
            // Uneven batches, in another order each.
            let mut mine: Vec<_> = claimed.claimed.iter().skip(racer).step_by(8).map(|run| run.fence).collect();
            if racer % 2 == 0 {
                mine.reverse();
            }
            tokio::spawn(async move {
                let mut ends = 0;
                for batch in mine.chunks(1 + racer * 4) {
                    let outcome = |fence: &errand_common::domain::Fence| Finish::new(*fence, Outcome::Completed { result: json!({}), message: None });
                    let (results, consequences) =
                        fixture.store.finish(batch.iter().map(outcome).collect(), now()).await.unwrap();
                    assert!(results.iter().all(Result::is_ok));
                    ends += consequences.ended.iter().filter(|ended| ended.kind == "group").count();
                }
                ends
            })
        });
        let ends: usize = futures::future::join_all(racers).await.into_iter().map(Result::unwrap).sum();
        println!("its children took {:?} to finish", started.elapsed());
        assert_eq!(ends, 1);
        assert_eq!(fixture.ended_family(parent, 1_000).await.0, JobState::Completed);
    }

    async fn ends_and_cancels_of_many_families_do_not_wait_in_a_ring(fixture: Fixture) {
        let fixture = Arc::new(fixture);
        let mut families = Vec::new();
        for _ in 0..12 {
            let mut children = plain_children(6);
            children.push(task(None, "in a session", OnBusy::default()));
            families.push(fixture.parent_of(children).await);
        }
        let worker = fixture.worker().await;
        // One child of each family after the other, so that each batch ends children of all.
        let mixed: Vec<JobId> = (0..7).flat_map(|index| families.iter().map(move |family| family.1[index])).collect();
        let (claimed, _) = fixture.store.claim(worker, LEASE, &mixed, now()).await.unwrap();
        let finishers = claimed.claimed.chunks(10).map(|batch| {
            let fixture = fixture.clone();
            let entries: Vec<_> = batch
                .iter()
                .map(|run| Finish::new(run.fence, Outcome::Completed { result: json!({}), message: None }))
                .collect();
            tokio::spawn(async move { fixture.store.finish(entries, now()).await.map(drop) })
        });
        let cancels = families.iter().rev().take(6).map(|(parent, _)| {
            let (fixture, parent) = (fixture.clone(), *parent);
            tokio::spawn(async move { fixture.store.cancel(cancel(parent)).await.map(drop) })
        });
        let pushers = families.iter().map(|(_, children)| {
            let (fixture, child) = (fixture.clone(), children[6]);
            tokio::spawn(async move {
                let session = fixture.job(child).await.session_id;
                let submission = Submission { jobs: vec![task(session, "pusher", OnBusy::Interrupt)], idempotency: None };
                fixture.store.submit(vec![submission], now()).await.0.remove(0).map(drop)
            })
        });
        let all: Vec<_> = finishers.chain(cancels).chain(pushers).collect();
        for one in futures::future::join_all(all).await {
            one.unwrap().unwrap();
        }
        for (parent, _) in &families {
            fixture.ended_family(*parent, 7).await;
        }
    }
}
