//! Submissions and their keys.

use std::{sync::Arc, time::Duration};

use errand_common::{
    domain::{JobState, Stream, event::EventType},
    port::store::{IdempotencyRecord, Submission, Submitted},
};
use serde_json::json;

use super::{Fixture, LEASE, TENANT, now, on_both, plain_job, record, task};
use errand_common::domain::{OnBusy, Timestamp};

on_both! {
    async fn a_submitted_job_is_queued_with_one_event_and_told_to_the_queue(fixture: Fixture) {
        let job = plain_job();
        let id = job.id;
        let submission = Submission { jobs: vec![job], idempotency: None };
        let (results, consequences) = fixture.store.submit(vec![submission], now()).await;
        assert!(matches!(&results[0], Ok(Submitted::Done(made)) if made[0].as_ref().unwrap().state == JobState::Queued));
        assert_eq!(consequences.ready.len(), 1);
        assert_eq!(consequences.ready[0].due_at, None);
        assert_eq!(fixture.events(Stream::Job(id)).await, [EventType::Queued]);
        assert_eq!(fixture.store.queued("", None, 10).await.unwrap().len(), 1);
    }

    async fn a_job_for_later_is_scheduled(fixture: Fixture) {
        let mut job = plain_job();
        job.run_at = Some(now().plus(Duration::from_secs(60)));
        let (id, run_at) = (job.id, job.run_at.unwrap());
        assert_eq!(fixture.submit(job).await.unwrap().state, JobState::Scheduled);
        assert!(fixture.store.upcoming(now(), 10).await.unwrap().is_empty());
        let upcoming = fixture.store.upcoming(run_at, 10).await.unwrap();
        assert_eq!((upcoming[0].id, upcoming[0].due_at), (id, Some(run_at)));
    }

    async fn a_task_opens_its_session_and_says_its_prompt(fixture: Fixture) {
        let created = fixture.submit(task(None, "hello", OnBusy::default())).await.unwrap();
        let session = created.session_id.unwrap();
        assert_eq!(fixture.said(session).await, ["hello"]);
        assert_eq!(fixture.events(Stream::Session(session)).await, [EventType::Queued]);
        let stored = fixture.store.session(TENANT, session).await.unwrap().unwrap();
        assert_eq!(stored.metadata["title"], "hello");
        assert!(fixture.store.session("other", session).await.unwrap().is_none());
    }

    async fn a_foreign_closed_or_unknown_session_is_replaced_by_a_fresh_one(fixture: Fixture) {
        let session = fixture.submit(task(None, "mine", OnBusy::default())).await.unwrap().session_id.unwrap();
        let mut foreign = task(Some(session), "theirs", OnBusy::default());
        foreign.tenant = "other".to_owned();
        assert_ne!(fixture.submit(foreign).await.unwrap().session_id, Some(session));
        let unknown = errand_common::domain::SessionId::new();
        assert_ne!(fixture.submit(task(Some(unknown), "x", OnBusy::default())).await.unwrap().session_id, Some(unknown));
        assert!(fixture.store.close_session(TENANT, session, now()).await.unwrap());
        assert_ne!(fixture.submit(task(Some(session), "y", OnBusy::default())).await.unwrap().session_id, Some(session));
        assert!(!fixture.store.close_session("other", session, now()).await.unwrap());
    }

    async fn a_bad_row_fails_alone(fixture: Fixture) {
        let taken = plain_job();
        fixture.submit(taken.clone()).await.unwrap();
        let jobs = [plain_job(), plain_job(), taken, plain_job(), plain_job()];
        let ids: Vec<_> = jobs.iter().map(|job| job.id).collect();
        let batch = jobs.into_iter().map(|job| Submission { jobs: vec![job], idempotency: None }).collect();
        let (results, consequences) = fixture.store.submit(batch, now()).await;
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true, true]);
        assert_eq!(consequences.ready.len(), 4);
        for id in ids {
            assert!(fixture.store.job(TENANT, id).await.unwrap().is_some());
        }
    }

    async fn equal_keys_make_one_job_in_one_batch_and_across(fixture: Fixture) {
        let submission = || {
            let job = plain_job();
            let idempotency = Some(record("k", "f", json!({"job": job.id})));
            Submission { jobs: vec![job], idempotency }
        };
        let (first, second, third) = (submission(), submission(), submission());
        let winner = json!({"job": first.jobs[0].id});
        let (results, _) = fixture.store.submit(vec![first, second], now()).await;
        assert!(matches!(&results[0], Ok(Submitted::Done(_))));
        assert!(matches!(&results[1], Ok(Submitted::Replayed(answer)) if answer.answer == winner && answer.status == 202));
        let (results, _) = fixture.store.submit(vec![third], now()).await;
        assert!(matches!(&results[0], Ok(Submitted::Replayed(answer)) if answer.answer == winner));
        let mut other = submission();
        other.idempotency.as_mut().unwrap().fingerprint = "g".to_owned();
        let (results, _) = fixture.store.submit(vec![other], now()).await;
        assert!(matches!(&results[0], Ok(Submitted::Mismatch)));
        assert_eq!(fixture.store.queued("", None, 10).await.unwrap().len(), 1);
    }

    async fn equal_keys_that_race_make_one_job(fixture: Fixture) {
        let fixture = Arc::new(fixture);
        let racers = (0..20).map(|_| {
            let fixture = fixture.clone();
            tokio::spawn(async move {
                let job = plain_job();
                let idempotency = Some(record("k", "f", json!({"job": job.id})));
                fixture.store.submit(vec![Submission { jobs: vec![job], idempotency }], now()).await.0.remove(0).unwrap()
            })
        });
        let mut made = 0;
        for racer in futures::future::join_all(racers).await {
            match racer.unwrap() {
                Submitted::Done(_) => made += 1,
                Submitted::Replayed(_) => {}
                Submitted::Mismatch => panic!("same fingerprint"),
            }
        }
        assert_eq!((made, fixture.store.queued("", None, 100).await.unwrap().len()), (1, 1));
    }

    async fn a_refused_submission_leaves_its_key_free(fixture: Fixture) {
        let session = fixture.submit(task(None, "first", OnBusy::default())).await.unwrap().session_id;
        let refused = Submission {
            jobs: vec![task(session, "second", OnBusy::Reject)],
            idempotency: Some(record("k", "f", json!({}))),
        };
        let (results, _) = fixture.store.submit(vec![refused], now()).await;
        assert!(matches!(&results[0], Ok(Submitted::Done(made)) if made[0].is_err()));
        assert!(fixture.store.recall(TENANT, "owner", "k").await.unwrap().is_none());
    }

    async fn a_key_outlives_its_time_while_its_job_is_there(fixture: Fixture) {
        let job = plain_job();
        let id = job.id;
        let mut key = record("k", "f", json!({}));
        key.expires_at = now();
        fixture.store.submit(vec![Submission { jobs: vec![job], idempotency: Some(key) }], now()).await.0.remove(0).unwrap();
        let later = now().plus(Duration::from_secs(1));
        let day = Duration::from_secs(86_400);
        assert_eq!(fixture.store.forget_keys(later, Some(day), 10).await.unwrap(), 0);
        let claimed = fixture.claim(id, LEASE).await;
        assert!(fixture.complete(&claimed, "done").await);
        let later = later.plus(Duration::from_secs(3600));
        assert_eq!(fixture.store.forget_keys(later, Some(day), 10).await.unwrap(), 0, "its job is kept for a day");
        fixture.tamper("DELETE FROM jobs").await;
        let an_hour_on = later.plus(Duration::from_secs(3600));
        assert_eq!(fixture.store.forget_keys(an_hour_on, Some(day), 10).await.unwrap(), 0, "it is not looked at before");
        assert_eq!(fixture.store.forget_keys(later.plus(day), Some(day), 10).await.unwrap(), 1);
        assert!(fixture.store.recall(TENANT, "owner", "k").await.unwrap().is_none());
    }

    async fn keys_of_jobs_that_live_do_not_keep_others_from_being_forgotten(fixture: Fixture) {
        for (name, micros) in [("a", 1), ("b", 2), ("c", 3)] {
            let job = plain_job();
            let key = IdempotencyRecord { expires_at: Timestamp::from_micros(micros), ..record(name, "f", json!({})) };
            fixture.store.submit(vec![Submission { jobs: vec![job], idempotency: Some(key) }], now()).await.0.remove(0).unwrap();
        }
        fixture.tamper("UPDATE idempotency_keys SET job_ids = '[]' WHERE key = 'c'").await;
        let forgotten = async || fixture.store.forget_keys(now(), None, 2).await.unwrap();
        assert_eq!([forgotten().await, forgotten().await], [0, 1]);
        assert!(fixture.store.recall(TENANT, "owner", "a").await.unwrap().is_some());
        assert!(fixture.store.recall(TENANT, "owner", "c").await.unwrap().is_none());
    }

    async fn a_remembered_answer_stays_the_first(fixture: Fixture) {
        assert_eq!(fixture.store.remember(record("k", "f", json!(1))).await.unwrap(), None);
        let before = fixture.store.remember(record("k", "f", json!(2))).await.unwrap().unwrap();
        assert_eq!(before.answer, json!(1));
    }
}
