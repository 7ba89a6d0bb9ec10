//! Several workers on one store.

use std::{collections::BTreeSet, time::Duration};

use errand_common::{
    domain::{FailureClass, JobId, JobState, Stream, WorkerId, event::EventType},
    port::store::{NewJob, RescueScope, Submission},
};
use errand_tests::wait;

use super::{Fixture, LEASE, now, on_both, plain_job};

const BLINK: Duration = Duration::from_millis(1);

impl Fixture {
    /// Many jobs in one transaction.
    async fn submit_many(&self, count: usize, like: impl Fn(usize) -> NewJob) -> Vec<JobId> {
        let jobs: Vec<_> = (0..count).map(like).collect();
        let ids = jobs.iter().map(|job| job.id).collect();
        let (results, _) = self.store.submit(vec![Submission { jobs, idempotency: None }], now()).await;
        assert!(results.iter().all(Result::is_ok));
        ids
    }

    async fn due(&self, queue: &str, limit: u32) -> Vec<JobId> {
        self.store.due(&[queue.to_owned()], None, limit).await.unwrap().ids
    }

    /// Claims the job and loses the worker.
    async fn crash(&self, id: JobId) {
        let worker = WorkerId::new();
        self.store.claim_alone(worker, BLINK, id, now()).await.unwrap().0.expect("it can be claimed");
        wait::until("the lease passes", || async {
            let count = self.store.rescue(RescueScope::Lapsed, now(), 10).await.unwrap().0.len();
            (count > 0).then_some(())
        })
        .await;
    }
}

fn patient(tenant: &str) -> NewJob {
    let mut job = NewJob { tenant: tenant.to_owned(), ..plain_job() };
    job.retry.max_attempts = 10;
    job
}

