//! What the sweeper finds.

use std::{sync::Arc, time::Duration};

use errand_common::{
    adapter::{
        clock::SystemClock,
        memory::{MemoryBus, MemoryGates, MemoryQueue},
    },
    backend::Backend,
    domain::{FailureClass, JobState, OnBusy, Stream, event::EventType},
    port::store::{CancelRequest, Outcome, RescueScope, Submission},
    vault::{SealingKey, Vault},
};
use errand_tests::wait;

use super::{Fixture, LEASE, TENANT, failure, now, on_both, plain_job, task};

const BLINK: Duration = Duration::from_millis(1);

/// Rescues until something was rescued: the lease is judged by the database's own clock.
async fn rescued(fixture: &Fixture) -> usize {
    wait::until("a lease lapses", || async {
        let count = fixture.store.rescue(RescueScope::Lapsed, now(), 10).await.unwrap().0.len();
        (count > 0).then_some(count)
    })
    .await
}

on_both! {
    async fn a_lease_that_holds_is_left_alone(fixture: Fixture) {
        let id = fixture.submit(plain_job()).await.unwrap().id;
        fixture.claim(id, LEASE).await;
        assert_eq!(fixture.store.rescue(RescueScope::Lapsed, now(), 10).await.unwrap().0.len(), 0);
    }

    async fn the_run_of_a_lost_worker_crashed_and_the_next_attempt_is_due_at_once(fixture: Fixture) {
        let id = fixture.submit(plain_job()).await.unwrap().id;
        let unregistered = errand_common::domain::WorkerId::new();
        fixture.claim_as(unregistered, id, BLINK).await;
        assert_eq!(rescued(&fixture).await, 1);
        let job = fixture.job(id).await;
        assert_eq!((job.state, job.attempt), (JobState::Queued, 2));
        assert_eq!(job.failure.unwrap().class, FailureClass::Crash);
        use EventType::{Queued, Retrying, Started};
        assert_eq!(fixture.events(Stream::Job(id)).await, [Queued, Started, Retrying]);
    }

    async fn the_run_of_a_worker_that_lives_is_handed_back(fixture: Fixture) {
        let id = fixture.submit(plain_job()).await.unwrap().id;
        fixture.claim(id, BLINK).await;
        assert_eq!(rescued(&fixture).await, 1);
        let job = fixture.job(id).await;
        assert_eq!((job.state, job.attempt, job.failure), (JobState::Queued, 1, None));
    }

    async fn a_run_that_was_cut_off_is_remembered_however_often_it_is_put_off(fixture: Fixture) {
        let id = fixture.submit(plain_job()).await.unwrap().id;
        let snooze = || Outcome::Snoozed { run_at: now(), reason: "unknown_engine".to_owned() };
        let again = async || {
            let _ = fixture.store.promote(&[id], now()).await.unwrap();
            fixture.claim(id, BLINK).await
        };
        let first = fixture.claim(id, LEASE).await;
        assert!(fixture.finish(&first, snooze()).await);
        let second = again().await;
        assert!(second.cut_off_at.is_none() && second.snoozed_since.is_some(), "only put off");
        assert_eq!(rescued(&fixture).await, 1);
        let _ = fixture.store.promote(&[id], now()).await.unwrap();
        let third = fixture.claim(id, LEASE).await;
        assert!(third.cut_off_at.is_some() && third.snoozed_since.is_none(), "its lease passed in mid-run");
        assert!(fixture.finish(&third, snooze()).await);
        assert!(again().await.cut_off_at.is_some(), "cut off, then put off");
    }

    async fn a_run_that_said_how_it_ended_was_not_cut_off(fixture: Fixture) {
        let id = fixture.submit(plain_job()).await.unwrap().id;
        let run = fixture.claim(id, LEASE).await;
        assert!(fixture.finish(&run, Outcome::Snoozed { run_at: now(), reason: "unknown_engine".to_owned() }).await);
        let _ = fixture.store.promote(&[id], now()).await.unwrap();
        let run = fixture.claim(id, LEASE).await;
        assert!(fixture.finish(&run, Outcome::Retry { failure: failure(FailureClass::Transient), run_at: now() }).await);
        let _ = fixture.store.promote(&[id], now()).await.unwrap();
        assert_eq!(fixture.claim(id, LEASE).await.cut_off_at, None);
    }

    async fn the_last_attempt_that_crashes_fails_the_job(fixture: Fixture) {
        let mut job = plain_job();
        job.retry.max_attempts = 1;
        let id = fixture.submit(job).await.unwrap().id;
        fixture.claim(id, LEASE).await;
        assert_eq!(fixture.store.rescue(RescueScope::All, now(), 10).await.unwrap().0.len(), 1);
        let job = fixture.job(id).await;
        assert_eq!((job.state, job.failure.unwrap().code.as_str()), (JobState::Failed, "WORKER_LOST"));
    }

    async fn a_cancelled_run_that_is_never_released_frees_its_session_when_its_lease_passes(fixture: Fixture) {
        let created = fixture.submit(task(None, "hi", OnBusy::default())).await.unwrap();
        fixture.claim(created.id, BLINK).await;
        let next = fixture.submit(task(created.session_id, "next", OnBusy::Enqueue)).await.unwrap();
        let request = CancelRequest {
            tenant: TENANT.to_owned(), id: created.id, code: "USER_CANCEL".to_owned(), message: "x".to_owned(), now: now(),
        };
        fixture.store.cancel(request).await.unwrap().unwrap().1.stops.first().unwrap();
        assert_eq!(rescued(&fixture).await, 1);
        assert_eq!(fixture.job(created.id).await.state, JobState::Cancelled);
        assert_eq!(fixture.job(next.id).await.state, JobState::Queued);
    }

    async fn what_was_not_started_in_time_expires(fixture: Fixture) {
        let at = now().plus(Duration::from_secs(60));
        let mut job = plain_job();
        job.expires_at = Some(at);
        let unstarted = fixture.submit(job.clone()).await.unwrap().id;
        job.id = errand_common::domain::JobId::new();
        let started = fixture.submit(job).await.unwrap().id;
        fixture.claim(started, LEASE).await;
        assert_eq!(fixture.store.expire(now(), 10).await.unwrap().0, 0);
        assert_eq!(fixture.store.expire(at, 10).await.unwrap().0, 1);
        assert_eq!(fixture.job(unstarted).await.state, JobState::Expired);
        assert_eq!(fixture.job(started).await.state, JobState::Running);
        let worker = fixture.worker().await;
        assert!(fixture.store.claim(worker, LEASE, &[unstarted], at).await.unwrap().0.claimed.is_empty());
    }

    async fn a_deadline_ends_whatever_state_the_job_is_in(fixture: Fixture) {
        let at = now().plus(Duration::from_secs(60));
        let mut job = plain_job();
        job.deadline = Some(at);
        let unstarted = fixture.submit(job.clone()).await.unwrap().id;
        job.id = errand_common::domain::JobId::new();
        let started = fixture.submit(job).await.unwrap().id;
        let run = fixture.claim(started, LEASE).await;
        let (count, consequences) = fixture.store.expire(at, 10).await.unwrap();
        assert_eq!((count, consequences.stops.len()), (2, 1));
        assert_eq!(fixture.job(unstarted).await.state, JobState::Expired);
        let failed = fixture.job(started).await;
        assert_eq!((failed.state, failed.failure.unwrap().class), (JobState::Failed, FailureClass::Timeout));
        assert!(!fixture.complete(&run, "late").await);
        assert!(fixture.store.release(run.fence.into(), at).await.unwrap().0.is_ok());
    }

    async fn the_line_moves_on_even_if_nobody_said_so(fixture: Fixture) {
        let active = fixture.submit(task(None, "active", OnBusy::default())).await.unwrap();
        let waits = fixture.submit(task(active.session_id, "waits", OnBusy::Enqueue)).await.unwrap();
        assert_eq!(fixture.store.unblock(None, now(), 10).await.unwrap().0.freed, 0);
        fixture.tamper("UPDATE jobs SET state = 'completed', finished_at = 1 WHERE state = 'queued'").await;
        let (unblocked, consequences) = fixture.store.unblock(None, now(), 10).await.unwrap();
        assert_eq!((unblocked.freed, consequences.ready[0].id), (1, waits.id));
        assert_eq!(fixture.job(waits.id).await.state, JobState::Queued);
    }

    async fn a_queue_that_lost_everything_can_be_told_all_of_it_in_pages(fixture: Fixture) {
        for _ in 0..5 {
            fixture.submit(plain_job()).await.unwrap();
        }
        let first = fixture.store.queued("", None, 3).await.unwrap();
        let second = fixture.store.queued("", Some(&first[2].ready), 3).await.unwrap();
        assert_eq!((first.len(), second.len()), (3, 2));
        assert!(first.iter().chain(&second).map(|queued| queued.ready.id).is_sorted());
        assert!(fixture.store.queued("later", None, 3).await.unwrap().is_empty(), "no queue from there on");
    }
}

