//! Redis is flushed, killed, frozen, and cut off.

use std::time::Duration;

use errand_tests::{
    fleet::Service,
    proxy::{Direction, Mode},
    run::run,
};
use tokio::time::sleep;

use super::trial::{Trial, assert_no_attempt_spent, count};

#[test]
fn a_flush_with_ten_thousand_jobs_queued_loses_and_doubles_none() {
    run(async {
        let mut trial = Trial::new(1, 2, 100).await;
        trial.echoes(200, 80).await;
        trial.until_running(200).await;
        for _ in 0..10 {
            trial.echoes(1_000, 1).await;
        }
        trial.fleet.redis.lock().await.flushall().await.expect("flushed");
        for _ in 0..20 {
            trial.echo(0, 1).await;
        }
        let history = trial.finish_unwatched().await;
        assert_eq!(history.jobs.len(), 10_220);
        for job in history.jobs.values() {
            assert_eq!(count(job, "started"), 1, "{job:#?}");
        }
    });
}

#[test]
fn submissions_are_accepted_and_jobs_run_whatever_happens_to_redis() {
    run(async {
        let mut trial = Trial::new(1, 2, 20).await;
        trial.echoes(20, 60).await;
        trial.until_running(20).await;

        trial.fleet.redis.lock().await.kill9();
        trial.echo(0, 2).await;
        sleep(Duration::from_secs(1)).await;
        trial.fleet.redis.lock().await.start().await.expect("it starts");
        trial.echo(0, 2).await;

        trial.fleet.redis.lock().await.sigstop();
        trial.echo(0, 2).await;
        sleep(Duration::from_secs(1)).await;
        trial.fleet.redis.lock().await.sigcont();

        for mode in [Mode::Cut, Mode::HalfOpen, Mode::BlackHole(Direction::Down)] {
            trial.fleet.link_all(Service::Redis, mode);
            trial.echo(0, 2).await;
            sleep(Duration::from_secs(1)).await;
            trial.fleet.link_all(Service::Redis, Mode::Pass);
            trial.echo(0, 2).await;
        }
        // Whoever was cut off has come back by itself: what is submitted now is told of by push.
        let history = trial.finish_unwatched().await;
        assert_no_attempt_spent(&history);
    });
}
