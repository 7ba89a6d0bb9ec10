//! Retention.

use std::time::Duration;

use errand_common::{
    domain::{JobId, SessionId, Stream, Timestamp},
    port::store::{Append, Created, Passed, StreamState},
};

use super::{Fixture, LEASE, TENANT, now, on_both, plain_job, task, text};

use errand_common::domain::OnBusy;

/// Everything that has finished by now is old then.
fn later() -> Timestamp {
    now().plus(Duration::from_secs(60))
}

impl Fixture {
    async fn done(&self, id: JobId) {
        let run = self.claim(id, LEASE).await;
        assert!(self.complete(&run, "done").await);
    }

    async fn done_job(&self) -> JobId {
        let id = self.submit(plain_job()).await.unwrap().id;
        self.done(id).await;
        id
    }

    async fn task_in(&self, session: Option<SessionId>) -> Created {
        self.submit(task(session, "hi", OnBusy::Enqueue)).await.unwrap()
    }

    async fn state(&self, stream: Stream) -> StreamState {
        self.store.stream(TENANT, stream).await.unwrap().unwrap()
    }

    /// The numbers that are kept.
    async fn kept(&self, stream: Stream) -> Vec<i64> {
        let events = self.store.events(stream, 0, 10_000).await.unwrap();
        let kept: Vec<_> = events.iter().map(|event| event.seq_in(stream).unwrap()).collect();
        let state = self.state(stream).await;
        assert_eq!(kept, (state.first_seq..=state.tail_seq).collect::<Vec<_>>(), "what {stream} says of itself");
        kept
    }

    /// A whole walk. Returns how many events went.
    async fn drop_events(&self, before: Timestamp, limit: u32) -> u64 {
        let (mut after, mut removed) = (None, 0);
        loop {
            let step = self.store.drop_events(before, after, limit).await.unwrap();
            assert!(step.removed <= u64::from(limit), "a step is bounded: {step:?}");
            removed += step.removed;
            after = step.next;
            if after.is_none() {
                return removed;
            }
        }
    }

    /// As [`Fixture::drop_events`], for jobs.
    async fn delete_jobs(&self, before: Timestamp, limit: u32) -> u64 {
        let (mut after, mut removed): (Option<Passed>, u64) = (None, 0);
        loop {
            let step = self.store.delete_jobs(before, after, limit, before).await.unwrap();
            removed += step.removed;
            after = step.next;
            if after.is_none() {
                return removed;
            }
        }
    }

    async fn is_there(&self, id: JobId) -> bool {
        self.store.job(TENANT, id).await.unwrap().is_some()
    }
}

