//! One active task a session.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use errand_common::{
    domain::{JobState, OnBusy},
    port::store::{JobFilter, Outcome, Refused, Submission},
};

use super::{Fixture, LEASE, TENANT, now, on_both, task};

on_both! {
    async fn an_interrupting_task_goes_before_those_that_wait(fixture: Fixture) {
        let active = fixture.submit(task(None, "active", OnBusy::default())).await.unwrap();
        let session = active.session_id;
        let run = fixture.claim(active.id, LEASE).await;
        let first = fixture.submit(task(session, "first", OnBusy::Enqueue)).await.unwrap();
        let second = fixture.submit(task(session, "second", OnBusy::Enqueue)).await.unwrap();
        let urgent = fixture.submit(task(session, "urgent", OnBusy::Interrupt)).await.unwrap();
        assert_eq!(urgent.state, JobState::Blocked, "the interrupted run has not been released");
        assert_eq!(fixture.job(active.id).await.failure.unwrap().code, "USER_INTERRUPT");
        fixture.store.release(run.fence.into(), now()).await.unwrap().0.unwrap();
        for expected in [urgent.id, first.id, second.id] {
            assert_eq!(fixture.job(expected).await.state, JobState::Queued);
            let run = fixture.claim(expected, LEASE).await;
            assert!(fixture.complete(&run, "ok").await);
        }
        assert_eq!(fixture.said(session.unwrap()).await, ["active", "urgent", "ok", "first", "ok", "second", "ok"]);
    }

    async fn a_task_that_was_not_running_gives_way_at_once(fixture: Fixture) {
        let queued = fixture.submit(task(None, "queued", OnBusy::default())).await.unwrap();
        let next = fixture.submit(task(queued.session_id, "next", OnBusy::Interrupt)).await.unwrap();
        assert_eq!(next.state, JobState::Queued);
        assert_eq!(fixture.job(queued.id).await.state, JobState::Cancelled);
    }

    async fn a_rejecting_task_is_refused_with_the_one_in_its_way(fixture: Fixture) {
        let active = fixture.submit(task(None, "active", OnBusy::default())).await.unwrap();
        let refused = fixture.submit(task(active.session_id, "x", OnBusy::Reject)).await.unwrap_err();
        assert_eq!(refused, Refused::SessionBusy { session_id: active.session_id.unwrap(), active: active.id });
        assert_eq!(fixture.store.jobs(TENANT, &JobFilter { limit: 10, ..JobFilter::default() }).await.unwrap().len(), 1);
    }

    async fn a_scheduled_task_is_judged_when_it_comes_due(fixture: Fixture) {
        let active = fixture.submit(task(None, "active", OnBusy::default())).await.unwrap();
        let at = now().plus(Duration::from_secs(60));
        let mut ids = Vec::new();
        for on_busy in [OnBusy::Reject, OnBusy::Enqueue] {
            let mut later = task(active.session_id, "later", on_busy);
            later.run_at = Some(at);
            let created = fixture.submit(later).await.unwrap();
            assert_eq!(created.state, JobState::Scheduled);
            ids.push(created.id);
        }
        let _ = fixture.store.promote(&ids, at).await.unwrap();
        let rejected = fixture.job(ids[0]).await;
        assert_eq!((rejected.state, rejected.failure.unwrap().code.as_str()), (JobState::Failed, "SESSION_BUSY"));
        assert_eq!(fixture.job(ids[1]).await.state, JobState::Blocked);
        assert_eq!(fixture.said(active.session_id.unwrap()).await, ["active"], "not said before its turn");
    }

    async fn a_task_that_was_put_off_waits_its_turn_again(fixture: Fixture) {
        let snoozed = fixture.submit(task(None, "snoozed", OnBusy::default())).await.unwrap();
        let run = fixture.claim(snoozed.id, LEASE).await;
        assert!(fixture.finish(&run, Outcome::Snoozed { run_at: now(), reason: "unknown_kind".to_owned() }).await);
        let other = fixture.submit(task(snoozed.session_id, "other", OnBusy::Enqueue)).await.unwrap();
        assert_eq!(other.state, JobState::Queued);
        let _ = fixture.store.promote(&[snoozed.id], now()).await.unwrap();
        assert_eq!(fixture.job(snoozed.id).await.state, JobState::Blocked, "it interrupts nobody");
        let run = fixture.claim(other.id, LEASE).await;
        assert!(fixture.complete(&run, "ok").await);
        assert_eq!(fixture.job(snoozed.id).await.state, JobState::Queued);
        assert_eq!(fixture.said(snoozed.session_id.unwrap()).await, ["snoozed", "other", "ok"], "said once");
    }

    async fn many_that_race_into_one_session_leave_one_active_and_lose_none(fixture: Fixture) {
        let fixture = Arc::new(fixture);
        let session = fixture.submit(task(None, "start", OnBusy::default())).await.unwrap().session_id;
        let modes = [OnBusy::Interrupt, OnBusy::Enqueue, OnBusy::Reject, OnBusy::Steer];
        let racers = (0..40).map(|index| {
            let fixture = fixture.clone();
            tokio::spawn(async move { fixture.submit(task(session, &index.to_string(), modes[index % 4])).await.is_ok() })
        });
        let made = futures::future::join_all(racers).await.into_iter().filter(|made| *made.as_ref().unwrap()).count();
        let filter = JobFilter { session_id: session, limit: 200, ..JobFilter::default() };
        let jobs = fixture.store.jobs(TENANT, &filter).await.unwrap();
        assert_eq!(jobs.len(), made + 1);
        assert_eq!(jobs.iter().filter(|job| job.state.occupies_session()).count(), 1);
        fixture.events(errand_common::domain::Stream::Session(session.unwrap())).await;
    }

    async fn renewals_and_interrupts_of_many_sessions_do_not_wait_in_a_ring(fixture: Fixture) {
        let fixture = Arc::new(fixture);
        let worker = fixture.worker().await;
        let mut sessions = Vec::new();
        for index in 0..30 {
            sessions.push(fixture.submit(task(None, &index.to_string(), OnBusy::default())).await.unwrap());
        }
        let ids: Vec<_> = sessions.iter().map(|created| created.id).collect();
        let claimed = fixture.store.claim(worker, LEASE, &ids, now()).await.unwrap().0.claimed;
        let fences: Vec<_> = claimed.iter().map(|run| run.fence).collect();
        let over = Arc::new(AtomicBool::new(false));
        let renewals = (0..4).map(|_| {
            let (fixture, fences, over) = (fixture.clone(), fences.clone(), over.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    fixture.store.renew(LEASE, &fences).await.unwrap();
                }
            })
        });
        let renewals: Vec<_> = renewals.collect();
        for round in 0..10 {
            let jobs = sessions.iter().rev().map(|created| task(created.session_id, &round.to_string(), OnBusy::Interrupt));
            let batch = jobs.map(|job| Submission { jobs: vec![job], idempotency: None }).collect();
            for result in fixture.store.submit(batch, now()).await.0 {
                result.unwrap();
            }
        }
        over.store(true, Ordering::Relaxed);
        for renewal in renewals {
            renewal.await.unwrap();
        }
    }
}