#[tokio::test]
async fn a_job_for_a_far_day_is_left_to_the_sweep() {
    let fixture = crate::conformance::sqlite().await;
    let backend = Backend {
        store: fixture.store.clone(),
        queue: Arc::new(MemoryQueue::default()),
        bus: Arc::new(MemoryBus::default()),
        gates: Arc::new(MemoryGates::default()),
        clock: Arc::new(SystemClock),
        vault: Arc::new(Vault::new(SealingKey::parse(&SealingKey::generate()).unwrap(), vec![])),
    };
    let mut ids = Vec::new();
    for minutes in [5, 60] {
        let mut job = plain_job();
        job.run_at = Some(now().plus(Duration::from_secs(60 * minutes)));
        ids.push(job.id);
        let (_, consequences) =
            fixture.store.submit(vec![Submission { jobs: vec![job], idempotency: None }], now()).await;
        backend.dispatch(consequences).await;
    }
    let tomorrow = now().plus(Duration::from_secs(86_400));
    let popped = backend.queue.pop(&["default".to_owned()], 10, tomorrow).await.unwrap();
    assert_eq!(popped.due, ids[..1]);
    let found = fixture.store.upcoming(tomorrow, 10).await.unwrap();
    assert_eq!(found.iter().map(|ready| ready.id).collect::<Vec<_>>(), ids);
}