on_both! {
    async fn events_go_with_age_and_the_empty_stream_tells_where_it_would_go_on(fixture: Fixture) {
        let (old, live) = (fixture.done_job().await, fixture.submit(plain_job()).await.unwrap().id);
        assert_eq!(fixture.drop_events(now().minus(Duration::from_secs(60)), 100).await, 0, "not old enough");
        assert_eq!(fixture.drop_events(later(), 100).await, 3);
        assert_eq!(fixture.state(Stream::Job(old)).await, StreamState { first_seq: 4, tail_seq: 3, ended: true });
        assert!(fixture.kept(Stream::Job(old)).await.is_empty());
        assert_eq!(fixture.kept(Stream::Job(live)).await, [1]);
        assert_eq!(fixture.drop_events(later(), 100).await, 0, "it is not found again");
    }

    async fn a_long_stream_goes_in_bounded_steps_from_its_beginning(fixture: Fixture) {
        let id = fixture.submit(plain_job()).await.unwrap().id;
        let run = fixture.claim(id, LEASE).await;
        let events = (0..20).map(|number| text(&number.to_string())).collect();
        fixture.store.append(vec![Append { fence: run.fence, events }], now()).await.unwrap().0[0].unwrap();
        assert!(fixture.complete(&run, "done").await);
        let step = fixture.store.drop_events(later(), None, 7).await.unwrap();
        assert_eq!(step.removed, 7);
        assert_eq!(fixture.kept(Stream::Job(id)).await, (8..=23).collect::<Vec<_>>());
        assert_eq!(fixture.drop_events(later(), 7).await, 16);
    }

    async fn a_sessions_stream_loses_its_beginning_only(fixture: Fixture) {
        let first = fixture.task_in(None).await;
        let session = first.session_id.unwrap();
        // Its `queued` event lies between those of the first; it stays as long as the task lives.
        let second = fixture.task_in(Some(session)).await;
        fixture.done(first.id).await;
        let stream = Stream::Session(session);
        assert_eq!(fixture.kept(stream).await.len(), 5);
        assert_eq!(fixture.drop_events(later(), 100).await, 1, "up to the live task's first event");
        assert_eq!(fixture.kept(stream).await, [2, 3, 4, 5]);
        assert_eq!(fixture.kept(Stream::Job(first.id)).await, [2, 3], "its own stream likewise");
        assert_eq!(fixture.delete_jobs(later(), 100).await, 0, "a job goes when its events have");

        fixture.done(second.id).await;
        assert_eq!(fixture.drop_events(later(), 2).await, 6);
        let tail = fixture.state(stream).await;
        assert_eq!((tail.first_seq, tail.tail_seq), (8, 7));
        assert_eq!(fixture.delete_jobs(later(), 100).await, 2);
        assert_eq!(fixture.said(session).await, ["hi", "done", "hi", "done"], "messages stay");
        let third = fixture.task_in(Some(session)).await;
        assert_eq!(third.session_id, Some(session), "and so does the session");
        assert_eq!(fixture.kept(stream).await, [8]);
    }

    async fn what_has_to_stay_does_not_hold_up_the_rest(fixture: Fixture) {
        // The first sessions' streams begin with a task that lives.
        for _ in 0..3 {
            let blocker = fixture.task_in(None).await;
            let other = fixture.task_in(blocker.session_id).await;
            fixture.tamper("UPDATE jobs SET state = 'completed', finished_at = 1, position = NULL WHERE state = 'blocked'").await;
            assert_eq!(fixture.job(other.id).await.finished_at, Some(Timestamp::from_micros(1)));
        }
        let old = fixture.done_job().await;
        assert_eq!(fixture.drop_events(later(), 2).await, 3);
        assert!(fixture.kept(Stream::Job(old)).await.is_empty());
    }

    async fn a_job_goes_once_its_events_are_gone_and_nothing_refers_to_it(fixture: Fixture) {
        let original = fixture.done_job().await;
        let mut retry = plain_job();
        retry.retry_of = Some(original);
        let retry = fixture.submit(retry).await.unwrap().id;
        assert_eq!(fixture.delete_jobs(later(), 100).await, 0, "it has events");
        fixture.drop_events(later(), 100).await;
        assert_eq!(fixture.delete_jobs(later(), 100).await, 0, "its retry lives");
        fixture.done(retry).await;
        fixture.drop_events(later(), 100).await;
        assert_eq!(fixture.delete_jobs(now().minus(Duration::from_secs(60)), 100).await, 0, "not old enough");
        assert_eq!(fixture.delete_jobs(later(), 1).await + fixture.delete_jobs(later(), 1).await, 2);
        assert!(!fixture.is_there(original).await && !fixture.is_there(retry).await);
    }

    async fn children_go_before_their_parent_and_not_before_it_may(fixture: Fixture) {
        let (parent, child) = (fixture.done_job().await, fixture.done_job().await);
        fixture.tamper("UPDATE jobs SET parent_id = (SELECT id FROM jobs ORDER BY id LIMIT 1) \
            WHERE id = (SELECT id FROM jobs ORDER BY id DESC LIMIT 1)").await;
        fixture.drop_events(later(), 100).await;
        fixture.tamper("UPDATE jobs SET finished_at = 9000000000000000 WHERE parent_id IS NULL").await;
        assert_eq!(fixture.delete_jobs(later(), 100).await, 0, "the parent is young and counts its children");
        fixture.tamper("UPDATE jobs SET finished_at = 1 WHERE parent_id IS NULL").await;
        assert_eq!(fixture.delete_jobs(later(), 100).await, 1);
        assert!(fixture.is_there(parent).await && !fixture.is_there(child).await);
        assert_eq!(fixture.delete_jobs(later(), 100).await, 1);
    }

    async fn a_job_takes_its_effects_with_it_and_leaves_its_dedup_key_to_be_forgotten(fixture: Fixture) {
        fixture.done_job().await;
        fixture.drop_events(later(), 100).await;
        fixture.tamper("UPDATE jobs SET dedup_key = 'k'").await;
        fixture.tamper("INSERT INTO dedup_keys (tenant, kind, key, job_id, keep_until, look_at) \
            SELECT tenant, kind, dedup_key, id, 9000000000000000, 1 FROM jobs").await;
        fixture.tamper("INSERT INTO effects (job_id, ordinal, key, kind, destination, fingerprint, claim, attempt, intent_at) \
            SELECT id, 1, 'k', 'http', 'd', 'f', 1, 1, 1 FROM jobs").await;
        assert_eq!(fixture.delete_jobs(later(), 100).await, 0, "its dedup key holds");
        fixture.tamper("UPDATE dedup_keys SET keep_until = 1").await;
        assert_eq!(fixture.delete_jobs(later(), 100).await, 1);
        assert_eq!(fixture.count("SELECT count(*) FROM effects").await, 0);
        assert_eq!(fixture.store.forget_keys(now(), None, 10).await.unwrap(), 1, "it stands for nothing");
    }
}
