//! A job that kills whoever runs it: its neighbours must not pay for it.

use std::fs;

use errand_tests::{Client, Errand, Task, both_modes, program::Programs, wait};
use serde_json::{Value, json};

/// Waits for its gate, then kills its worker: the parent of its guard.
fn poison(programs: &Programs) -> String {
    let script = format!(
        "cat >/dev/null\nguard=$PPID\nworker=$(sed 's/.*) . //; s/ .*//' /proc/$guard/stat)\n\
         while [ ! -e '{}' ]; do sleep 0.02; done\nkill -9 $worker\n",
        programs.path("poison.gate")
    );
    programs.engine("poison", &script)
}

async fn until_running(client: &Client, task: &Task, attempt: u32) {
    wait::until("it runs", || async {
        let job = client.job(&task.id).await;
        (job["state"] == "running" && job["attempt"] == attempt).then_some(())
    })
    .await;
}

/// Lets the poison act, and starts the program again.
async fn die_and_restart(errand: &mut Errand, programs: &Programs) {
    programs.open_gate("poison");
    let status = errand.wait_for_worker_exit(0).await;
    assert!(!status.success(), "it was killed: {status}");
    fs::remove_file(programs.path("poison.gate")).expect("the gate is closed again");
}

async fn submit(client: &Client, engine: &str) -> Task {
    client.submit_task(&json!({"prompt": "x", "engineType": engine, "maxAttempts": 10})).await
}

both_modes! {
    async fn a_job_that_kills_its_worker_is_quarantined_and_its_neighbours_complete(setup: Setup) {
        let programs = Programs::new();
        let mut errand = setup
            .section("worker", "lease_seconds = 3\nstop_grace_ms = 100")
            .engine("poison", &poison(&programs))
            .engine("gated", &programs.gated_engine("gated", "a", "b"))
            .start()
            .await;
        let mut neighbours = Vec::new();
        for _ in 0..3 {
            neighbours.push(submit(errand.client(), "gated").await);
        }
        let poison = submit(errand.client(), "poison").await;
        for attempt in [1, 2] {
            for task in neighbours.iter().chain([&poison]) {
                until_running(errand.client(), task, attempt).await;
            }
            die_and_restart(&mut errand, &programs).await;
            if attempt == 2 {
                programs.open_gate("gated");
            }
            errand.restart().await;
        }
        until_running(errand.client(), &poison, 3).await;
        let live = errand.client().get("/jobs?state=running").await;
        assert_eq!(live.body["items"].as_array().map(Vec::len), Some(1), "it runs alone: {live:?}");
        die_and_restart(&mut errand, &programs).await;
        errand.restart().await;

        let job = errand.client().wait_for_end(&poison.id).await;
        assert_eq!((&job["state"], &job["failure"]["class"]), (&json!("failed"), &json!("crash")), "{job:#}");
        assert_eq!((&job["failure"]["code"], &job["attempt"]), (&json!("QUARANTINED"), &json!(3)), "{job:#}");
        let message = job["failure"]["message"].as_str().expect("a message");
        for event in errand.client().timeline(&poison.id).await {
            if event["type"] == "started" {
                let worker = event["data"]["worker_id"].as_str().or(event["worker_id"].as_str()).expect("who ran it");
                assert!(message.contains(worker), "{worker} is not in the evidence: {message}");
            }
        }
        for task in &neighbours {
            let job: Value = errand.client().wait_for_completion(&task.id).await;
            assert_eq!(job["attempt"], 3, "{job:#}");
        }
        errand.finish().await;
    }
}
