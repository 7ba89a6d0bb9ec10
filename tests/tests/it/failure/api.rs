//! Apis die: between commit and push, and under their watchers.

use std::time::Duration;

use errand_tests::{
    chaos::{
        history::History,
        load::Acknowledged,
        watch::{self, Tails},
    },
    fleet::Service,
    proxy::Mode,
    run::run,
};
use tokio::{sync::mpsc, time::sleep};

use super::trial::Trial;

#[test]
fn a_job_that_no_queue_was_told_of_runs_all_the_same() {
    run(async {
        let mut trial = Trial::new(2, 1, 10).await;
        let doomed = trial.fleet.apis[0].clone();
        doomed.link(Service::Redis, Mode::HalfOpen);
        trial.echo(0, 3).await;
        doomed.kill().expect("kill");
        trial.finish_unwatched().await;
    });
}

#[test]
fn watchers_of_a_killed_relay_miss_nothing() {
    run(async {
        let mut trial = Trial::new(2, 1, 40).await;
        let (announce, announced) = mpsc::channel(64);
        let (tell, tails) = tokio::sync::watch::channel(None);
        let watchers = tokio::spawn(watch::watch(trial.fleet.clients(), announced, tails));
        for number in 0..20 {
            let id = trial.echo(0, 40).await;
            let job = id.parse().expect("an id");
            // Every job is watched: numbers that the sample takes.
            announce.send(Acknowledged { number: number * 10, job, session: None }).await.expect("watchers listen");
        }
        drop(announce);
        trial.until_running(20).await;
        for api in trial.fleet.apis.clone() {
            sleep(Duration::from_millis(700)).await;
            api.kill().expect("kill");
            sleep(Duration::from_millis(300)).await;
            api.start().expect("it starts");
            trial.fleet.until_ready().await.expect("ready");
        }
        let history = trial
            .finish(async |history: &History| {
                let tails: Tails = history.jobs.iter().map(|(id, job)| (format!("job:{id}"), job.tail_seq)).collect();
                tell.send_replace(Some(tails));
                watchers.await.expect("watchers")
            })
            .await;
        assert_eq!(history.watched.len(), 20);
    });
}
