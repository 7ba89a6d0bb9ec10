//! What operators order.

use std::{collections::BTreeSet, time::Duration};

use errand_common::{
    domain::{JobState, WorkerId},
    port::store::{DrainAsked, WorkerInfo},
};

use super::{Fixture, LEASE, TENANT, now, on_both, plain_job};

async fn info(fixture: &Fixture, id: WorkerId) -> Option<WorkerInfo> {
    fixture.store.live_workers().await.unwrap().into_iter().find(|info| info.id == id)
}

on_both! {
    async fn a_pause_holds_from_the_next_claim_on_and_leaves_what_runs_alone(fixture: Fixture) {
        let (running, waiting) =
            (fixture.submit(plain_job()).await.unwrap().id, fixture.submit(plain_job()).await.unwrap().id);
        let run = fixture.claim(running, LEASE).await;
        fixture.store.pause("default", Some(TENANT), now()).await.unwrap();
        fixture.store.pause("default", Some(TENANT), now()).await.unwrap();
        let worker = fixture.worker().await;
        assert!(fixture.store.claim(worker, LEASE, &[waiting], now()).await.unwrap().0.claimed.is_empty());
        assert_eq!(fixture.job(waiting).await.state, JobState::Queued);
        assert!(fixture.store.renew(LEASE, &[run.fence]).await.unwrap()[0].is_ok());
        assert!(fixture.complete(&run, "done").await);
        fixture.store.resume("default", Some(TENANT)).await.unwrap();
        fixture.claim(waiting, LEASE).await;
    }

    async fn a_pause_is_for_one_queue_of_one_tenant_or_of_all(fixture: Fixture) {
        let mut theirs = plain_job();
        theirs.tenant = "other".to_owned();
        let mut elsewhere = plain_job();
        elsewhere.queue = "elsewhere".to_owned();
        let ids = [plain_job(), theirs, elsewhere].map(|job| (job.id, job));
        for (_, job) in ids.clone() {
            fixture.submit(job).await.unwrap();
        }
        let [(ours, _), (theirs, _), (elsewhere, _)] = ids;
        let queues = ["default".to_owned(), "elsewhere".to_owned()];
        let told = async || {
            let due = fixture.store.due(&queues, None, 10).await.unwrap().ids;
            let queued = fixture.store.queued("", None, 10).await.unwrap();
            let queued = queued.into_iter().filter(|job| !job.is_paused).map(|job| job.ready.id).collect::<BTreeSet<_>>();
            assert_eq!(due.into_iter().collect::<BTreeSet<_>>(), queued, "who reads without the queue sees the same");
            queued
        };
        fixture.store.pause("default", Some(TENANT), now()).await.unwrap();
        assert_eq!(told().await, BTreeSet::from([theirs, elsewhere]));
        fixture.store.pause("default", None, now()).await.unwrap();
        assert_eq!(told().await, BTreeSet::from([elsewhere]));
        fixture.store.resume("default", Some(TENANT)).await.unwrap();
        assert_eq!(told().await, BTreeSet::from([elsewhere]), "the pause for everyone stands");
        let worker = fixture.worker().await;
        let (claims, _) = fixture.store.claim(worker, LEASE, &[ours, theirs, elsewhere], now()).await.unwrap();
        assert_eq!(claims.claimed.iter().map(|claimed| claimed.job.id).collect::<Vec<_>>(), [elsewhere]);
        fixture.store.resume("default", None).await.unwrap();
        assert_eq!(told().await, BTreeSet::from([ours, theirs]));
    }

    async fn a_tenant_sees_its_own_pauses_and_those_for_everyone(fixture: Fixture) {
        fixture.store.pause("a", Some("other"), now()).await.unwrap();
        fixture.store.pause("b", Some(TENANT), now()).await.unwrap();
        fixture.store.pause("c", None, now()).await.unwrap();
        let paused = fixture.store.paused(TENANT).await.unwrap();
        let seen: Vec<_> = paused.iter().map(|order| (order.queue.as_str(), order.tenant.as_deref())).collect();
        assert_eq!(seen, [("b", Some(TENANT)), ("c", None)]);
    }

    async fn a_worker_finds_out_by_its_registration_that_it_is_to_drain(fixture: Fixture) {
        let id = fixture.worker().await;
        let mut registered = info(&fixture, id).await.unwrap();
        assert!(!registered.draining);
        assert_eq!(fixture.store.ask_drain(id).await.unwrap(), DrainAsked::Asked);
        assert_eq!(fixture.store.ask_drain(id).await.unwrap(), DrainAsked::Asked, "twice is once");
        assert!(info(&fixture, id).await.unwrap().draining);
        registered.running = 3;
        assert!(fixture.store.register_worker(&registered, LEASE).await.unwrap());
        assert!(fixture.store.register_worker(&registered, LEASE).await.unwrap(), "it is told each time");
        assert!(!fixture.store.register_worker(&WorkerInfo { id: WorkerId::new(), ..registered }, LEASE).await.unwrap());
    }

    async fn a_worker_that_drains_by_itself_says_so(fixture: Fixture) {
        let id = fixture.worker().await;
        let registered = info(&fixture, id).await.unwrap();
        let draining = WorkerInfo { draining: true, ..registered };
        assert!(fixture.store.register_worker(&draining, LEASE).await.unwrap());
        assert!(info(&fixture, id).await.unwrap().draining);
    }

    async fn only_a_live_worker_that_is_a_worker_alone_can_be_drained(fixture: Fixture) {
        assert_eq!(fixture.store.ask_drain(WorkerId::new()).await.unwrap(), DrainAsked::Unknown);
        let gone = fixture.worker().await;
        fixture.store.release_worker(gone).await.unwrap();
        assert_eq!(fixture.store.ask_drain(gone).await.unwrap(), DrainAsked::Unknown);
        let part = fixture.worker().await;
        let registered = info(&fixture, part).await.unwrap();
        let part_of_more = WorkerInfo { id: WorkerId::new(), drainable: false, ..registered };
        fixture.store.register_worker(&part_of_more, Duration::from_secs(30)).await.unwrap();
        assert_eq!(fixture.store.ask_drain(part_of_more.id).await.unwrap(), DrainAsked::NotDrainable);
        assert!(!fixture.store.register_worker(&part_of_more, LEASE).await.unwrap());
        assert!(!info(&fixture, part_of_more.id).await.unwrap().draining);
    }
}
