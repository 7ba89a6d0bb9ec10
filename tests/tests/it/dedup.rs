//! Dedup keys, as clients meet them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use errand_tests::{
    Answer, Client, both_modes,
    destination::{Destination, Reply},
    program::Programs,
    wait,
};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

fn task(prompt: &str, dedup: &Value) -> Value {
    json!({"kind": "task", "payload": {"prompt": prompt}, "dedup": dedup})
}

fn call(destination: &Destination, number: u32, dedup: &Value) -> Value {
    let payload = json!({"method": "POST", "url": destination.url("/"), "body": {"n": number}});
    json!({"kind": "http", "payload": payload, "dedup": dedup})
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("a time: {value}"))
}

fn id_of(answer: &Answer) -> &str {
    answer.body["job_id"].as_str().unwrap_or_else(|| panic!("an id: {answer:?}"))
}

async fn submit(client: &Client, body: &Value) -> Answer {
    client.post("/jobs", body).await
}

both_modes! {
    async fn a_hundred_submissions_at_once_are_one_job(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "a", "b")).default_engine("gated").start().await;
        let client = errand.client();
        let body = task("once", &json!({"key": "k", "mode": "drop"}));
        let answers = join_all((0..100).map(|_| submit(client, &body))).await;
        let made: Vec<_> = answers.iter().filter(|answer| answer.status == 202).collect();
        assert_eq!(made.len(), 1);
        let id = made[0].body["job_id"].as_str().expect("an id");
        for answer in answers.iter().filter(|answer| answer.status != 202) {
            assert_eq!((answer.status, &answer.body["deduplicated"]), (200, &json!(true)), "{answer:?}");
            assert_eq!((answer.body["job_id"].as_str(), answer.body["id"].as_str()), (Some(id), Some(id)));
            assert!(answer.body["state"].is_string());
            assert_eq!(answer.header("location"), format!("/api/v1/jobs/{id}"));
        }
        let listed = client.get("/jobs").await;
        assert_eq!((listed.items().len(), &listed.items()[0]["dedup_key"]), (1, &json!("k")));
        programs.open_gate("gated");
        client.wait_for_completion(id).await;
        let next = submit(client, &body).await;
        assert_eq!(next.status, 202, "it has ended: {next:?}");
        client.wait_for_completion(id_of(&next)).await;
        errand.finish().await;
    }

    async fn a_throttled_key_answers_with_the_job_of_its_window(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let body = task("x", &json!({"key": "k", "mode": "throttle", "ttl_seconds": 3600}));
        let first = submit(client, &body).await;
        let id = first.body["job_id"].as_str().expect("an id");
        client.wait_for_completion(id).await;
        let second = submit(client, &body).await;
        assert_eq!((second.status, &second.body["id"], &second.body["state"]), (200, &json!(id), &json!("completed")));
        assert_eq!(second.body["deduplicated"], true);
        let short = task("x", &json!({"key": "short", "mode": "throttle", "ttl_seconds": 3}));
        assert_eq!(submit(client, &short).await.status, 202);
        assert_eq!(submit(client, &short).await.status, 200);
        let next = wait::until("the window is over".to_owned(), || async {
            let answer = submit(client, &short).await;
            (answer.status == 202).then_some(answer)
        })
        .await;
        client.wait_for_completion(id_of(&next)).await;
        errand.finish().await;
    }

    async fn a_batch_says_of_each_of_its_jobs_whether_it_was_there(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let dedup = json!({"key": "k", "mode": "throttle", "ttl_seconds": 3600});
        let body = json!({"jobs": [task("a", &dedup), task("b", &Value::Null), task("c", &dedup)]});
        let request = || client.request(Method::POST, "/jobs/batch").header("idempotency-key", "i").json(&body);
        let answer = client.send(request()).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let items = answer.items();
        assert_eq!((&items[2]["id"], &items[2]["deduplicated"]), (&items[0]["id"], &json!(true)));
        assert!(items[0].get("deduplicated").is_none() && items[1].get("deduplicated").is_none());
        for item in &items[..2] {
            client.wait_for_completion(item["id"].as_str().expect("an id")).await;
        }
        let again = client.send(request()).await;
        assert_eq!((again.header("idempotency-replayed"), &again.body), ("true", &answer.body));
        errand.finish().await;
    }

    async fn a_repeated_request_gets_the_job_that_stood_for_it(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let body = task("x", &json!({"key": "k", "mode": "drop"}));
        let window = task("x", &json!({"key": "k", "mode": "throttle", "ttl_seconds": 3600}));
        let id = submit(client, &window).await.body["job_id"].clone();
        client.wait_for_completion(id.as_str().expect("an id")).await;
        let throttled = task("x", &json!({"key": "k", "mode": "throttle", "ttl_seconds": 60}));
        let request = || client.request(Method::POST, "/jobs").header("idempotency-key", "i").json(&throttled);
        let (first, second) = (client.send(request()).await, client.send(request()).await);
        for answer in [&first, &second] {
            assert_eq!((answer.status, &answer.body["job_id"], &answer.body["deduplicated"]), (200, &id, &json!(true)));
        }
        assert_eq!(second.header("idempotency-replayed"), "true");
        let fresh = submit(client, &body).await;
        assert_eq!(fresh.status, 202, "the last job under the key has ended: {fresh:?}");
        client.wait_for_completion(fresh.body["job_id"].as_str().expect("an id")).await;
        errand.finish().await;
    }

    async fn a_debounced_call_is_made_once_with_what_came_last(setup: Setup) {
        let destination = Destination::start([]).await;
        let errand = setup.section("outbound", "allow = [\"127.0.0.0/8\"]").start().await;
        let client = errand.client();
        let dedup = json!({"key": "k", "mode": "debounce", "ttl_seconds": 3});
        let first = submit(client, &call(&destination, 1, &dedup)).await;
        assert_eq!((first.status, &first.body["state"]), (202, &json!("scheduled")), "{first:?}");
        let id = id_of(&first);
        for number in 2..=4 {
            let answer = submit(client, &call(&destination, number, &dedup)).await;
            assert_eq!((answer.status, id_of(&answer)), (200, id), "{answer:?}");
        }
        let last = client.job(id).await;
        let done = client.wait_for_completion(id).await;
        assert_eq!(done["payload"]["body"], json!({"n": 4}));
        let (run_at, created_at) = (time(&last["run_at"]), time(&last["created_at"]));
        assert!(run_at - created_at >= chrono::Duration::seconds(3), "it waits from the last submission: {last:#}");
        let sent: Vec<_> = destination.calls().iter().map(|call| call.body["n"].clone()).collect();
        assert_eq!(sent, [json!(4)]);
        errand.finish().await;
    }

    async fn while_a_call_is_under_way_the_last_submission_follows_it(setup: Setup) {
        let destination = Destination::start([Reply::ok().after(Duration::from_secs(2))]).await;
        let errand = setup.section("outbound", "allow = [\"127.0.0.0/8\"]").start().await;
        let client = errand.client();
        let dedup = json!({"key": "k", "mode": "keep_last_if_active"});
        let first = submit(client, &call(&destination, 1, &dedup)).await;
        let active = id_of(&first);
        client.wait_for_state(active, "running").await;
        let second = submit(client, &call(&destination, 2, &dedup)).await;
        assert_eq!((second.status, &second.body["state"]), (202, &json!("blocked")), "{second:?}");
        let successor = id_of(&second);
        let third = submit(client, &call(&destination, 3, &dedup)).await;
        assert_eq!((third.status, id_of(&third)), (200, successor), "{third:?}");
        client.wait_for_completion(active).await;
        client.wait_for_completion(successor).await;
        let sent: Vec<_> = destination.calls().iter().map(|call| call.body["n"].clone()).collect();
        assert_eq!(sent, [json!(1), json!(3)]);
        errand.finish().await;
    }

    async fn what_a_mode_needs_and_what_it_forbids_is_said(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        for (dedup, pointer, word) in [
            (json!({"key": "k", "mode": "sometimes"}), "/dedup/mode", "keep_last_if_active"),
            (json!({"mode": "drop"}), "/dedup/key", "key"),
            (json!({"key": "", "mode": "drop"}), "/dedup/key", "255"),
            (json!({"key": "k", "mode": "throttle"}), "/dedup/ttl_seconds", "must be given"),
            (json!({"key": "k", "mode": "drop", "ttl_seconds": 5}), "/dedup/ttl_seconds", "must be absent"),
            (json!({"key": "k", "mode": "throttle", "ttl_seconds": 0}), "/dedup/ttl_seconds", "1"),
            (json!({"key": "k", "mode": "debounce", "ttl_seconds": 5}), "/dedup/mode", "onBusy"),
            (json!({"key": "k", "mode": "keep_last_if_active"}), "/dedup/mode", "onBusy"),
        ] {
            let answer = submit(client, &task("x", &dedup)).await;
            assert_eq!((answer.status, answer.pointers()), (400, vec![pointer]), "{answer:?}");
            assert!(answer.text.contains(word), "{word} in {answer:?}");
        }
        let mut early = task("x", &json!({"key": "k", "mode": "debounce", "ttl_seconds": 5}));
        early["run_at"] = json!("2030-01-01T00:00:00Z");
        assert!(submit(client, &early).await.pointers().contains(&"/run_at"));
        assert_eq!(client.get("/jobs").await.items().len(), 0);
        errand.finish().await;
    }
}
