//! What one dedup key makes of many submissions.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use errand_common::{
    domain::{Dedup, DedupMode, JobId, JobState, OnBusy, Stream, Timestamp, event::EventType},
    port::store::{CancelRequest, Claimed, Created, Finish, JobFilter, NewJob, Outcome, Submission, Submitted},
};
use serde_json::json;

use super::{Fixture, LEASE, TENANT, now, on_both, plain_job, record, task};

const TTL: Duration = Duration::from_secs(60);

fn keyed(mode: DedupMode) -> NewJob {
    let ttl = if mode.has_ttl() { TTL } else { Duration::ZERO };
    NewJob { dedup: Some(Dedup { key: "k".to_owned(), mode, ttl }), ..plain_job() }
}

fn saying(mode: DedupMode, text: &str) -> NewJob {
    NewJob { payload: json!({"prompt": text}), ..keyed(mode) }
}

impl Fixture {
    async fn submit_at(&self, jobs: Vec<NewJob>, at: Timestamp) -> Vec<Created> {
        let (mut results, _) = self.store.submit(vec![Submission { jobs, idempotency: None }], at).await;
        match results.remove(0).unwrap() {
            Submitted::Done(made) => made.into_iter().map(Result::unwrap).collect(),
            other => panic!("{other:?}"),
        }
    }

    async fn keyed_at(&self, mode: DedupMode, at: Timestamp) -> Created {
        self.submit_at(vec![keyed(mode)], at).await.remove(0)
    }

    async fn cancel(&self, id: JobId) {
        let request = CancelRequest {
            tenant: TENANT.to_owned(),
            id,
            code: "USER_CANCEL".to_owned(),
            message: "x".to_owned(),
            now: now(),
        };
        let (_, _) = self.store.cancel(request).await.unwrap().unwrap();
    }

    async fn run(&self, id: JobId) {
        let claimed = self.claim(id, LEASE).await;
        assert!(self.complete(&claimed, "done").await);
    }

    async fn all(&self) -> Vec<errand_common::domain::Job> {
        self.store.jobs(TENANT, &JobFilter { limit: 1_000, ..JobFilter::default() }).await.unwrap()
    }
}

/// A hundred submissions under one key at once, each from its own task.
async fn race(fixture: &Arc<Fixture>, mode: DedupMode) -> Vec<Created> {
    let racers = (0..100).map(|index| {
        let fixture = fixture.clone();
        tokio::spawn(async move { fixture.submit(saying(mode, &index.to_string())).await.unwrap() })
    });
    futures::future::join_all(racers).await.into_iter().map(Result::unwrap).collect()
}

fn ids(created: &[Created]) -> BTreeSet<JobId> {
    created.iter().map(|created| created.id).collect()
}

