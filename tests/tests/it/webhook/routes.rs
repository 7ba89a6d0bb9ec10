//! Endpoints as their owners, and others, see them.

use std::process::Output;

use errand_tests::{both_modes, destination::Destination};
use reqwest::Method;
use serde_json::{Value, json};

use super::{called, endpoint, patch, run_task, settle, telling};

/// A key of another tenant, with all scopes.
const ABROAD: &str = "errand_the-key-of-another-tenant-0123456789";

fn printed(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

both_modes! {
    async fn another_tenant_neither_sees_an_endpoint_nor_is_told_of_by_it(setup: Setup) {
        let receiver = Destination::start([]).await;
        let errand = telling(setup).section("auth", &format!("bootstrap_key = {ABROAD:?}")).start().await;
        let (client, abroad) = (errand.client(), errand.client().with_key(ABROAD));
        let endpoint = endpoint(client, &receiver.url("/"), &[]).await;
        run_task(&abroad).await;
        settle(&abroad).await;
        settle(client).await;
        assert_eq!(receiver.call_count(), 0);
        let path = format!("/webhooks/{}", endpoint.id);
        assert!(abroad.get("/webhooks").await.items().is_empty());
        assert_eq!(abroad.get(&path).await.status, 404);
        assert_eq!(abroad.get(&format!("{path}/deliveries")).await.status, 404);
        assert_eq!(patch(&abroad, &path, &json!({"state": "disabled"})).await.status, 404);
        assert_eq!(abroad.post(&format!("{path}/secret"), &json!({})).await.status, 404);
        assert_eq!(abroad.post(&format!("{path}/test"), &json!({})).await.status, 404);
        let redeliver = format!("{path}/deliveries/{}/redeliver", endpoint.id);
        assert_eq!(abroad.post(&redeliver, &json!({})).await.status, 404);
        assert_eq!(abroad.delete(&path).await.status, 404);
        assert_eq!(client.delete(&path).await.status, 200);
        assert_eq!(client.get(&path).await.status, 404);
        errand.finish().await;
    }

    async fn what_is_wrong_is_named(setup: Setup) {
        let errand = telling(setup).start().await;
        let client = errand.client();
        let good = json!({"url": "https://hooks.example.com/x"});
        for (field, value, pointer) in [
            ("url", json!("http://8.8.8.8/"), "/url"),
            ("url", json!("https://169.254.169.254/latest"), "/url"),
            ("url", json!("https://[::ffff:10.0.0.1]/"), "/url"),
            ("url", json!("https://hooks.example.com:6379/"), "/url"),
            ("url", json!("ftp://hooks.example.com/"), "/url"),
            ("url", json!("https://user:pass@hooks.example.com/"), "/url"),
            ("events", json!(["job.done"]), "/events/0"),
            ("format", json!("xml"), "/format"),
            ("secret", json!("whsec_c2hvcnQ="), "/secret"),
            ("description", json!("x".repeat(129)), "/description"),
            ("colour", json!("red"), "/colour"),
        ] {
            let mut body = good.clone();
            body[field] = value.clone();
            let refused = client.post("/webhooks", &body).await;
            assert_eq!((refused.status, refused.pointers()), (400, vec![pointer]), "{field}: {value}: {refused:?}");
        }
        let job = |webhook: Value| json!({"kind": "task", "payload": {"prompt": "x"}, "webhook": webhook});
        let refused = client.post("/jobs", &job(json!({"url": "https://10.0.0.1/"}))).await;
        assert_eq!((refused.status, refused.pointers()), (400, vec!["/webhook/url"]), "{refused:?}");
        let task = json!({"prompt": "x", "webhook": {"url": "https://10.0.0.1/"}});
        let refused = client.post("/agent/tasks", &task).await;
        assert_eq!((refused.status, refused.pointers()), (400, vec!["/webhook/url"]), "{refused:?}");
        // Deliveries are made by what happens, not by clients.
        let refused = client.post("/jobs", &json!({"kind": "webhook", "payload": {}})).await;
        assert_eq!((refused.status, &refused.body["code"]), (400, &json!("unknown_kind")));
        errand.finish().await;
    }

    async fn a_tenant_has_so_many_and_a_key_needs_the_scope(setup: Setup) {
        let errand = telling(setup).section("webhooks", "max_endpoints = 2").start().await;
        let client = errand.client();
        let body = json!({"url": "https://hooks.example.com/x"});
        let statuses = [client.post("/webhooks", &body).await, client.post("/webhooks", &body).await];
        assert!(statuses.iter().all(|answer| answer.status == 200));
        let third = client.post("/webhooks", &body).await;
        assert_eq!((third.status, &third.body["code"]), (409, &json!("too_many_webhooks")));
        let key = client.post("/keys", &json!({"name": "plain"})).await.body["key"].as_str().expect("a key").to_owned();
        let plain = client.with_key(&key);
        assert_eq!((plain.get("/webhooks").await.status, plain.post("/webhooks", &body).await.status), (403, 403));
        errand.finish().await;
    }

    async fn the_command_line_has_all_of_it(setup: Setup) {
        let receiver = Destination::start([]).await;
        let errand = telling(setup).start().await;
        let client = errand.client();
        let url = receiver.url("/");
        let made = printed(&errand.run_cli(&["webhooks", "add", &url, "--event", "job.*", "--description", "mine"]).await);
        let lines: Vec<_> = made.lines().collect();
        let id = lines[0];
        assert!(lines[1].starts_with("whsec_"), "{made}");
        let list = printed(&errand.run_cli(&["webhooks", "list"]).await);
        assert!(list.contains(id) && list.contains("enabled") && list.contains(&url), "{list}");
        let rotated = printed(&errand.run_cli(&["webhooks", "rotate", id, "--overlap-seconds", "0"]).await);
        assert!(rotated.contains("whsec_") && !rotated.contains(lines[1]), "{rotated}");
        let test = printed(&errand.run_cli(&["webhooks", "test", id]).await);
        called(&receiver, 1).await;
        settle(client).await;
        let log = printed(&errand.run_cli(&["webhooks", "deliveries", id, "--state", "completed"]).await);
        assert!(log.contains(test.trim()) && log.contains("webhook.test"), "{log}");
        printed(&errand.run_cli(&["webhooks", "redeliver", id, test.trim()]).await);
        called(&receiver, 2).await;
        settle(client).await;
        assert_eq!(printed(&errand.run_cli(&["webhooks", "disable", id]).await).trim(), "disabled");
        assert_eq!(printed(&errand.run_cli(&["webhooks", "enable", id]).await).trim(), "enabled");
        printed(&errand.run_cli(&["webhooks", "remove", id]).await);
        let gone = client.send(client.request(Method::GET, &format!("/webhooks/{id}"))).await;
        assert_eq!(gone.status, 404);
        let wrong = errand.run_cli(&["webhooks", "redeliver", id, "nonsense"]).await;
        assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
        errand.finish().await;
    }
}
