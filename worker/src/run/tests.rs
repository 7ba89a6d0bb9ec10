//! The whole worker on a real store.

mod faulty;
mod fleet;
mod trial;

use std::{sync::atomic::Ordering, time::Instant};

use errand_common::{
    domain::{EventType, Job, JobState, SessionId},
    port::store::{CancelRequest, DrainAsked, NewJob, Submission},
    wire::control::Signal,
};
use serde_json::json;

use self::trial::{Trial, job, task, task_in};

fn code(job: &Job) -> Option<&str> {
    job.failure.as_ref().map(|failure| failure.code.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_runs_to_its_end_and_the_worker_stops_gracefully() {
    let mut trial = Trial::start(|_| {}).await;
    let job = trial.ended(trial.submit(task("hello")).await).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 1));
    assert_eq!(job.result.as_ref().map(|result| result["summary"].clone()), Some(json!("hello")));
    let kinds: Vec<_> = trial.events(job.id).await.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventType::Queued, EventType::Started, EventType::Text, EventType::Completed]);
    assert_eq!(trial.backend.store.live_workers().await.expect("workers").len(), 1);
    trial.stop().await.expect("a graceful end");
    assert!(trial.backend.store.live_workers().await.expect("workers").is_empty(), "it said good-bye");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_fails_its_job_with_its_words_and_nothing_else() {
    let mut trial = Trial::start(|_| {}).await;
    let (bad, good) = (trial.submit(task("panic")).await, trial.submit(task("fine")).await);
    let bad = trial.ended(bad).await;
    assert_eq!((bad.state, code(&bad)), (JobState::Failed, Some("PANIC")));
    assert!(bad.failure.as_ref().is_some_and(|failure| failure.message.contains("as told")));
    assert_eq!(trial.ended(good).await.state, JobState::Completed);
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_cannot_be_read_fails_its_job_with_a_reason() {
    let mut trial = Trial::start(|_| {}).await;
    let job = trial.ended(trial.submit(job("task", json!({ "prompt": 7 }))).await).await;
    assert_eq!((job.state, code(&job)), (JobState::Failed, Some("INVALID_PAYLOAD")));
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_worker_knows_is_put_off_and_fails_when_its_time_is_up() {
    let mut trial = Trial::start(|worker| worker.unknown_kind_seconds = 1).await;
    let kind = trial.submit(job("teleport", json!({}))).await;
    let engine = trial.submit(job("task", json!({ "prompt": "x", "engineType": "absent" }))).await;
    trial.until(kind, "the snooze", |job| job.state == JobState::Scheduled).await;
    let (kind, engine) = (trial.ended(kind).await, trial.ended(engine).await);
    assert_eq!((code(&kind), kind.attempt), (Some("UNKNOWN_KIND"), 1));
    assert_eq!((code(&engine), engine.attempt), (Some("UNKNOWN_ENGINE"), 1));
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transient_failure_is_tried_again_as_the_next_attempt() {
    let mut trial = Trial::start(|_| {}).await;
    let job = trial.ended(trial.submit(task("flaky")).await).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 2));
    assert!(trial.events(job.id).await.iter().any(|event| event.kind == EventType::Retrying));
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_takes_too_long_is_stopped_and_fails() {
    let mut trial = Trial::start(|worker| worker.stop_grace_ms = 10).await;
    let job = trial.ended(trial.submit(NewJob { timeout_ms: Some(50), ..task("hang") }).await).await;
    assert_eq!((job.state, code(&job)), (JobState::Failed, Some("TIMEOUT")));
    assert_eq!(trial.engine.running.load(Ordering::SeqCst), 0, "the engine was dropped");
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_running_task_stops_it_and_frees_its_session() {
    let mut trial = Trial::start(|_| {}).await;
    let session = SessionId::new();
    let first = trial.submit(task_in(session, "wait")).await;
    let second = trial.submit(task_in(session, "after")).await;
    trial.running(first).await;
    assert_eq!(trial.job(second).await.state, JobState::Blocked);
    let cancelled = Instant::now();
    trial.cancel(first).await;
    assert_eq!(trial.ended(second).await.state, JobState::Completed);
    assert!(cancelled.elapsed() < trial.lease() / 2, "freed by the release, not by the lease");
    assert_eq!(trial.job(first).await.state, JobState::Cancelled);
    assert_eq!(trial.engine.running.load(Ordering::SeqCst), 0);
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_hands_a_long_run_back_without_spending_an_attempt() {
    let mut trial = Trial::start(|worker| worker.drain_seconds = 0).await;
    let id = trial.submit(task("wait")).await;
    trial.running(id).await;
    trial.stop().await.expect("a graceful end");
    let job = trial.job(id).await;
    assert_eq!((job.state, job.attempt), (JobState::Queued, 1));
    assert_eq!(trial.engine.running.load(Ordering::SeqCst), 0);

    trial.start_worker(false);
    trial.until(id, "the next run", |job| job.state == JobState::Running).await;
    assert_eq!(trial.job(id).await.attempt, 1);
    trial.cancel(id).await;
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_word_drains_the_worker_by_signal_and_ends_it_well() {
    let mut trial = Trial::start(|worker| worker.drain_seconds = 0).await;
    let id = trial.submit(task("wait")).await;
    trial.running(id).await;
    let worker = trial.backend.store.live_workers().await.expect("a database that works").remove(0);
    assert!(!worker.draining);
    let asked = Instant::now();
    assert_eq!(trial.backend.store.ask_drain(worker.id).await.expect("asked"), DrainAsked::Asked);
    trial.backend.signal(worker.id, Signal::Drain).await;
    trial.ends_by_itself().await.expect("a graceful end");
    assert!(asked.elapsed() < trial.lease() / 3, "told by the signal, not by the next renewal: {:?}", asked.elapsed());
    let job = trial.job(id).await;
    assert_eq!((job.state, job.attempt), (JobState::Queued, 1), "handed back, no attempt spent");
    assert!(trial.backend.store.live_workers().await.expect("a database that works").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_word_whose_signal_was_lost_is_found_at_the_next_registration() {
    let mut trial = Trial::start(|worker| worker.lease_seconds = 2).await;
    trial.ended(trial.submit(task("hello")).await).await;
    let worker = trial.backend.store.live_workers().await.expect("a database that works").remove(0);
    assert_eq!(trial.backend.store.ask_drain(worker.id).await.expect("asked"), DrainAsked::Asked);
    trial.ends_by_itself().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_lets_a_short_run_finish() {
    let mut trial = Trial::start(|_| {}).await;
    let id = trial.submit(task("flood")).await;
    trial.until(id, "the start", |job| job.state != JobState::Queued).await;
    trial.stop().await.expect("a graceful end");
    assert_eq!(trial.job(id).await.state, JobState::Completed);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_the_sole_holder_starts_the_next_attempt_without_waiting_for_the_lease() {
    let mut trial = Trial::start(|_| {}).await;
    let id = trial.submit(task("wait")).await;
    trial.running(id).await;
    trial.worker.take().expect("a worker").abort();
    let crashed = Instant::now();
    trial.start_worker(true);
    trial.until(id, "attempt 2", |job| job.state == JobState::Running && job.attempt == 2).await;
    assert!(crashed.elapsed() < trial.lease() / 2);
    trial.cancel(id).await;
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_text_arrives_whole_and_in_order_in_few_events() {
    let mut trial = Trial::start(|worker| worker.event_buffer_kib = 1).await;
    let job = trial.ended(trial.submit(task("flood")).await).await;
    assert_eq!(job.state, JobState::Completed);
    let events = trial.events(job.id).await;
    let text: String = events
        .iter()
        .filter(|event| event.kind == EventType::Text)
        .filter_map(|event| event.data["content"].as_str())
        .collect();
    let expected: String = (0..5_000).map(|number| format!("{number} ")).collect();
    assert_eq!(text, expected);
    assert!(events.len() < 500, "{} events for 5,000 deltas", events.len());
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tasks_all_complete_once_and_never_more_at_a_time_than_allowed() {
    let mut trial = Trial::start(|worker| worker.concurrency = 8).await;
    let mut ids = Vec::new();
    for number in 0..200 {
        ids.push(trial.submit(task(&format!("task {number}"))).await);
    }
    for id in ids {
        let job = trial.ended(id).await;
        assert_eq!((job.state, job.attempt), (JobState::Completed, 1));
    }
    assert_eq!(trial.engine.turns.load(Ordering::SeqCst), 200);
    assert!(trial.engine.most_at_once.load(Ordering::SeqCst) <= 8);
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_the_queue_forgot_are_found_by_the_sweep() {
    let mut trial = Trial::start(|_| {}).await;
    let submission = Submission { jobs: vec![task("unheard")], idempotency: None };
    let id = submission.jobs[0].id;
    // Nobody is told: as if the process had died between the commit and the push.
    let (results, _untold) = trial.backend.store.submit(vec![submission], trial.backend.clock.now()).await;
    assert!(results[0].is_ok());
    assert_eq!(trial.ended(id).await.state, JobState::Completed);
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_cannot_be_written_is_kept_until_the_store_is_back() {
    let mut trial = Trial::start(|_| {}).await;
    let id = trial.submit(task("gate")).await;
    trial.running(id).await;
    trial.faulty.set_away(true);
    trial.engine.gate.notify_one();
    trial.until_engine("the end of the turn", |engine| engine.running.load(Ordering::SeqCst) == 0).await;
    assert_eq!(trial.job(id).await.state, JobState::Running, "its end is not written yet");
    trial.faulty.set_away(false);
    let job = trial.ended(id).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 1));
    let events = trial.events(id).await;
    let texts: Vec<_> = events.iter().filter_map(|event| event.data["content"].as_str()).collect();
    assert_eq!(texts, ["before", " after"]);
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_lease_cannot_be_renewed_is_stopped_before_its_end_and_runs_again_unharmed() {
    let mut trial = Trial::start(|worker| worker.lease_seconds = 2).await;
    let id = trial.submit(task("gate")).await;
    let written = trial.running(id).await.tail_seq;
    trial.faulty.set_away(true);
    let away = Instant::now();
    trial.until_engine("the stop", |engine| engine.running.load(Ordering::SeqCst) == 0).await;
    assert!(away.elapsed() < trial.lease(), "stopped before the lease can have passed");
    assert_eq!(trial.job(id).await.tail_seq, written, "nothing more was written");
    trial.faulty.set_away(false);
    trial.engine.gate.notify_one();
    let job = trial.ended(id).await;
    assert_eq!((job.state, job.attempt), (JobState::Completed, 1), "no attempt was spent");
    assert_eq!(trial.engine.turns.load(Ordering::SeqCst), 2);
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_outlives_many_leases_while_they_are_renewed() {
    let mut trial = Trial::start(|worker| worker.lease_seconds = 2).await;
    let id = trial.submit(task("gate")).await;
    let first = trial.running(id).await.lease_until;
    trial.until(id, "a third renewal", |job| job.lease_until > first.map(|at| at.plus(trial.lease() * 2))).await;
    trial.engine.gate.notify_one();
    assert_eq!(trial.ended(id).await.attempt, 1);
    assert_eq!(trial.engine.turns.load(Ordering::SeqCst), 1);
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_whose_signal_was_lost_is_found_by_the_next_renewal() {
    let mut trial = Trial::start(|worker| worker.lease_seconds = 3).await;
    let id = trial.submit(task("wait")).await;
    trial.running(id).await;
    let request = CancelRequest {
        tenant: "dev".to_owned(),
        id,
        code: "USER_CANCEL".to_owned(),
        message: "cancelled".to_owned(),
        now: trial.backend.clock.now(),
    };
    let _unsent = trial.backend.store.cancel(request).await.expect("a database that works");
    trial.until_engine("the stop", |engine| engine.running.load(Ordering::SeqCst) == 0).await;
    trial.until(id, "the release", |job| job.lease_until.is_none()).await;
    trial.stop().await.expect("a graceful end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_in_time_even_if_the_store_is_away() {
    let mut trial = Trial::start(|worker| (worker.lease_seconds, worker.drain_seconds) = (2, 0)).await;
    let id = trial.submit(task("wait")).await;
    trial.running(id).await;
    trial.faulty.set_away(true);
    trial.stop().await.expect("a graceful end, though its runs could not be handed back");
    assert_eq!(trial.engine.running.load(Ordering::SeqCst), 0);
    assert_eq!(trial.job(id).await.state, JobState::Running, "its lease will pass");
}
