//! Claims, fences and the ends of runs.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use errand_common::{
    domain::{FailureClass, JobState, NewEvent, OnBusy, Stream, event::EventType},
    port::store::{Append, CancelRequest, CancelResult, Finish, JobFilter, NewJob, Outcome, RescueScope},
};
use serde_json::json;

use super::{Fixture, LEASE, MARKER, TENANT, failure, now, on_both, plain_job, task, text};

fn cancel(id: errand_common::domain::JobId) -> CancelRequest {
    CancelRequest {
        tenant: TENANT.to_owned(),
        id,
        code: "USER_CANCEL".to_owned(),
        message: "Task cancelled by user".to_owned(),
        now: now(),
    }
}

on_both! {
    async fn a_job_is_claimed_once_however_many_try(fixture: Fixture) {
        let fixture = Arc::new(fixture);
        let mut ids = Vec::new();
        for _ in 0..50 {
            ids.push(fixture.submit(plain_job()).await.unwrap().id);
        }
        let racers = (0..8).map(|_| {
            let (fixture, ids) = (fixture.clone(), ids.clone());
            tokio::spawn(async move {
                let worker = fixture.worker().await;
                fixture.store.claim(worker, LEASE, &ids, now()).await.unwrap().0.claimed
            })
        });
        let mut claimed = BTreeSet::new();
        for racer in futures::future::join_all(racers).await {
            for run in racer.unwrap() {
                assert!(claimed.insert(run.job.id), "{} was claimed twice", run.job.id);
                assert_eq!((run.fence.claim, run.job.state, run.job.attempt), (1, JobState::Running, 1));
            }
        }
        // A row another claimer held is left to it; what is left over is claimed by the next.
        let worker = fixture.worker().await;
        let rest = fixture.store.claim(worker, LEASE, &ids, now()).await.unwrap().0.claimed;
        assert_eq!(claimed.len() + rest.len(), 50);
    }

    async fn claims_come_in_the_order_asked_for(fixture: Fixture) {
        let first = fixture.submit(plain_job()).await.unwrap().id;
        let second = fixture.submit(plain_job()).await.unwrap().id;
        let worker = fixture.worker().await;
        let claimed = fixture.store.claim(worker, LEASE, &[second, first], now()).await.unwrap().0.claimed;
        assert_eq!(claimed.iter().map(|run| run.job.id).collect::<Vec<_>>(), [second, first]);
    }

    async fn appended_events_are_numbered_in_both_streams(fixture: Fixture) {
        let created = fixture.submit(task(None, "hi", OnBusy::default())).await.unwrap();
        let claimed = fixture.claim(created.id, LEASE).await;
        for words in [["a", "b"], ["c", "d"]] {
            let entry = Append { fence: claimed.fence, events: words.iter().map(|word| text(word)).collect() };
            let (results, consequences) = fixture.store.append(vec![entry], now()).await.unwrap();
            assert_eq!((results, consequences.events.len()), (vec![Ok(())], 2));
        }
        use EventType::{Queued, Started, Text};
        let expected = [Queued, Started, Text, Text, Text, Text];
        assert_eq!(fixture.events(Stream::Job(created.id)).await, expected);
        assert_eq!(fixture.events(Stream::Session(created.session_id.unwrap())).await, expected);
    }

    async fn a_completed_task_has_its_result_and_its_answer_in_the_history(fixture: Fixture) {
        let created = fixture.submit(task(None, "hi", OnBusy::default())).await.unwrap();
        let claimed = fixture.claim(created.id, LEASE).await;
        let outcome = Outcome::Completed { result: json!({"summary": "hello"}), message: Some("hello".to_owned()) };
        let entry = Finish { events: vec![text("hello")], ..Finish::new(claimed.fence, outcome.clone()) };
        assert_eq!(fixture.store.finish(vec![entry], now()).await.unwrap().0, [Ok(())]);
        let job = fixture.job(created.id).await;
        assert_eq!((job.state, job.result, job.lease_until), (JobState::Completed, Some(json!({"summary": "hello"})), None));
        assert_eq!(fixture.said(created.session_id.unwrap()).await, ["hi", "hello"]);
        assert_eq!(fixture.events(Stream::Job(created.id)).await.last(), Some(&EventType::Completed));
        assert!(!fixture.finish(&claimed, outcome).await, "terminal is final");
    }

    async fn a_retried_job_waits_and_comes_back_as_the_next_attempt(fixture: Fixture) {
        let id = fixture.submit(plain_job()).await.unwrap().id;
        let claimed = fixture.claim(id, LEASE).await;
        let run_at = now().plus(Duration::from_secs(5));
        assert!(fixture.finish(&claimed, Outcome::Retry { failure: failure(FailureClass::Transient), run_at }).await);
        let job = fixture.job(id).await;
        assert_eq!((job.state, job.attempt, job.run_at), (JobState::Retrying, 2, run_at));
        assert!(fixture.store.promote(&[id], now()).await.unwrap().ready.is_empty(), "not before its time");
        assert_eq!(fixture.store.promote(&[id], run_at).await.unwrap().ready.len(), 1);
        let again = fixture.claim(id, LEASE).await;
        assert_eq!((again.job.attempt, again.fence.claim), (2, 2));
        assert!(!fixture.complete(&claimed, "late").await, "the first claim is stale");
        assert!(fixture.complete(&again, "done").await);
    }

    async fn a_new_run_retracts_the_text_of_the_last(fixture: Fixture) {
        let id = fixture.submit(plain_job()).await.unwrap().id;
        let claimed = fixture.claim(id, LEASE).await;
        fixture.store.append(vec![Append { fence: claimed.fence, events: vec![text("a")] }], now()).await.unwrap().0[0].unwrap();
        assert!(fixture.finish(&claimed, Outcome::HandedBack { reason: "drain".to_owned() }).await);
        let again = fixture.claim(id, LEASE).await;
        assert_eq!(again.job.attempt, 1);
        use EventType::{Queued, Started, Text, TextRetracted};
        assert_eq!(fixture.events(Stream::Job(id)).await, [Queued, Started, Text, Queued, TextRetracted, Started]);
    }

    async fn an_engine_retracts_what_it_said_and_only_what_stands_is_kept(fixture: Fixture) {
        let created = fixture.submit(task(None, "count", OnBusy::default())).await.unwrap();
        let claimed = fixture.claim(created.id, LEASE).await;
        let retract = || NewEvent::new(EventType::TextRetracted, json!({}));
        let append = async |events| {
            fixture.store.append(vec![Append { fence: claimed.fence, events }], now()).await.unwrap().0[0].unwrap();
        };
        append(vec![retract(), text("one"), text("two")]).await;
        append(vec![retract(), retract(), text("three")]).await;
        use EventType::{Queued, Started, Text, TextRetracted};
        let told = fixture.store.events(Stream::Job(created.id), 0, 20).await.unwrap();
        assert_eq!(told.iter().map(|event| event.kind).collect::<Vec<_>>(), [Queued, Started, Text, Text, TextRetracted, Text]);
        assert_eq!(told[4].data["from_seq"], told[2].seq, "all text that stood, once");
        drop(fixture.store.cancel(cancel(created.id)).await.unwrap().unwrap());
        assert_eq!(fixture.said(created.session_id.unwrap()).await.last().unwrap(), &format!("three{MARKER}"));
    }

    async fn a_snooze_is_no_start_and_spends_no_attempt(fixture: Fixture) {
        let id = fixture.submit(plain_job()).await.unwrap().id;
        let claimed = fixture.claim(id, LEASE).await;
        assert_eq!(claimed.snoozed_since, None);
        assert!(fixture.finish(&claimed, Outcome::Snoozed { run_at: now(), reason: "unknown_kind".to_owned() }).await);
        let job = fixture.job(id).await;
        assert_eq!((job.state, job.attempt, job.started_at), (JobState::Scheduled, 1, None));
        let _ = fixture.store.promote(&[id], now()).await.unwrap();
        let again = fixture.claim(id, LEASE).await;
        assert!(again.snoozed_since.is_some());
        assert!(fixture.complete(&again, "done").await);
        assert!(fixture.job(id).await.started_at.is_some());
    }

    async fn renewal_moves_the_lease_and_tells_who_lost_it(fixture: Fixture) {
        let id = fixture.submit(plain_job()).await.unwrap().id;
        let claimed = fixture.claim(id, Duration::from_secs(5)).await;
        let renewed = fixture.store.renew(LEASE, &[claimed.fence]).await.unwrap();
        assert!(renewed[0].unwrap() > claimed.job.lease_until.unwrap());
        assert_eq!(fixture.store.rescue(RescueScope::All, now(), 10).await.unwrap().0.len(), 1);
        assert!(fixture.store.renew(LEASE, &[claimed.fence]).await.unwrap()[0].is_err());
    }

    async fn a_row_that_cannot_be_read_stops_no_other(fixture: Fixture) {
        let mut ids = Vec::new();
        for priority in [0, 1, 2] {
            let job = NewJob { priority: priority.try_into().unwrap(), ..plain_job() };
            ids.push(fixture.submit(job).await.unwrap().id);
        }
        fixture.tamper("UPDATE jobs SET payload = '{', metadata = '{', failure = '{', progress = '{' WHERE priority = 0").await;
        fixture.tamper("UPDATE jobs SET attempt = -1 WHERE priority = 1").await;
        let worker = fixture.worker().await;
        let claimed = fixture.store.claim(worker, LEASE, &ids, now()).await.unwrap().0.claimed;
        assert_eq!(claimed.iter().map(|run| run.job.id).collect::<Vec<_>>(), [ids[0], ids[2]]);
        let listed = fixture.store.jobs(TENANT, &JobFilter { limit: 10, ..JobFilter::default() }).await.unwrap();
        assert_eq!(listed.len(), 2);
        assert_eq!(claimed[0].job.payload, json!("{"), "its handler sees what is there, and refuses it");
        for run in &claimed {
            assert!(fixture.finish(run, Outcome::Failed { failure: failure(FailureClass::Invalid) }).await);
        }
    }

    async fn every_end_is_counted_once(fixture: Fixture) {
        let mut ended = Vec::new();
        let new = async || fixture.submit(plain_job()).await.unwrap().id;
        let (finished, lost, cancelled, late) = (new().await, new().await, new().await, new().await);
        let claimed = fixture.claim(finished, LEASE).await;
        let outcome = Outcome::Completed { result: json!({}), message: None };
        let finish = Finish::new(claimed.fence, outcome);
        ended.extend(fixture.store.finish(vec![finish.clone()], now()).await.unwrap().1.ended);
        ended.extend(fixture.store.finish(vec![finish], now()).await.unwrap().1.ended);
        fixture.tamper("UPDATE jobs SET max_attempts = 1").await;
        fixture.claim(lost, LEASE).await;
        ended.extend(fixture.store.rescue(RescueScope::All, now(), 10).await.unwrap().1.ended);
        for _ in 0..2 {
            ended.extend(fixture.store.cancel(cancel(cancelled)).await.unwrap().unwrap().1.ended);
        }
        fixture.tamper("UPDATE jobs SET expires_at = 1").await;
        ended.extend(fixture.store.expire(now(), 10).await.unwrap().1.ended);
        assert_eq!(fixture.job(late).await.state, JobState::Expired);
        let outcomes: Vec<_> = ended.iter().map(|ended| (ended.kind.as_str(), ended.outcome)).collect();
        use JobState::{Cancelled, Completed, Expired, Failed};
        assert_eq!(outcomes, [Completed, Failed, Cancelled, Expired].map(|outcome| ("task", outcome)));
    }

    async fn every_write_of_a_stale_holder_is_refused(fixture: Fixture) {
        let created = fixture.submit(task(None, "hi", OnBusy::default())).await.unwrap();
        let stale = fixture.claim(created.id, LEASE).await;
        let _ = fixture.store.rescue(RescueScope::All, now(), 10).await.unwrap();
        let holder = fixture.claim(created.id, LEASE).await;
        let before = fixture.events(Stream::Job(created.id)).await;
        let (appended, _) = fixture.store.append(vec![Append { fence: stale.fence, events: vec![text("x")] }], now()).await.unwrap();
        assert!(appended[0].is_err());
        assert!(!fixture.complete(&stale, "x").await);
        assert!(fixture.store.release(stale.fence.into(), now()).await.unwrap().0.is_err());
        assert_eq!(fixture.events(Stream::Job(created.id)).await, before);
        assert!(fixture.complete(&holder, "done").await);
    }

    async fn cancelling_a_running_task_keeps_its_text_and_its_session_waits_for_the_release(fixture: Fixture) {
        let created = fixture.submit(task(None, "count", OnBusy::default())).await.unwrap();
        let session = created.session_id;
        let claimed = fixture.claim(created.id, LEASE).await;
        fixture.store.append(vec![Append { fence: claimed.fence, events: vec![text("one "), text("two")] }], now()).await.unwrap().0[0].unwrap();
        let next = fixture.submit(task(session, "next", OnBusy::Enqueue)).await.unwrap();
        assert_eq!(next.state, JobState::Blocked);

        let (result, consequences) = fixture.store.cancel(cancel(created.id)).await.unwrap().unwrap();
        assert!(matches!(result, CancelResult::Cancelled(job) if job.lease_until.is_some()));
        assert_eq!(consequences.stops.len(), 1);
        assert_eq!(fixture.said(session.unwrap()).await, ["count".to_owned(), format!("one two{MARKER}")]);
        assert!(!fixture.complete(&claimed, "late").await);
        assert_eq!(fixture.job(next.id).await.state, JobState::Blocked);

        let (released, consequences) = fixture.store.release(claimed.fence.into(), now()).await.unwrap();
        assert!(released.is_ok());
        assert_eq!(consequences.ready[0].id, next.id);
        assert!(fixture.store.release(claimed.fence.into(), now()).await.unwrap().0.is_err(), "once");
        assert_eq!(fixture.job(next.id).await.state, JobState::Queued);
        assert_eq!(fixture.said(session.unwrap()).await.last().unwrap(), "next");
    }

    async fn cancelling_works_in_every_state_and_is_final(fixture: Fixture) {
        let queued = fixture.submit(plain_job()).await.unwrap().id;
        let mut later = plain_job();
        later.run_at = Some(now().plus(Duration::from_secs(60)));
        let scheduled = fixture.submit(later).await.unwrap().id;
        for id in [queued, scheduled] {
            let (result, _) = fixture.store.cancel(cancel(id)).await.unwrap().unwrap();
            assert!(matches!(result, CancelResult::Cancelled(_)));
            let (result, _) = fixture.store.cancel(cancel(id)).await.unwrap().unwrap();
            assert!(matches!(result, CancelResult::AlreadyTerminal(job) if job.state == JobState::Cancelled));
            assert_eq!(fixture.events(Stream::Job(id)).await, [EventType::Queued, EventType::Cancelled]);
        }
        let foreign = CancelRequest { tenant: "other".to_owned(), ..cancel(queued) };
        assert!(fixture.store.cancel(foreign).await.unwrap().is_none());
    }

    async fn the_history_leaves_out_the_jobs_own_messages(fixture: Fixture) {
        let first = fixture.submit(task(None, "one", OnBusy::default())).await.unwrap();
        let session = first.session_id.unwrap();
        let claimed = fixture.claim(first.id, LEASE).await;
        assert!(fixture.complete(&claimed, "1").await);
        let second = fixture.submit(task(Some(session), "two", OnBusy::default())).await.unwrap();
        let history = fixture.store.history(session, second.id, 10).await.unwrap();
        assert_eq!(history.iter().map(|message| message.content.as_str()).collect::<Vec<_>>(), ["one", "1"]);
        assert_eq!(fixture.store.history(session, second.id, 1).await.unwrap()[0].content, "1");
    }
}
