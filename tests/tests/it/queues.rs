//! Queues that are paused, and workers that are to stop.

use std::time::{Duration, Instant};

use errand_tests::{Client, both_modes, embedded_only, program::Programs, wait};
use reqwest::Method;
use serde_json::{Value, json};

async fn queue(client: &Client, name: &str) -> Value {
    let queues = client.get("/queues").await;
    queues.items().iter().find(|queue| queue["name"] == name).cloned().unwrap_or_default()
}

async fn order(client: &Client, path: &str) -> Value {
    let answer = client.send(client.request(Method::POST, path)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

async fn key_with(client: &Client, scopes: &[&str]) -> Client {
    let made = client.post("/keys", &json!({"name": "for a test", "scopes": scopes})).await;
    client.with_key(made.body["key"].as_str().expect("a key"))
}

both_modes! {
    async fn a_paused_queue_hands_out_nothing_and_a_resumed_one_at_once(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "a", "b")).start().await;
        let client = errand.client();
        let running = client.submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        client.wait_for_text(&running.id, "a").await;

        let paused = order(client, "/queues/default/pause").await;
        assert_eq!((&paused["name"], &paused["paused"], &paused["running"]), (&json!("default"), &json!(true), &json!(1)));
        assert_eq!(order(client, "/queues/default/pause").await["paused"], true, "twice is once");
        let mut waiting = Vec::new();
        for number in 0..5 {
            waiting.push(client.submit_task(&json!({"prompt": format!("number {number}")})).await.id);
        }
        programs.open_gate("gated");
        client.wait_for_completion(&running.id).await;
        // Longer than the rounds of the sweep and the worker's own looks.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        for id in &waiting {
            assert_eq!(client.job(id).await["state"], "queued");
        }
        let seen = queue(client, "default").await;
        assert_eq!((&seen["paused"], &seen["paused_for_all"], &seen["queued"]), (&json!(true), &json!(false), &json!(5)));

        let resumed = Instant::now();
        assert_eq!(order(client, "/queues/default/resume").await["paused"], false);
        for id in &waiting {
            client.wait_for_completion(id).await;
        }
        assert!(resumed.elapsed() < Duration::from_secs(5), "it took {:?}", resumed.elapsed());
        errand.finish().await;
    }

    async fn a_pause_for_everyone_is_the_installations_and_outlives_a_tenants_own(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let (admin, fleet, reader) =
            (key_with(client, &["admin"]).await, key_with(client, &["fleet"]).await, key_with(client, &["jobs:read"]).await);
        for (caller, path, status) in [
            (&reader, "/queues/q/pause", 403),
            (&fleet, "/queues/q/pause", 403),
            (&admin, "/queues/q/pause?all", 403),
            (&admin, "/queues/q/pause?all=perhaps", 400),
            (&admin, "/queues/no%20name/pause", 400),
            (&admin, "/queues/q/pause?colour=red", 400),
        ] {
            let answer = caller.send(caller.request(Method::POST, path)).await;
            assert_eq!(answer.status, status, "{path}: {answer:?}");
        }
        assert_eq!(order(&fleet, "/queues/q/pause?all").await["paused_for_all"], true);
        assert_eq!(order(&admin, "/queues/q/pause").await["paused"], true);
        let left = order(&admin, "/queues/q/resume").await;
        assert_eq!((&left["paused"], &left["paused_for_all"]), (&json!(true), &json!(true)), "{left}");
        assert_eq!(queue(client, "q").await["paused"], true, "it is listed without jobs");
        assert_eq!(order(&fleet, "/queues/q/resume?all=true").await["paused"], false);
        assert_eq!(queue(client, "q").await, Value::Null);
        errand.finish().await;
    }

    async fn an_order_under_a_key_is_given_once(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let pause = async |path: &str| {
            client.send(client.request(Method::POST, path).header("idempotency-key", "k")).await
        };
        assert_eq!(pause("/queues/q/pause").await.status, 200);
        order(client, "/queues/q/resume").await;
        let again = pause("/queues/q/pause").await;
        assert_eq!((again.status, again.header("idempotency-replayed")), (200, "true"));
        assert_eq!(again.body["paused"], true, "the answer of then");
        assert_eq!(queue(client, "q").await, Value::Null, "and nothing was done");
        assert_eq!(pause("/queues/q/pause?all").await.status, 422, "for everyone is another request");
        errand.finish().await;
    }
}

embedded_only! {
    async fn the_worker_of_an_all_in_one_process_is_not_drained_alone(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let worker = wait::until("the worker is registered", || async {
            client.get("/workers").await.items().first().cloned()
        })
        .await;
        let id = worker["id"].as_str().expect("an id").to_owned();
        assert_eq!(worker["draining"], false);
        let refused = client.send(client.request(Method::POST, &format!("/workers/{id}/drain"))).await;
        assert_eq!((refused.status, &refused.body["code"]), (409, &json!("not_drainable")), "{refused:?}");
        let unknown = format!("/workers/{}/drain", uuid::Uuid::nil());
        assert_eq!(client.send(client.request(Method::POST, &unknown)).await.status, 404);
        let admin = key_with(client, &["admin"]).await;
        assert_eq!(admin.send(admin.request(Method::POST, &unknown)).await.status, 403, "it needs the scope fleet");
        let task = client.submit_task(&json!({"prompt": "it still works"})).await;
        client.wait_for_completion(&task.id).await;
        errand.finish().await;
    }
}
