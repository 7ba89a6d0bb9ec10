//! PostgreSQL restarts, and stays away.

use std::time::Duration;

use errand_tests::{postgres::Shutdown, run::run};
use serde_json::json;
use tokio::time::sleep;

use super::trial::{LEASE, Trial, assert_no_attempt_spent, count};

async fn with_a_hundred_tasks(lease: Duration) -> Trial {
    let mut trial = Trial::with_lease(lease, 1, 2, 50).await;
    trial.programs(10, 80).await;
    trial.echoes(90, 80).await;
    trial.until_running(100).await;
    trial
}

#[test]
fn an_outage_of_twice_the_lease_ends_every_run_in_time_and_spends_no_attempt() {
    run(async {
        let mut trial = with_a_hundred_tasks(LEASE).await;
        trial.fleet.postgres.lock().await.stop(Shutdown::Immediate).await.expect("stopped");
        let refused = trial.client(0).post("/agent/tasks", &json!({"prompt": "x"})).await;
        assert_eq!(refused.status, 503, "{refused:?}");
        assert!(refused.header("retry-after").parse::<u32>().is_ok(), "{refused:?}");
        sleep(LEASE * 2).await;
        trial.fleet.postgres.lock().await.start().await.expect("started");
        // That no run was beside another, and that all ended once, is among the laws.
        let history = trial.finish_unwatched().await;
        assert_no_attempt_spent(&history);
        let again = history.jobs.values().filter(|job| count(job, "started") == 2).count();
        assert!(again > 50, "{again} runs were cut off by the outage");
    });
}

#[test]
fn a_restart_within_the_lease_disturbs_no_run() {
    run(async {
        let mut trial = with_a_hundred_tasks(LEASE * 5).await;
        {
            let mut postgres = trial.fleet.postgres.lock().await;
            postgres.stop(Shutdown::Fast).await.expect("stopped");
            sleep(Duration::from_millis(200)).await;
            postgres.start().await.expect("started");
        }
        let history = trial.finish_unwatched().await;
        for job in history.jobs.values() {
            assert_eq!(count(job, "started"), 1, "{job:#?}");
        }
    });
}
