//! Time: not before, not after, not longer than.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use errand_tests::{both_modes, process, program, program::Programs};
use serde_json::{Value, json};

fn from_now(millis: i64) -> String {
    (Utc::now() + TimeDelta::milliseconds(millis)).to_rfc3339()
}

fn instant(job: &Value, field: &str) -> DateTime<Utc> {
    job[field].as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{field} in {job:#}"))
}

both_modes! {
    async fn a_scheduled_task_starts_at_its_time(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "later", "runAt": from_now(2_500)})).await;
        assert_eq!(client.job(&task.id).await["state"], "scheduled");
        let job = client.wait_for_completion(&task.id).await;
        let lag = instant(&job, "started_at") - instant(&job, "run_at");
        assert!(lag >= TimeDelta::zero(), "too early: {job:#}");
        assert!(lag < TimeDelta::seconds(2), "{lag} late: {job:#}");
        errand.finish().await;
    }

    async fn a_time_in_the_past_means_now(setup: Setup) {
        let errand = setup.start().await;
        let task = errand.client().submit_task(&json!({"prompt": "now", "runAt": "2020-01-01T00:00:00Z"})).await;
        errand.client().wait_for_completion(&task.id).await;
        errand.finish().await;
    }

    async fn what_has_not_started_by_its_expiry_never_starts(setup: Setup) {
        let programs = Programs::new();
        let errand = setup
            .section("worker", "concurrency = 1")
            .engine("gated", &programs.gated_engine("gated", "a", "b"))
            .start()
            .await;
        let client = errand.client();
        let holder = client.submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        client.wait_for_text(&holder.id, "a").await;
        let late = client.submit_task(&json!({"prompt": "late", "expiresAt": from_now(1_000)})).await;
        let job = client.wait_for_end(&late.id).await;
        assert_eq!(job["state"], "expired", "{job:#}");
        assert_eq!(job["started_at"], Value::Null);
        let frames = client.events(&late.id).await;
        let told = frames.iter().find(|frame| frame.kind() == "error").expect("an event");
        assert_eq!(told.data["code"], "EXPIRED");
        programs.open_gate("gated");
        client.wait_for_completion(&holder.id).await;
        errand.finish().await;
    }

    async fn an_expiry_means_nothing_once_the_task_has_started(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "a", "b")).start().await;
        let client = errand.client();
        let expires_at = Utc::now() + TimeDelta::seconds(5);
        let body = json!({"prompt": "x", "engineType": "gated", "expiresAt": expires_at.to_rfc3339()});
        let task = client.submit_task(&body).await;
        client.wait_for_text(&task.id, "a").await;
        errand_tests::wait::until("its expiry has passed", || async {
            (Utc::now() > expires_at + TimeDelta::milliseconds(1_500)).then_some(())
        })
        .await;
        assert_eq!(client.job(&task.id).await["state"], "running");
        programs.open_gate("gated");
        client.wait_for_completion(&task.id).await;
        errand.finish().await;
    }

    async fn a_deadline_ends_a_running_job(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("hang", &programs.engine("hang", program::HANGING)).start().await;
        let client = errand.client();
        let payload = json!({"prompt": "x", "engineType": "hang"});
        let answer =
            client.post("/jobs", &json!({"kind": "task", "payload": payload, "deadline": from_now(2_000)})).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let id = answer.body["job_id"].as_str().expect("an id");
        let job = client.wait_for_end(id).await;
        assert_eq!((&job["state"], &job["failure"]["class"]), (&json!("failed"), &json!("timeout")), "{job:#}");
        process::assert_gone(id, Instant::now(), Duration::from_secs(2)).await;
        errand.finish().await;
    }

    async fn a_deadline_expires_what_never_started(setup: Setup) {
        let programs = Programs::new();
        let errand = setup
            .section("worker", "concurrency = 1")
            .engine("gated", &programs.gated_engine("gated", "a", "b"))
            .start()
            .await;
        let client = errand.client();
        let holder = client.submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        client.wait_for_text(&holder.id, "a").await;
        let body = json!({"kind": "task", "payload": {"prompt": "x"}, "deadline": from_now(1_000)});
        let answer = client.post("/jobs", &body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let job = client.wait_for_end(answer.body["job_id"].as_str().expect("an id")).await;
        assert_eq!(job["state"], "expired", "{job:#}");
        programs.open_gate("gated");
        client.wait_for_completion(&holder.id).await;
        errand.finish().await;
    }

    async fn urgent_work_goes_first(setup: Setup) {
        let programs = Programs::new();
        let errand = setup
            .section("worker", "concurrency = 1")
            .engine("gated", &programs.gated_engine("gated", "a", "b"))
            .start()
            .await;
        let client = errand.client();
        let holder = client.submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        client.wait_for_text(&holder.id, "a").await;
        let low = client.submit_task(&json!({"prompt": "low", "priority": 3})).await;
        let normal = client.submit_task(&json!({"prompt": "normal"})).await;
        let high = client.submit_task(&json!({"prompt": "high", "priority": 0})).await;
        programs.open_gate("gated");
        let mut started = Vec::new();
        for task in [&high, &normal, &low] {
            started.push(instant(&client.wait_for_completion(&task.id).await, "started_at"));
        }
        assert!(started.is_sorted(), "high, normal, low: {started:?}");
        errand.finish().await;
    }
}
