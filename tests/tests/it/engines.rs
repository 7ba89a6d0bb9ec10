//! The tenant's own engine.

use errand_tests::{both_modes, cluster_only, wait};
use serde_json::{Value, json};

const BOOTSTRAP: &str = "errand_the-key-of-another-tenant-0123456789";

fn default_of(list: &Value) -> Vec<&str> {
    let engines = list["engines"].as_array().expect("engines");
    engines.iter().filter(|engine| engine["default"] == true).filter_map(|engine| engine["name"].as_str()).collect()
}

both_modes! {
    async fn the_tenants_choice_runs_what_names_no_engine_and_nothing_else(setup: Setup) {
        let errand = setup
            .section("auth", &format!("bootstrap_key = {BOOTSTRAP:?}"))
            .engine("second", "type = \"echo\"\nword_delay_ms = 0")
            .start()
            .await;
        let client = errand.client();
        let other = client.with_key(BOOTSTRAP);
        let before = client.submit_task(&json!({"prompt": "a"})).await;
        client.wait_for_completion(&before.id).await;

        let switched = client.post("/agent/engines/switch", &json!({"engineType": "second", "extra": 1})).await;
        assert_eq!((switched.status, &switched.body), (200, &json!({"message": "Engine switched", "engineType": "second"})));
        let engine = async |body: Value| {
            let task = client.submit_task(&body).await;
            client.wait_for_completion(&task.id).await["payload"]["engineType"].clone()
        };
        assert_eq!(engine(json!({"prompt": "b"})).await, "second");
        assert_eq!(engine(json!({"prompt": "c", "engineType": "echo"})).await, "echo", "what is named is taken");
        assert_eq!(engine(json!({"prompt": "d"})).await, "second", "and switches nothing");
        let job = client.post("/jobs", &json!({"kind": "task", "payload": {"prompt": "e"}})).await;
        let job = client.wait_for_completion(job.body["job_id"].as_str().expect("an id")).await;
        assert_eq!(job["payload"]["engineType"], "second");
        assert_eq!(default_of(&client.get("/agent/engines").await.body), ["second"]);
        assert_eq!(default_of(&other.get("/agent/engines").await.body), ["echo"], "another tenant's stays");

        let unknown = client.post("/agent/engines/switch", &json!({"engineType": "gpt"})).await;
        assert_eq!((unknown.status, unknown.pointers()), (400, vec!["/engineType"]));
        assert!(unknown.body["detail"].as_str().is_some_and(|detail| detail.contains("echo, second")), "{unknown:?}");
        assert_eq!(client.post("/agent/engines/switch", &json!({})).await.status, 400);
        assert_eq!(default_of(&client.get("/agent/engines").await.body), ["second"]);
        errand.finish().await;
    }

    async fn a_task_that_failed_leaves_its_conversation_usable(setup: Setup) {
        let errand = setup.engine("broken", "type = \"command\"\ncommand = [\"/bin/false\"]").start().await;
        let client = errand.client();
        let failed = client.submit_task(&json!({"prompt": "a title that stays", "engineType": "broken"})).await;
        assert_eq!(client.wait_for_end(&failed.id).await["state"], "failed");
        let next = client.submit_task(&json!({"prompt": "next", "sessionId": failed.session_id})).await;
        assert_eq!(next.session_id, failed.session_id);
        client.wait_for_completion(&next.id).await;
        let session = client.get(&format!("/agent/sessions/{}", failed.session_id)).await.body;
        assert_eq!((&session["status"], &session["metadata"]["title"]), (&json!("active"), &json!("a title that stays")));
        errand.finish().await;
    }
}

cluster_only! {
    async fn a_choice_made_at_one_api_counts_at_the_others(setup: Setup) {
        let errand = setup.engine("second", "type = \"echo\"\nword_delay_ms = 0").apis(2).start().await;
        let clients = [errand.client_of(0), errand.client_of(1)];
        clients[1].submit_task(&json!({"prompt": "so that it remembers"})).await;
        clients[0].post("/agent/engines/switch", &json!({"engineType": "second"})).await;
        wait::until("the other api knows", || async {
            let list = clients[1].get("/agent/engines").await.body;
            (default_of(&list) == ["second"]).then_some(())
        })
        .await;
        errand.finish().await;
    }
}
