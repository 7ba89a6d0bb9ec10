//! What a fleet must bear: no queue, lost workers, a store that was away.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use errand_common::{
    adapter::memory::MemoryQueue,
    domain::{JobId, JobState, Timestamp, WorkerId},
    port::{
        Popped, Queue, QueueError, Ready, Refill,
        store::{NewJob, RescueScope, Submission},
    },
};
use serde_json::json;

use super::{
    code,
    faulty::Faulty,
    trial::{Trial, job, task},
};

impl Trial {
    /// Jobs that nobody is told of.
    async fn submit_untold(&self, jobs: Vec<NewJob>) -> Vec<JobId> {
        let ids = jobs.iter().map(|job| job.id).collect();
        let batch = vec![Submission { jobs, idempotency: None }];
        self.backend.store.submit(batch, self.backend.clock.now()).await.0.remove(0).expect("submitted");
        ids
    }

    /// Lets workers that nobody knows die over the job until it is a suspect.
    async fn make_suspect(&self, id: JobId) {
        let (store, now) = (&self.backend.store, || self.backend.clock.now());
        for _ in 0..errand_common::domain::poison::SUSPECT_CRASHES {
            let moment = Duration::from_millis(1);
            store.claim_alone(WorkerId::new(), moment, id, now()).await.expect("a store").0.expect("it is due");
            while store.rescue(RescueScope::Lapsed, now(), 1).await.expect("a store").0.is_empty() {
                tokio::time::sleep(moment).await;
            }
        }
    }
}

/// A queue that can't be reached.
struct NoQueue;

#[async_trait::async_trait]
impl Queue for NoQueue {
    async fn push(&self, _: &[Ready]) -> Result<(), QueueError> {
        Err(QueueError("told to be away".to_owned()))
    }

    async fn pop(&self, _: &[String], _: usize, _: Timestamp) -> Result<Popped, QueueError> {
        Err(QueueError("told to be away".to_owned()))
    }

    async fn incomplete(&self, _: &[String]) -> Result<Vec<String>, QueueError> {
        Err(QueueError("told to be away".to_owned()))
    }

    async fn begin_refill(&self, _: &str) -> Result<Refill, QueueError> {
        Err(QueueError("told to be away".to_owned()))
    }

    async fn end_refill(&self, _: &Refill) -> Result<bool, QueueError> {
        Err(QueueError("told to be away".to_owned()))
    }

    async fn declare_incomplete(&self, _: &[String]) -> Result<(), QueueError> {
        Err(QueueError("told to be away".to_owned()))
    }

