//! Submitting a task and seeing what became of it.

use errand_tests::{both_modes, client::task_of, program::Programs};
use reqwest::Method;
use serde_json::json;

both_modes! {
    async fn a_task_runs_to_its_end_and_shows_what_came_of_it(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let answer = client.post("/agent/tasks", &json!({"prompt": "hello out there"})).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let task = task_of(&answer);
        assert_eq!(answer.header("location"), format!("/api/v1/jobs/{}", task.id));
        assert_eq!(answer.body, json!({"sessionId": task.session_id, "taskId": task.id}), "ids and nothing else");

        let job = client.wait_for_completion(&task.id).await;
        assert_eq!(job["kind"], "task");
        assert_eq!(job["attempt"], 1);
        assert_eq!(job["session_id"], task.session_id);
        assert_eq!(job["result"]["summary"], "hello out there");
        assert_eq!(job["stream"]["name"], format!("job:{}", task.id));

        let view = client.get(&format!("/agent/tasks/{}", task.id)).await;
        assert_eq!(view.status, 200);
        for (field, value) in [
            ("id", json!(task.id)),
            ("sessionId", json!(task.session_id)),
            ("prompt", json!("hello out there")),
            ("status", json!("completed")),
            ("result", json!("hello out there")),
        ] {
            assert_eq!(view.body[field], value, "{field}");
        }
        for field in ["createdAt", "startedAt", "completedAt"] {
            assert!(view.body[field].as_str().is_some_and(|at| at.ends_with('Z')), "{field}: {view:?}");
        }
        errand.finish().await;
    }

    async fn prefer_wait_holds_the_answer_until_the_task_has_ended(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let request = client.request(Method::POST, "/agent/tasks").header("prefer", "wait=60");
        let answer = client.send(request.json(&json!({"prompt": "right away"}))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body["status"], "completed");
        assert_eq!(answer.body["result"], "right away");
        errand.finish().await;
    }

    async fn prefer_wait_answers_202_when_its_time_is_up_and_the_task_goes_on(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "before", "after")).start().await;
        let client = errand.client();
        let request = client.request(Method::POST, "/agent/tasks").header("prefer", "wait=1");
        let answer = client.send(request.json(&json!({"prompt": "x", "engineType": "gated"}))).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let task = task_of(&answer);
        assert_eq!(client.wait_for_state(&task.id, "running").await["attempt"], 1);
        programs.open_gate("gated");
        client.wait_for_completion(&task.id).await;
        errand.finish().await;
    }

    async fn a_job_of_kind_task_is_the_same_work(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let body = json!({"kind": "task", "payload": {"prompt": "by the other door"}, "metadata": {"ticket": 7}});
        let answer = client.post("/jobs", &body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let id = answer.body["job_id"].as_str().expect("an id");
        assert_eq!(answer.header("location"), format!("/api/v1/jobs/{id}"));
        assert!(answer.body["state"].is_string(), "{answer:?}");
        let job = client.wait_for_completion(id).await;
        assert_eq!(job["metadata"], json!({"ticket": 7}));
        assert_eq!(client.get(&format!("/agent/tasks/{id}")).await.body["result"], "by the other door");
        errand.finish().await;
    }

    async fn the_task_routes_ignore_fields_they_do_not_know(setup: Setup) {
        let errand = setup.start().await;
        let task = errand.client().submit_task(&json!({"prompt": "x", "colour": "green"})).await;
        errand.client().wait_for_completion(&task.id).await;
        errand.finish().await;
    }

    async fn the_request_id_is_echoed_or_made(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let echoed = client.send(client.request(Method::GET, "/jobs").header("x-request-id", "my-own-id-1")).await;
        assert_eq!(echoed.header("x-request-id"), "my-own-id-1");
        assert_ne!(client.get("/jobs").await.header("x-request-id"), "");
        errand.finish().await;
    }

    async fn a_prompt_of_every_script_and_size_arrives_whole(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let long = "wörter 字 🙂 ".repeat(2_000);
        let task = client.submit_task(&json!({"prompt": long})).await;
        client.wait_for_completion(&task.id).await;
        let view = client.get(&format!("/agent/tasks/{}", task.id)).await;
        assert_eq!(view.body["prompt"], long);
        assert_eq!(
            view.body["result"].as_str().map(|text| text.split_whitespace().count()),
            Some(long.split_whitespace().count())
        );
        errand.finish().await;
    }
}
