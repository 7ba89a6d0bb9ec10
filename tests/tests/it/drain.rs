//! SIGTERM: nothing is lost, nothing is left, and the exit is clean.

use std::time::{Duration, Instant};

use errand_tests::{all_modes, process, program, program::Programs, wait};
use rustix::process::Signal;
use serde_json::json;

all_modes! {
    async fn an_idle_server_stops_at_once(setup: Setup) {
        let mut errand = setup.start().await;
        let asked = Instant::now();
        let status = errand.sigterm().await;
        assert!(status.success(), "{status}");
        assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
        errand.finish().await;
    }

    async fn a_run_that_ends_within_the_grace_is_finished(setup: Setup) {
        let programs = Programs::new();
        let mut errand = setup.engine("gated", &programs.gated_engine("gated", "a", "b")).start().await;
        let task = errand.client().submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        errand.client().wait_for_text(&task.id, "a").await;
        errand.signal_worker(0, Signal::TERM);
        wait::until("it is not ready any more", || async {
            let ready = errand.worker_client(0).get_root("/readyz").await.expect("it still answers");
            (ready.status == 503 && ready.body["code"] == "shutting_down").then_some(())
        })
        .await;
        let late = errand.client().submit_task(&json!({"prompt": "taken in all the same"})).await;
        programs.open_gate("gated");
        let status = errand.wait_for_worker_exit(0).await;
        assert!(status.success(), "{status}");
        errand.restart_workers().await;
        errand.client().wait_for_completion(&late.id).await;
        let job = errand.client().wait_for_completion(&task.id).await;
        assert_eq!(job["attempt"], 1);
        let timeline = errand.client().timeline(&task.id).await;
        assert_eq!(timeline.iter().filter(|event| event["type"] == "started").count(), 1, "{timeline:#?}");
        errand.finish().await;
    }

    async fn a_run_that_does_not_end_in_time_is_handed_back_with_its_attempt(setup: Setup) {
        let programs = Programs::new();
        let mut errand = setup
            .section("worker", "drain_seconds = 1")
            .engine("hang", &programs.engine("hang", program::HANGING))
            .start()
            .await;
        let task = errand.client().submit_task(&json!({"prompt": "x", "engineType": "hang"})).await;
        wait::until("its program runs", || async { (!process::of_task(&task.id).is_empty()).then_some(()) }).await;
        let status = errand.sigterm_worker(0).await;
        assert!(status.success(), "{status}");
        process::assert_gone(&task.id, Instant::now(), Duration::from_secs(2)).await;
        errand.restart_workers().await;
        let job = errand.client().wait_for_state(&task.id, "running").await;
        assert_eq!(job["attempt"], 1, "a hand-back spends no attempt");
        assert_eq!(errand.client().delete(&format!("/agent/tasks/{}", task.id)).await.status, 200);
        process::assert_gone(&task.id, Instant::now(), Duration::from_secs(2)).await;
        errand.finish().await;
    }
}
