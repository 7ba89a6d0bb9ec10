//! Who may call, and what.

use errand_tests::{Client, both_modes, wait};
use reqwest::Method;
use serde_json::{Value, json};

async fn new_key(client: &Client, scopes: &[&str]) -> Value {
    let answer = client.post("/keys", &json!({"name": "for a test", "scopes": scopes})).await;
    assert!([200, 201].contains(&answer.status), "{answer:?}");
    answer.body
}

fn secret(key: &Value) -> &str {
    key["key"].as_str().unwrap_or_else(|| panic!("the secret, once: {key}"))
}

both_modes! {
    async fn nobody_without_a_key_gets_in(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        for path in ["/jobs", "/agent/sessions", "/agent/engines", "/queues", "/workers", "/keys"] {
            let answer = client.send(client.anonymous(Method::GET, &format!("/api/v1{path}"))).await;
            assert_eq!(answer.status, 401, "{path}: {answer:?}");
            assert!(answer.header("www-authenticate").starts_with("Bearer"), "{path}: {answer:?}");
            assert!(answer.header("content-type").starts_with("application/problem+json"));
        }
        for path in ["/livez", "/readyz", "/openapi.json"] {
            assert_eq!(client.get_root(path).await.expect("an answer").status, 200, "{path}");
        }
        errand.finish().await;
    }

    async fn a_key_may_do_what_its_scopes_say_and_no_more(setup: Setup) {
        let errand = setup.start().await;
        let admin = errand.client();
        let reader = admin.with_key(secret(&new_key(admin, &["jobs:read"]).await));
        let writer = admin.with_key(secret(&new_key(admin, &["jobs:write"]).await));
        assert_eq!(reader.get("/jobs").await.status, 200);
        let refused = reader.post("/agent/tasks", &json!({"prompt": "x"})).await;
        assert_eq!(refused.status, 403, "{refused:?}");
        assert!(refused.text.contains("jobs:write"), "it names what is missing: {refused:?}");
        assert_eq!(writer.get("/jobs").await.status, 403);
        let task = writer.submit_task(&json!({"prompt": "x"})).await;
        admin.wait_for_completion(&task.id).await;
        assert_eq!(writer.delete(&format!("/agent/tasks/{}", task.id)).await.status, 403);
        assert_eq!(writer.post("/keys", &json!({"name": "n", "scopes": ["admin"]})).await.status, 403);
        errand.finish().await;
    }

    async fn a_revoked_key_ends_within_seconds_and_its_secret_is_never_shown_again(setup: Setup) {
        let errand = setup.start().await;
        let admin = errand.client();
        let made = new_key(admin, &["jobs:read"]).await;
        let key = admin.with_key(secret(&made));
        assert_eq!(key.get("/jobs").await.status, 200);
        let listed = admin.get("/keys").await;
        assert!(!listed.text.contains(secret(&made)), "{listed:?}");
        assert!(listed.items().iter().any(|item| item["id"] == made["id"]));
        let revoked = admin.delete(&format!("/keys/{}", made["id"].as_str().expect("an id"))).await;
        assert!([200, 204].contains(&revoked.status), "{revoked:?}");
        wait::until("the key is refused", || async { (key.get("/jobs").await.status == 401).then_some(()) }).await;
        errand.finish().await;
    }

    async fn keys_are_listed_page_by_page_newest_first(setup: Setup) {
        let errand = setup.start().await;
        let admin = errand.client();
        let mut made = Vec::new();
        for _ in 0..4 {
            made.insert(0, new_key(admin, &["jobs:read"]).await["id"].clone());
        }
        let (mut listed, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = admin.get(&format!("/keys?limit=2&cursor={cursor}")).await;
            assert!((1..=2).contains(&page.items().len()), "{page:?}");
            listed.extend(page.items().iter().map(|key| key["id"].clone()));
            match page.body["next_cursor"].as_str() {
                Some(next) => next.clone_into(&mut cursor),
                None => break assert_eq!(page.body.get("next_cursor"), Some(&Value::Null)),
            }
        }
        assert_eq!(listed.len(), 5, "and the one of the start");
        assert_eq!(listed[..4], made);
        errand.finish().await;
    }

    async fn guessing_is_slowed_down_and_good_keys_are_not(setup: Setup) {
        let errand = setup.section("auth", "failures_per_minute = 5").start().await;
        let client = errand.client();
        let guesser = client.with_key("errand_no-such-key-no-such-key-no-such-key");
        for _ in 0..5 {
            assert_eq!(guesser.get("/jobs").await.status, 401);
        }
        let limited = guesser.get("/jobs").await;
        assert_eq!(limited.status, 429, "{limited:?}");
        assert_ne!(limited.header("retry-after"), "");
        assert_eq!(client.get("/jobs").await.status, 200);
        errand.finish().await;
    }
}