    async fn wait(&self, _: &[String], timeout: Duration) {
        tokio::time::sleep(timeout).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_found_in_the_store_while_the_queue_is_away() {
    let mut trial = Trial::start(|worker| worker.poll_interval_ms = 20).await;
    trial.stop().await.expect("a graceful end");
    trial.backend.queue = Arc::new(NoQueue);
    let elsewhere = trial.submit(NewJob { queue: "other".to_owned(), ..task("not ours") }).await;
    // More than one look goes through.
    let others = (0..3_000).map(|_| NewJob { queue: "other".to_owned(), ..task("not ours") }).collect();
    let others = Submission { jobs: others, idempotency: None };
    trial.backend.store.submit(vec![others], trial.backend.clock.now()).await.0.remove(0).expect("submitted");
    let ours = trial.submit(task("ours")).await;
    let flaky = trial.submit(task("flaky")).await;
    trial.start_worker(false);
    assert_eq!(trial.ended(ours).await.state, JobState::Completed);
    assert_eq!(
        trial.ended(flaky).await.state,
        JobState::Completed,
        "what waits out its backoff comes due all the same"
    );
    assert_eq!(trial.job(elsewhere).await.state, JobState::Queued, "another queue's");
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lost_its_content_is_refilled_and_meanwhile_nothing_waits_for_it() {
    let mut trial = Trial::start(|worker| worker.sweep_batch = 100).await;
    trial.stop().await.expect("a graceful end");
    let elsewhere = (0..350).map(|_| NewJob { queue: "other".to_owned(), ..task("not ours") }).collect();
    let elsewhere = trial.submit_untold(elsewhere).await;
    let ours = trial.submit_untold(vec![task("ours")]).await[0];
    trial.backend.queue = Arc::new(MemoryQueue::default());
    trial.start_worker(false);
    assert_eq!(trial.ended(ours).await.state, JobState::Completed);
    let names = ["default".to_owned(), "other".to_owned()];
    let queue = trial.backend.queue.clone();
    for _ in 0..2 {
        let started = Instant::now();
        while !queue.incomplete(&names).await.expect("a queue").is_empty() {
            assert!(started.elapsed() < Duration::from_secs(20), "the index is still incomplete");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut known = queue.pop(&names[1..], 1_000, trial.backend.clock.now()).await.expect("a queue").ready;
        known.sort_unstable();
        assert_eq!(known, elsewhere, "whatever the pages, each id once");
        queue.declare_incomplete(&names).await.expect("a queue");
    }
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspect_runs_when_nothing_else_does_and_nothing_else_runs_beside_it() {
    let mut trial = Trial::start(|worker| (worker.concurrency, worker.sweep_interval_ms) = (4, 20)).await;
    trial.stop().await.expect("a graceful end");
    let suspect = trial.submit(task("gate")).await;
    trial.make_suspect(suspect).await;
    trial.start_worker(false);
    let before = trial.submit(task("gate")).await;
    let mut order = [before, suspect];
    let mut others = Vec::new();
    // Which of the two the worker sees first is chance.
    for turn in 0..2 {
        trial.until_engine("one of the two", |engine| engine.running.load(Ordering::SeqCst) == 1).await;
        let beside = trial.submit(task("beside")).await;
        others.push(beside);
        tokio::time::sleep(Duration::from_millis(300)).await;
        if trial.job(order[turn]).await.state != JobState::Running {
            order.swap(0, 1);
        }
        assert_eq!(trial.job(order[turn]).await.state, JobState::Running);
        if order[turn] == suspect {
            assert_eq!(trial.engine.running.load(Ordering::SeqCst), 1, "alone");
            assert_eq!(trial.job(beside).await.state, JobState::Queued, "it waits for the suspect");
        } else if turn == 0 {
            assert_eq!(trial.job(suspect).await.state, JobState::Queued, "it waits for the other");
        }
        trial.engine.gate.notify_one();
        assert_eq!(trial.ended(order[turn]).await.state, JobState::Completed);
    }
    for other in others {
        assert_eq!(trial.ended(other).await.state, JobState::Completed);
    }
    assert_eq!(trial.job(suspect).await.attempt, 3);
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_never_empty_leaves_the_suspect_to_others_and_goes_on() {
    let mut trial = Trial::start(|worker| (worker.concurrency, worker.isolate_wait_seconds) = (2, 1)).await;
    trial.stop().await.expect("a graceful end");
    let suspect = trial.submit_untold(vec![task("suspect")]).await[0];
    trial.make_suspect(suspect).await;
    let long = trial.submit(NewJob { priority: 0.try_into().expect("in range"), ..task("gate") }).await;
    trial.start_worker(false);
    trial.running(long).await;
    let other = trial.submit(task("other")).await;
    assert_eq!(trial.ended(other).await.state, JobState::Completed, "the wait for the long one is bounded");
    trial.engine.gate.notify_one();
    assert_eq!(trial.ended(long).await.state, JobState::Completed);
    assert_eq!(trial.ended(suspect).await.state, JobState::Completed, "it is told of again");
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_is_newer_than_its_handler_is_put_off_and_fails_when_its_time_is_up() {
    let mut trial = Trial::start(|worker| worker.unknown_kind_seconds = 1).await;
    let newer = trial.submit(NewJob { payload_version: 2, ..job("task", json!({ "shape": "of tomorrow" })) }).await;
    trial.until(newer, "the snooze", |job| job.state == JobState::Scheduled).await;
    let newer = trial.ended(newer).await;
    assert_eq!((code(&newer), newer.attempt), (Some("UNKNOWN_VERSION"), 1));
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stands_by_takes_over_from_a_lost_worker_and_its_runs_start_again_in_time() {
    let mut trial = Trial::start(|worker| worker.lease_seconds = 2).await;
    let id = trial.submit(task("wait")).await;
    trial.running(id).await;
    let lost = trial.worker.take().expect("a worker");
    trial.start_worker(false);
    // Long enough in touch with the store to tell the living from the dead.
    tokio::time::sleep(trial.lease() + Duration::from_millis(500)).await;
    let died = Instant::now();
    lost.abort();
    trial.until(id, "attempt 2", |job| job.state == JobState::Running && job.attempt == 2).await;
    assert!(died.elapsed() < trial.lease() + Duration::from_secs(5), "{:?}", died.elapsed());
    trial.cancel(id).await;
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_store_was_away_for_two_leases_each_run_starts_again_once_and_no_attempt_is_spent() {
    const TASKS: usize = 40;
    let mut trial = Trial::start(|worker| worker.lease_seconds = 2).await;
    let first_shutdown = trial.shutdown();
    let first = trial.worker.take().expect("a worker");
    trial.start_worker(false);
    let mut ids = Vec::new();
    for _ in 0..TASKS {
        ids.push(trial.submit(task("second")).await);
    }
    trial.until_engine("all runs", |engine| engine.running.load(Ordering::SeqCst) == TASKS).await;
    trial.faulty.set_away(true);
    trial.until_engine("the stop of all", |engine| engine.running.load(Ordering::SeqCst) == 0).await;
    tokio::time::sleep(trial.lease()).await;
    // One that starts when the store is back knows nothing of the others, who reach it a little later, and must not count
    // them as lost.
    let (second_shutdown, second) = (trial.shutdown(), trial.worker.take().expect("a worker"));
    let theirs = std::mem::replace(&mut trial.faulty, Arc::new(Faulty::new(trial.backend.store.clone())));
    trial.start_worker(false);
    tokio::time::sleep(trial.lease() / 2).await;
    theirs.set_away(false);
    for id in ids {
        let job = trial.ended(id).await;
        assert_eq!((job.state, job.attempt), (JobState::Completed, 1), "{:?}", job.failure);
    }
    assert_eq!(trial.engine.turns.load(Ordering::SeqCst), 2 * TASKS, "each started again once");
    first_shutdown.cancel();
    second_shutdown.cancel();
    trial.stop().await.expect("a graceful end");
    first.await.expect("no panic").expect("a graceful end");
    second.await.expect("no panic").expect("a graceful end");
}