on_both! {
    async fn due_jobs_are_read_tenant_by_tenant_the_urgent_first(fixture: Fixture) {
        fixture.submit_many(300, |_| patient("loud")).await;
        let quiet = fixture.submit(patient("quiet")).await.unwrap().id;
        let mut job = patient("loud");
        job.priority = 0.try_into().unwrap();
        let urgent = fixture.submit(job).await.unwrap().id;
        let mut job = patient("quiet");
        job.queue = "other".to_owned();
        let elsewhere = fixture.submit(job).await.unwrap().id;
        for _ in 0..5 {
            let due = fixture.due("default", 3).await;
            assert_eq!((due.len(), due[0]), (3, urgent), "whatever chance says");
            assert!(due.contains(&quiet), "its turn comes however much the other has");
        }
        assert_eq!(fixture.due("other", 10).await, [elsewhere]);
        assert!(fixture.due("absent", 10).await.is_empty());
        assert_eq!(fixture.store.queue_names(10).await.unwrap(), ["default", "other"]);
    }

    async fn of_one_tenant_the_older_are_due_before_the_rest(fixture: Fixture) {
        let ids = fixture.submit_many(500, |_| plain_job()).await;
        let oldest: BTreeSet<_> = ids[..80].iter().copied().collect();
        let due = fixture.due("default", 10).await;
        assert_eq!(due.len(), 10);
        assert!(due.iter().all(|id| oldest.contains(id)), "chance picks among the oldest only");
        assert_eq!(fixture.due("default", 1_000).await.len(), 500, "all of them, if so many are asked for");
    }

    async fn more_tenants_than_one_look_reaches_are_all_reached_in_turn(fixture: Fixture) {
        let ids = fixture.submit_many(150, |number| patient(&format!("tenant-{number:03}"))).await;
        let queues = ["default".to_owned()];
        let (mut seen, mut after, mut looks) = (BTreeSet::new(), None, 0);
        loop {
            let due = fixture.store.due(&queues, after.as_deref(), 100).await.unwrap();
            seen.extend(due.ids);
            looks += 1;
            after = due.last_tenant;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((seen.len(), looks), (ids.len(), 3));
    }

    async fn workers_without_a_queue_share_the_work_and_claim_nothing_twice(fixture: Fixture) {
        let ids = fixture.submit_many(400, |_| plain_job()).await;
        let workers = (0..4).map(|_| async {
            let worker = fixture.worker().await;
            let mut claimed = Vec::new();
            loop {
                let due = fixture.due("default", 16).await;
                if due.is_empty() {
                    return claimed;
                }
                let claims = fixture.store.claim(worker, LEASE, &due, now()).await.unwrap().0;
                claimed.extend(claims.claimed.iter().map(|claimed| claimed.job.id));
            }
        });
        let claimed = futures::future::join_all(workers).await.concat();
        assert_eq!(claimed.len(), ids.len(), "none twice");
        assert_eq!(claimed.into_iter().collect::<BTreeSet<_>>(), ids.into_iter().collect());
    }

    async fn a_duty_is_one_workers_until_its_term_is_over_or_it_says_good_bye(fixture: Fixture) {
        let [first, second] = [fixture.worker().await, fixture.worker().await];
        let take = async |duty, worker, term| fixture.store.take_duty(duty, worker, term).await.unwrap();
        assert!(take("sweep", first, LEASE).await);
        assert!(!take("sweep", second, LEASE).await);
        assert!(take("refill", second, LEASE).await, "another duty");
        assert!(take("sweep", first, LEASE).await, "its holder keeps it");
        fixture.store.release_worker(first).await.unwrap();
        assert!(take("sweep", second, BLINK).await, "laid down");
        wait::until("the term is over", || async { take("sweep", first, LEASE).await.then_some(()) }).await;
        assert!(!take("sweep", second, LEASE).await);
    }

    async fn one_of_many_takes_a_duty_that_is_free(fixture: Fixture) {
        let taken = (0..8).map(|_| fixture.store.take_duty("sweep", WorkerId::new(), LEASE));
        let taken = futures::future::join_all(taken).await;
        assert_eq!(taken.into_iter().filter(|taken| *taken.as_ref().unwrap()).count(), 1);
    }

    async fn a_job_that_crashed_twice_is_claimed_alone_only(fixture: Fixture) {
        let suspect = fixture.submit(patient("acme")).await.unwrap().id;
        let plain = fixture.submit(patient("acme")).await.unwrap().id;
        fixture.crash(suspect).await;
        let worker = fixture.worker().await;
        let claim = async |id| fixture.store.claim(worker, BLINK, &[id], now()).await.unwrap().0;
        fixture.crash(suspect).await;
        let claims = claim(suspect).await;
        assert_eq!((claims.claimed.len(), claims.suspects), (0, vec![suspect]));
        let claims = fixture.store.claim(worker, LEASE, &[suspect, plain], now()).await.unwrap().0;
        assert_eq!(claims.claimed.iter().map(|claimed| claimed.job.id).collect::<Vec<_>>(), [plain]);
        assert_eq!(fixture.job(suspect).await.state, JobState::Queued, "left as it was");
        let alone = fixture.store.claim_alone(worker, LEASE, suspect, now()).await.unwrap().0.unwrap();
        assert_eq!((alone.job.id, alone.job.attempt), (suspect, 3));
        assert!(fixture.complete(&alone, "innocent").await);
        assert!(fixture.store.claim_alone(worker, LEASE, suspect, now()).await.unwrap().0.is_none());
    }

    async fn a_third_crash_quarantines_the_job_with_the_workers_it_took_along(fixture: Fixture) {
        let id = fixture.submit(patient("acme")).await.unwrap().id;
        let lost = fixture.worker().await;
        fixture.claim_as(lost, id, BLINK).await;
        // Its registration lapses as its lease does.
        fixture.tamper("UPDATE workers SET alive_until = 0").await;
        wait::until("the lease passes", || async {
            let count = fixture.store.rescue(RescueScope::Lapsed, now(), 10).await.unwrap().0.len();
            (count > 0).then_some(())
        })
        .await;
        fixture.crash(id).await;
        fixture.crash(id).await;
        let job = fixture.store.job("acme", id).await.unwrap().unwrap();
        let failure = job.failure.unwrap();
        assert_eq!((job.state, job.attempt), (JobState::Failed, 3));
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Crash, "QUARANTINED"));
        assert!(failure.message.contains(&format!("worker {lost} on host at ")), "{}", failure.message);
        assert_eq!(failure.message.matches("worker ").count(), 4, "{}", failure.message);
        let events = fixture.store.events(Stream::Job(id), 0, 100).await.unwrap();
        let retrying: Vec<_> = events.iter().filter(|event| event.kind == EventType::Retrying).collect();
        assert_eq!(retrying.len(), 2);
        assert_eq!((&retrying[0].data["worker_id"], &retrying[0].data["host"]), (&lost.to_string().into(), &"host".into()));
    }

    async fn a_hand_back_is_no_crash(fixture: Fixture) {
        let id = fixture.submit(patient("acme")).await.unwrap().id;
        for _ in 0..4 {
            fixture.claim(id, BLINK).await;
            wait::until("the lease passes", || async {
                let count = fixture.store.rescue(RescueScope::Lapsed, now(), 10).await.unwrap().0.len();
                (count > 0).then_some(())
            })
            .await;
        }
        let claimed = fixture.claim(id, LEASE).await;
        assert_eq!((claimed.job.attempt, claimed.job.payload_version), (1, 1), "and no suspect");
    }
}
