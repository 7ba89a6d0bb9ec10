//! Workers die, freeze, and stop.

use std::time::Duration;

use errand_tests::{
    chaos::{
        history::{History, Job},
        measure::{percentile, recoveries},
    },
    process,
    run::run,
};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::trial::{LEASE, Trial, assert_no_attempt_spent, count};

#[test]
fn jobs_of_a_killed_worker_run_again_within_a_lease_and_five_seconds() {
    run(async {
        // Either worker has room for all of them: what is measured is the recovery, not the wait for a slot.
        let mut trial = Trial::new(1, 2, 200).await;
        let programs = trial.programs(10, 80).await;
        trial.echoes(190, 80).await;
        trial.until_running(200).await;
        let kill = trial.busier_worker().await.kill().expect("kill");
        let killed = std::time::Instant::now();
        let held = trial.held_by(kill.worker.expect("it had said its name")).await;
        for program in programs.iter().filter(|id| held.contains(id)) {
            process::assert_gone(program, killed, Duration::from_secs(2)).await;
        }

        let history = trial.finish_unwatched().await;
        let recoveries = recoveries(&history, &[kill]);
        assert!(recoveries.len() > 50, "the dead worker had {} jobs", recoveries.len());
        let p99 = percentile(&recoveries, 99).expect("some");
        println!("recovery of {} jobs: p99 {p99:.1?}, max {:.1?}", recoveries.len(), recoveries.last());
        assert!(p99 <= LEASE + Duration::from_secs(5), "{p99:?}");
        let retried = history.jobs.values().filter(|job| count(job, "retrying") == 1).count();
        assert_eq!(retried, recoveries.len(), "each stream tells why it began anew");
    });
}

#[test]
fn nothing_that_a_worker_writes_after_its_lease_is_seen() {
    run(async {
        let mut trial = Trial::new(1, 2, 40).await;
        trial.programs(5, 80).await;
        trial.echoes(55, 80).await;
        trial.until_running(60).await;
        let frozen = &trial.fleet.workers[0];
        frozen.signal(Signal::STOP);
        sleep(LEASE * 2).await;
        frozen.signal(Signal::CONT);
        let history = trial.finish_unwatched().await;
        let again = history.jobs.values().filter(|job| count(job, "started") > 1).count();
        assert!(again > 0, "nothing of the frozen worker was taken over");
        assert!(trial.refusals().await > 0.0, "nothing was refused, so nothing was tried");
    });
}

#[test]
fn a_rolling_restart_fails_nothing_and_spends_no_attempt() {
    run(async {
        let mut trial = Trial::new(1, 4, 20).await;
        let workers = trial.fleet.workers.clone();
        for worker in &workers {
            trial.echoes(25, 15).await;
            worker.stop().await.expect("it ends with success");
            worker.start().expect("it starts");
            trial.fleet.until_ready().await.expect("ready");
        }
        let history = trial.finish_unwatched().await;
        assert_no_attempt_spent(&history);
        println!("the longest wait for a start during the restarts: {:.2?}", longest_delay(&history));
    });
}

/// The longest time for which a job that was due waited for its start.
fn longest_delay(history: &History) -> Duration {
    let delays = |job: &Job| {
        let pairs = job.events.windows(2);
        let starts = pairs.filter(|pair| pair[0].kind == "queued" && pair[1].kind == "started");
        starts.map(|pair| pair[1].ts - pair[0].ts).max().unwrap_or_default()
    };
    let longest = history.jobs.values().map(delays).max().unwrap_or_default();
    Duration::from_micros(u64::try_from(longest).unwrap_or_default())
}

#[test]
fn a_drain_hands_back_what_does_not_end_in_time() {
    run(async {
        let mut trial = Trial::new(1, 1, 10).await;
        let id = trial.programs(1, 60).await.swap_remove(0);
        trial.until_running(1).await;
        let worker = trial.fleet.workers[0].clone();
        let asked = Instant::now();
        worker.stop().await.expect("it ends with success");
        assert!(asked.elapsed() < LEASE + Duration::from_secs(5), "{:?}", asked.elapsed());
        process::assert_gone(&id, std::time::Instant::now(), Duration::from_secs(2)).await;
        worker.start().expect("it starts");
        let history = trial.finish_unwatched().await;
        assert_no_attempt_spent(&history);
    });
}
