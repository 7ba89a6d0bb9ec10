//! What is shown.

use errand_common::{
    domain::{JobState, OnBusy, RetryPolicy, Stream},
    port::store::{Append, JobFilter, SessionFilter},
};

use super::{Fixture, LEASE, TENANT, now, on_both, plain_job, task, text};

on_both! {
    async fn jobs_are_listed_newest_first_in_pages_by_filter(fixture: Fixture) {
        let mut ids = Vec::new();
        for index in 0..5 {
            let mut job = plain_job();
            job.queue = if index % 2 == 0 { "even" } else { "odd" }.to_owned();
            ids.insert(0, fixture.submit(job).await.unwrap().id);
        }
        let page = |before| JobFilter { limit: 2, before, ..JobFilter::default() };
        let first = fixture.store.jobs(TENANT, &page(None)).await.unwrap();
        let second = fixture.store.jobs(TENANT, &page(Some(first[1].id))).await.unwrap();
        assert_eq!(first.iter().chain(&second).map(|job| job.id).collect::<Vec<_>>(), ids[..4]);
        let odd = JobFilter { queue: Some("odd".to_owned()), limit: 10, ..JobFilter::default() };
        assert_eq!(fixture.store.jobs(TENANT, &odd).await.unwrap().len(), 2);
        let run = fixture.claim(ids[0], LEASE).await;
        assert!(fixture.complete(&run, "ok").await);
        for (states, expected) in [
            (vec![JobState::Completed], 1),
            (vec![JobState::Queued, JobState::Running], 4),
            (vec![JobState::Completed, JobState::Queued], 5),
            (vec![JobState::Running], 0),
            (vec![JobState::Failed, JobState::Cancelled], 0),
        ] {
            let filter = JobFilter { states: states.clone(), limit: 10, ..JobFilter::default() };
            assert_eq!(fixture.store.jobs(TENANT, &filter).await.unwrap().len(), expected, "{states:?}");
        }
        let since = JobFilter { since: Some(now()), limit: 10, ..JobFilter::default() };
        assert!(fixture.store.jobs(TENANT, &since).await.unwrap().is_empty());
        assert!(fixture.store.jobs("other", &page(None)).await.unwrap().is_empty());
        assert!(fixture.store.job("other", ids[0]).await.unwrap().is_none());
    }

    async fn a_job_reads_back_as_it_was_submitted(fixture: Fixture) {
        let mut job = plain_job();
        job.payload = serde_json::json!({"prompt": "héllo \"wörld\" 🚀\n", "n": [1, 2.5, null, true]});
        job.metadata = Some(serde_json::json!({"a": {"b": "c"}}));
        job.run_at = Some(now().plus(LEASE));
        job.timeout_ms = Some(1_234);
        job.retry = RetryPolicy { max_attempts: 7, base_ms: 10, cap_ms: 20 };
        job.deadline = Some(now().plus(LEASE * 2));
        fixture.submit(job.clone()).await.unwrap();
        let read = fixture.job(job.id).await;
        assert_eq!((read.payload, read.metadata, read.retry), (job.payload, job.metadata, job.retry));
        assert_eq!((Some(read.run_at), read.timeout_ms, read.deadline), (job.run_at, job.timeout_ms, job.deadline));
    }

    async fn streams_are_scoped_and_read_in_pages(fixture: Fixture) {
        let created = fixture.submit(task(None, "hi", OnBusy::default())).await.unwrap();
        let run = fixture.claim(created.id, LEASE).await;
        let events = (0..10).map(|index| text(&index.to_string())).collect();
        fixture.store.append(vec![Append { fence: run.fence, events }], now()).await.unwrap().0[0].unwrap();
        let (job, session) = (Stream::Job(created.id), Stream::Session(created.session_id.unwrap()));
        for stream in [job, session] {
            assert!(fixture.store.stream("other", stream).await.unwrap().is_none());
            let state = fixture.store.stream(TENANT, stream).await.unwrap().unwrap();
            assert_eq!((state.first_seq, state.tail_seq, state.ended), (1, 12, false));
            let page = fixture.store.events(stream, 2, 3).await.unwrap();
            assert_eq!(page.iter().map(|event| event.seq_in(stream).unwrap()).collect::<Vec<_>>(), [3, 4, 5]);
        }
        assert_eq!(fixture.store.tails(&[job, session]).await.unwrap().len(), 2);
        assert_eq!(fixture.store.timeline(created.id, 100).await.unwrap().len(), 2);
        assert!(fixture.complete(&run, "ok").await);
        assert!(fixture.store.stream(TENANT, job).await.unwrap().unwrap().ended);
        assert!(!fixture.store.stream(TENANT, session).await.unwrap().unwrap().ended);
    }

    async fn sessions_are_listed_newest_first_in_pages(fixture: Fixture) {
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.insert(0, fixture.submit(task(None, "hi", OnBusy::default())).await.unwrap().session_id.unwrap());
        }
        let first = fixture.store.sessions(TENANT, &SessionFilter { limit: 2, ..SessionFilter::default() }).await.unwrap();
        let second = fixture.store.sessions(TENANT, &SessionFilter { before: Some(first[1].id), limit: 2, ..SessionFilter::default() }).await.unwrap();
        let mut listed: Vec<_> = first.iter().chain(&second).map(|session| session.id).collect();
        listed.sort();
        ids.sort();
        assert_eq!(listed, ids);
    }

    async fn queues_are_counted_by_state(fixture: Fixture) {
        fixture.submit(plain_job()).await.unwrap();
        let running = fixture.submit(plain_job()).await.unwrap().id;
        fixture.claim(running, LEASE).await;
        for tenant in [Some(TENANT), None] {
            let stats = fixture.store.queue_stats(tenant).await.unwrap();
            let counts: Vec<_> = stats.iter().map(|stat| (stat.state, stat.count)).collect();
            assert_eq!(counts, [(JobState::Queued, 1), (JobState::Running, 1)]);
        }
        assert!(fixture.store.queue_stats(Some("other")).await.unwrap().is_empty());
    }

    async fn the_epoch_stays(fixture: Fixture) {
        let epoch = fixture.store.epoch().await.unwrap();
        assert_eq!(epoch.len(), 32);
        fixture.store.ping().await.unwrap();
        assert_eq!(fixture.store.epoch().await.unwrap(), epoch);
    }
}