on_both! {
    async fn what_is_dropped_falls_to_the_one_that_goes_on(fixture: Fixture) {
        let first = fixture.keyed_at(DedupMode::Drop, now()).await;
        let second = fixture.keyed_at(DedupMode::Drop, now()).await;
        assert!(!first.deduplicated && second.deduplicated);
        assert_eq!((second.id, second.state), (first.id, JobState::Queued));
        fixture.run(first.id).await;
        let third = fixture.keyed_at(DedupMode::Drop, now()).await;
        assert!(!third.deduplicated);
        assert_eq!(fixture.all().await.len(), 2);
        assert_eq!(fixture.job(third.id).await.dedup_key.as_deref(), Some("k"));
    }

    async fn keys_are_told_apart_by_tenant_and_kind(fixture: Fixture) {
        fixture.submit(keyed(DedupMode::Drop)).await.unwrap();
        let foreign = NewJob { tenant: "other".to_owned(), ..keyed(DedupMode::Drop) };
        assert!(!fixture.submit(foreign).await.unwrap().deduplicated);
        let other = NewJob { kind: "other".to_owned(), ..keyed(DedupMode::Drop) };
        assert!(!fixture.submit(other).await.unwrap().deduplicated);
    }

    async fn a_throttled_key_makes_one_job_a_window(fixture: Fixture) {
        let start = now();
        let first = fixture.keyed_at(DedupMode::Throttle, start).await;
        fixture.run(first.id).await;
        let within = fixture.keyed_at(DedupMode::Throttle, start.plus(TTL).minus(Duration::from_micros(1))).await;
        assert_eq!((within.id, within.deduplicated, within.state), (first.id, true, JobState::Completed));
        let after = fixture.keyed_at(DedupMode::Throttle, start.plus(TTL)).await;
        assert!(!after.deduplicated);
        let next = fixture.keyed_at(DedupMode::Throttle, start.plus(TTL * 2)).await;
        assert!(!next.deduplicated, "the window alone counts, though {} goes on", after.id);
    }

    async fn a_debounced_job_starts_after_the_last_submission_with_what_it_brought(fixture: Fixture) {
        let start = now();
        let first = fixture.submit_at(vec![saying(DedupMode::Debounce, "first")], start).await.remove(0);
        assert_eq!(first.state, JobState::Scheduled);
        assert_eq!(fixture.job(first.id).await.run_at, start.plus(TTL));
        let later = start.plus(TTL / 2);
        let changed = NewJob { priority: 0.try_into().unwrap(), ..saying(DedupMode::Debounce, "second") };
        let second = fixture.submit_at(vec![changed], later).await.remove(0);
        assert_eq!((second.id, second.deduplicated), (first.id, true));
        let job = fixture.job(first.id).await;
        assert_eq!((job.run_at, &job.payload, job.priority.get()), (later.plus(TTL), &json!({"prompt": "second"}), 0));
        assert_eq!(fixture.events(Stream::Job(first.id)).await, [EventType::Queued, EventType::Queued]);
        let events = fixture.store.events(Stream::Job(first.id), 1, 10).await.unwrap();
        assert_eq!(events[0].data["reason"], "debounced");

        let _ = fixture.store.promote(&[first.id], start.plus(TTL)).await.unwrap();
        assert_eq!(fixture.job(first.id).await.state, JobState::Scheduled, "its time was moved");
        let due = later.plus(TTL);
        let third = fixture.keyed_at(DedupMode::Debounce, due).await;
        assert!(!third.deduplicated, "the first is due");
        let _ = fixture.store.promote(&[first.id], due).await.unwrap();
        assert_eq!(fixture.job(first.id).await.state, JobState::Queued);
    }

    async fn one_successor_waits_for_the_active_one_and_keeps_the_last_input(fixture: Fixture) {
        let mode = DedupMode::KeepLastIfActive;
        let first = fixture.submit(saying(mode, "first")).await.unwrap();
        let run = fixture.claim(first.id, LEASE).await;
        let second = fixture.submit(saying(mode, "second")).await.unwrap();
        assert_eq!((second.state, second.deduplicated), (JobState::Blocked, false));
        let third = fixture.submit(saying(mode, "third")).await.unwrap();
        assert_eq!((third.id, third.deduplicated), (second.id, true));
        assert_eq!(fixture.store.unblock(None, now(), 100).await.unwrap().0.freed, 0, "its turn has not come");
        assert!(fixture.complete(&run, "ok").await);
        let successor = fixture.job(second.id).await;
        assert_eq!((successor.state, successor.payload), (JobState::Queued, json!({"prompt": "third"})));
        assert_eq!(fixture.events(Stream::Job(second.id)).await, [EventType::Queued; 3]);
        let fourth = fixture.submit(saying(mode, "fourth")).await.unwrap();
        assert_eq!(fourth.state, JobState::Blocked, "the successor is the active one now");
        fixture.run(second.id).await;
        fixture.run(fourth.id).await;
        let fifth = fixture.submit(saying(mode, "fifth")).await.unwrap();
        assert_eq!((fifth.state, fifth.deduplicated), (JobState::Queued, false));
    }

    async fn a_successor_is_freed_however_the_first_ends(fixture: Fixture) {
        let mode = DedupMode::KeepLastIfActive;
        let first = fixture.submit(keyed(mode)).await.unwrap();
        let second = fixture.submit(keyed(mode)).await.unwrap();
        fixture.cancel(first.id).await;
        assert_eq!(fixture.job(second.id).await.state, JobState::Queued);
        let third = fixture.submit(NewJob { deadline: Some(now().plus(TTL)), ..keyed(mode) }).await.unwrap();
        fixture.run(second.id).await;
        let fourth = fixture.submit(keyed(mode)).await.unwrap();
        let (expired, _) = fixture.store.expire(now().plus(TTL * 2), 10).await.unwrap();
        assert_eq!((expired, fixture.job(third.id).await.state), (1, JobState::Expired));
        assert_eq!(fixture.job(fourth.id).await.state, JobState::Queued);
    }

    async fn a_successor_that_ended_before_its_turn_leaves_the_first_one_active(fixture: Fixture) {
        let mode = DedupMode::KeepLastIfActive;
        let first = fixture.submit(keyed(mode)).await.unwrap();
        let second = fixture.submit(keyed(mode)).await.unwrap();
        fixture.cancel(second.id).await;
        let third = fixture.submit(keyed(mode)).await.unwrap();
        assert_eq!(third.state, JobState::Blocked, "the first goes on");
        fixture.run(first.id).await;
        assert_eq!(fixture.job(third.id).await.state, JobState::Queued);
    }

    async fn the_sweep_frees_a_successor_that_was_forgotten(fixture: Fixture) {
        let first = fixture.submit(keyed(DedupMode::KeepLastIfActive)).await.unwrap();
        let second = fixture.submit(keyed(DedupMode::KeepLastIfActive)).await.unwrap();
        fixture.tamper("UPDATE jobs SET finished_at = 1, state = 'cancelled' WHERE state = 'queued'").await;
        assert_eq!(fixture.job(first.id).await.state, JobState::Cancelled);
        assert_eq!(fixture.job(second.id).await.state, JobState::Blocked);
        let (unblocked, consequences) = fixture.store.unblock(None, now(), 10).await.unwrap();
        assert_eq!((unblocked.freed, consequences.ready.len()), (1, 1));
        assert_eq!(fixture.job(second.id).await.state, JobState::Queued);
    }

    async fn a_hundred_at_once_make_what_their_mode_allows(fixture: Fixture) {
        let fixture = Arc::new(fixture);
        for (mode, made) in [(DedupMode::Drop, 1), (DedupMode::Throttle, 1), (DedupMode::Debounce, 1), (DedupMode::KeepLastIfActive, 2)] {
            let before = fixture.all().await.len();
            let created = race(&fixture, mode).await;
            assert_eq!((ids(&created).len(), fixture.all().await.len() - before), (made, made), "{mode}");
            assert_eq!(created.iter().filter(|one| !one.deduplicated).count(), made, "{mode}");
            for id in ids(&created) {
                fixture.events(Stream::Job(id)).await;
            }
            // Another key for the next.
            let _ = fixture.store.expire(now(), 1).await.unwrap();
            for id in ids(&created).into_iter().rev() {
                fixture.cancel(id).await;
            }
            fixture.tamper("DELETE FROM dedup_keys").await;
        }
    }

    async fn ends_and_submissions_that_race_keep_one_active_and_one_waiting(fixture: Fixture) {
        let fixture = Arc::new(fixture);
        let mode = DedupMode::KeepLastIfActive;
        let racers = (0..6).map(|index| {
            let fixture = fixture.clone();
            tokio::spawn(async move {
                for round in 0..15 {
                    let jobs = ["a", "b", "c"].map(|key| {
                        let dedup = Dedup { key: key.to_owned(), mode, ttl: Duration::ZERO };
                        Submission { jobs: vec![NewJob { dedup: Some(dedup), ..plain_job() }], idempotency: None }
                    });
                    let mut jobs = jobs.to_vec();
                    jobs.rotate_left((index + round) % 3);
                    for result in fixture.store.submit(jobs, now()).await.0 {
                        result.unwrap();
                    }
                    let queued = fixture.store.queued("default", None, 10).await.unwrap();
                    let ids: Vec<_> = queued.iter().map(|queued| queued.ready.id).collect();
                    let worker = fixture.worker().await;
                    let (claimed, _) = fixture.store.claim(worker, LEASE, &ids, now()).await.unwrap();
                    let end = |claimed: &Claimed| Finish::new(claimed.fence, Outcome::Completed { result: json!({}), message: None });
                    let ends = claimed.claimed.iter().map(end).collect();
                    assert!(fixture.store.finish(ends, now()).await.unwrap().0.iter().all(Result::is_ok));
                }
            })
        });
        for racer in futures::future::join_all(racers).await {
            racer.unwrap();
        }
        // What is left: run it to the end.
        for _ in 0..2 {
            let (_, _) = fixture.store.unblock(None, now(), 100).await.unwrap();
            for queued in fixture.store.queued("default", None, 100).await.unwrap() {
                fixture.run(queued.ready.id).await;
            }
        }
        let jobs = fixture.all().await;
        assert!(jobs.iter().all(|job| job.state == JobState::Completed), "{:?}", jobs.iter().find(|job| !job.state.is_terminal()));
        // No two of one key ran at once.
        for key in ["a", "b", "c"] {
            let mut spans: Vec<_> =
                jobs.iter().filter(|job| job.dedup_key.as_deref() == Some(key)).map(|job| (job.started_at.unwrap(), job.finished_at.unwrap())).collect();
            spans.sort();
            assert!(spans.len() > 1);
            assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{key}: {spans:?}");
        }
    }

    async fn equal_keys_see_each_other_in_one_batch(fixture: Fixture) {
        let batch = |mode| ["1", "2", "3"].map(|text| saying(mode, text)).to_vec();
        for mode in DedupMode::ALL.iter().copied() {
            let made = fixture.submit_at(batch(mode), now()).await;
            let expected = if mode == DedupMode::KeepLastIfActive { 2 } else { 1 };
            assert_eq!(ids(&made).len(), expected, "{mode}");
            if mode.touches_others() {
                assert_eq!(fixture.job(made[2].id).await.payload, json!({"prompt": "3"}), "{mode}");
            }
            for id in ids(&made).into_iter().rev() {
                fixture.events(Stream::Job(id)).await;
                fixture.cancel(id).await;
            }
            fixture.tamper("DELETE FROM dedup_keys").await;
        }
    }

    async fn a_replaced_job_that_loses_its_key_in_the_same_batch_is_saved(fixture: Fixture) {
        let first = fixture.keyed_at(DedupMode::Debounce, now()).await;
        let jobs = vec![saying(DedupMode::Debounce, "second"), saying(DedupMode::Throttle, "third")];
        let made = fixture.submit_at(jobs, now()).await;
        assert_eq!((made[0].id, made[1].deduplicated), (first.id, false));
        assert_eq!(fixture.job(first.id).await.payload, json!({"prompt": "second"}));
        fixture.events(Stream::Job(first.id)).await;
    }

    async fn a_task_falls_to_the_one_in_its_session_and_a_refused_one_leaves_its_key_free(fixture: Fixture) {
        let dedup = |job| NewJob { dedup: keyed(DedupMode::Drop).dedup, ..job };
        let active = fixture.submit(task(None, "active", OnBusy::default())).await.unwrap();
        let refused = fixture.submit(dedup(task(active.session_id, "refused", OnBusy::Reject))).await;
        assert!(refused.is_err());
        let made = fixture.submit(dedup(task(active.session_id, "made", OnBusy::Enqueue))).await.unwrap();
        assert!(!made.deduplicated, "a refused one left no key");
        let again = fixture.submit(dedup(task(active.session_id, "again", OnBusy::Interrupt))).await.unwrap();
        assert_eq!((again.id, again.session_id, again.state), (made.id, active.session_id, JobState::Blocked));
        assert_eq!(fixture.job(active.id).await.state, JobState::Queued, "nobody was interrupted");
    }

    async fn what_was_pushed_aside_in_the_same_batch_stands_for_nobody(fixture: Fixture) {
        let dedup = |job| NewJob { dedup: keyed(DedupMode::Drop).dedup, ..job };
        let first = fixture.submit(dedup(task(None, "first", OnBusy::default()))).await.unwrap();
        let pusher = task(first.session_id, "pusher", OnBusy::Interrupt);
        let made = fixture.submit_at(vec![pusher, dedup(task(first.session_id, "again", OnBusy::Enqueue))], now()).await;
        assert!(!made[1].deduplicated);
        assert_eq!(fixture.job(first.id).await.state, JobState::Cancelled);
    }

    async fn a_bad_row_of_a_batch_leaves_no_key(fixture: Fixture) {
        let taken = plain_job();
        fixture.submit(taken.clone()).await.unwrap();
        let batch = vec![Submission { jobs: vec![keyed(DedupMode::Drop), taken], idempotency: None }, Submission { jobs: vec![plain_job()], idempotency: None }];
        let (results, _) = fixture.store.submit(batch, now()).await;
        assert!(results[0].is_err() && results[1].is_ok());
        assert!(!fixture.submit(keyed(DedupMode::Drop)).await.unwrap().deduplicated);
    }

    async fn a_repeated_request_names_the_job_that_stood_for_it(fixture: Fixture) {
        let first = fixture.keyed_at(DedupMode::Drop, now()).await;
        let fallen = keyed(DedupMode::Drop);
        let id = fallen.id;
        let submission = Submission { jobs: vec![plain_job(), fallen], idempotency: Some(record("k", "f", json!({}))) };
        let (results, _) = fixture.store.submit(vec![submission.clone()], now()).await;
        assert!(matches!(&results[0], Ok(Submitted::Done(made)) if made[1].as_ref().unwrap().id == first.id));
        fixture.run(first.id).await;
        let (mut results, _) = fixture.store.submit(vec![submission], now()).await;
        let Ok(Submitted::Replayed(answer)) = results.remove(0) else { panic!("replayed") };
        let stood = &answer.deduplicated[&id];
        assert_eq!((stood.id, stood.state, answer.deduplicated.len()), (first.id, JobState::Queued, 1));
    }

    async fn keys_are_forgotten_once_they_stand_for_nothing(fixture: Fixture) {
        let start = now();
        let first = fixture.keyed_at(DedupMode::Throttle, start).await;
        let after = start.plus(TTL);
        assert_eq!(fixture.store.forget_keys(start, None, 10).await.unwrap(), 0, "its window is open");
        assert_eq!(fixture.store.forget_keys(after, None, 10).await.unwrap(), 0, "its job goes on");
        fixture.run(first.id).await;
        assert_eq!(fixture.store.forget_keys(after, None, 10).await.unwrap(), 0, "looked at again in an hour");
        assert_eq!(fixture.store.forget_keys(after.plus(Duration::from_secs(3_600)), None, 10).await.unwrap(), 1);
    }
}
