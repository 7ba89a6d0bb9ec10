//! Receivers that fail, hang, redirect, are gone, or are where nobody may call.

use std::time::Duration;

use errand_tests::{
    both_modes,
    destination::{Destination, Reply},
};
use serde_json::json;

use super::{called, deliveries, endpoint, is_signed, only_delivery, patch, run_task, settle, shown, telling};

both_modes! {
    async fn an_end_is_told_once_and_signed_as_receivers_verify_it(setup: Setup) {
        let receiver = Destination::start([]).await;
        let errand = telling(setup).start().await;
        let client = errand.client();
        let endpoint = endpoint(client, &receiver.url("/hook?of=mine"), &["job.*"]).await;
        let task = run_task(client).await;
        let delivery = only_delivery(client, &endpoint).await;
        assert_eq!(
            (&delivery["state"], &delivery["status"], &delivery["attempt"], &delivery["event_type"], &delivery["job_id"]),
            (&json!("completed"), &json!(200), &json!(1), &json!("job.completed"), &json!(task)),
            "{delivery:#}"
        );
        let calls = receiver.calls();
        assert_eq!(calls.len(), 1, "once");
        let call = &calls[0];
        assert_eq!((call.method.as_str(), call.target.as_str()), ("POST", "/hook?of=mine"));
        assert_eq!(call.header("content-type"), "application/json");
        assert_eq!(call.header("webhook-id"), delivery["event_id"].as_str().expect("an id"));
        assert!(call.header("traceparent").contains(&task.replace('-', "")), "{}", call.header("traceparent"));
        assert!(is_signed(call, &endpoint.secret), "{call:?}");
        let other = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert!(!is_signed(call, other), "by its own secret alone");
        assert_eq!(call.body["type"], "job.completed");
        let data = &call.body["data"];
        assert_eq!((&data["job_id"], &data["kind"], &data["state"]), (&json!(task), &json!("task"), &json!("completed")));
        assert_eq!(data["result"]["summary"], "hello", "{data:#}");
        assert!(!errand.log().contains("whsec_"), "a secret is in the log");
        errand.finish().await;
    }

    async fn one_that_fails_is_tried_again_under_the_same_id(setup: Setup) {
        let script = [Reply::status(500), Reply::status(404), Reply::dropped(), Reply::lost()];
        let receiver = Destination::start(script).await;
        let errand = telling(setup).start().await;
        let client = errand.client();
        let endpoint = endpoint(client, &receiver.url("/"), &["job.completed"]).await;
        run_task(client).await;
        let delivery = only_delivery(client, &endpoint).await;
        assert_eq!((&delivery["state"], &delivery["attempt"]), (&json!("completed"), &json!(5)), "{delivery:#}");
        let calls = receiver.calls();
        let ids: std::collections::BTreeSet<_> = calls.iter().map(|call| call.header("webhook-id")).collect();
        assert_eq!((calls.len(), ids.len()), (5, 1), "{calls:#?}");
        assert!(calls.iter().all(|call| is_signed(call, &endpoint.secret) && call.body == calls[0].body));
        assert_eq!(shown(client, &endpoint).await["failing_since"], json!(null), "a success ends its failing");
        errand.finish().await;
    }

    async fn one_that_fails_for_good_has_eight_attempts(setup: Setup) {
        let receiver = Destination::ruled(|_| Reply::status(503)).await;
        // No pause for the destination, whose failures are the test's.
        let errand = telling(setup).section("gates", "min_calls = 1000").start().await;
        let client = errand.client();
        let endpoint = endpoint(client, &receiver.url("/"), &["job.completed"]).await;
        run_task(client).await;
        let delivery = only_delivery(client, &endpoint).await;
        assert_eq!((&delivery["state"], &delivery["attempt"]), (&json!("failed"), &json!(8)), "{delivery:#}");
        assert_eq!((&delivery["failure"]["class"], &delivery["failure"]["code"]), (&json!("transient"), &json!("FAILED")));
        assert_eq!(receiver.call_count(), 8);
        let endpoint = shown(client, &endpoint).await;
        assert!(endpoint["failing_since"].is_string() && endpoint["state"] == "enabled", "{endpoint:#}");
        errand.finish().await;
    }

    async fn one_that_hangs_is_given_up_in_time_and_tried_again(setup: Setup) {
        let receiver = Destination::start([Reply::hang()]).await;
        let errand = telling(setup).start().await;
        let client = errand.client();
        let endpoint = endpoint(client, &receiver.url("/"), &["job.completed"]).await;
        run_task(client).await;
        let delivery = only_delivery(client, &endpoint).await;
        assert_eq!((&delivery["state"], &delivery["attempt"]), (&json!("completed"), &json!(2)), "{delivery:#}");
        let calls = receiver.calls();
        let pause = calls[1].at - calls[0].at;
        assert!((Duration::from_millis(900)..Duration::from_secs(20)).contains(&pause), "{pause:?}");
        assert_eq!(calls[0].header("webhook-id"), calls[1].header("webhook-id"));
        errand.finish().await;
    }

    async fn a_redirect_is_a_failure_and_leads_nowhere(setup: Setup) {
        let elsewhere = Destination::start([]).await;
        let to = elsewhere.url("/");
        let receiver = Destination::ruled(move |_| Reply::status(307).with_header("location", &to)).await;
        let errand = telling(setup).start().await;
        let client = errand.client();
        let endpoint = endpoint(client, &receiver.url("/"), &["job.completed"]).await;
        run_task(client).await;
        let delivery = only_delivery(client, &endpoint).await;
        assert_eq!((&delivery["state"], &delivery["attempt"]), (&json!("failed"), &json!(8)), "{delivery:#}");
        let message = delivery["failure"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("307") && message.contains("redirects are not followed"), "{message}");
        assert_eq!((receiver.call_count(), elsewhere.call_count()), (8, 0));
        errand.finish().await;
    }

    async fn one_that_is_gone_is_disabled_and_the_others_are_told(setup: Setup) {
        let (gone, other) = (Destination::ruled(|_| Reply::status(410)).await, Destination::start([]).await);
        let errand = telling(setup).start().await;
        let client = errand.client();
        let first = endpoint(client, &gone.url("/"), &["job.completed"]).await;
        let second = endpoint(client, &other.url("/"), &["webhook.*"]).await;
        run_task(client).await;
        let delivery = only_delivery(client, &first).await;
        assert_eq!((&delivery["attempt"], &delivery["failure"]["code"]), (&json!(1), &json!("GONE")), "{delivery:#}");
        let shown_first = shown(client, &first).await;
        assert_eq!(shown_first["state"], "disabled");
        assert!(shown_first["disabled_why"].as_str().is_some_and(|why| why.contains("410")), "{shown_first:#}");
        let calls = called(&other, 1).await;
        assert!(is_signed(&calls[0], &second.secret));
        assert_eq!((&calls[0].body["type"], &calls[0].body["data"]["endpoint_id"]), (&json!("webhook.disabled"), &json!(first.id)));
        let told = client.get("/activity").await;
        assert!(told.items().iter().any(|line| line["event_type"] == "webhook.disabled"), "{told:?}");
        // It is told nothing more, until somebody enables it.
        run_task(client).await;
        settle(client).await;
        assert_eq!((gone.call_count(), deliveries(client, &first).await.len()), (1, 1));
        let refused = client.post(&format!("/webhooks/{}/test", first.id), &json!({})).await;
        assert_eq!((refused.status, &refused.body["code"]), (409, &json!("webhook_disabled")));
        gone.rule(|_| Reply::ok());
        let enabled = patch(client, &format!("/webhooks/{}", first.id), &json!({"state": "enabled"})).await;
        assert_eq!((&enabled.body["state"], &enabled.body["disabled_why"]), (&json!("enabled"), &json!(null)));
        run_task(client).await;
        called(&gone, 2).await;
        settle(client).await;
        errand.finish().await;
    }

    async fn one_that_fails_for_too_long_is_disabled(setup: Setup) {
        let receiver = Destination::ruled(|_| Reply::status(500)).await;
        let setup = telling(setup).section(
            "webhooks",
            "call_seconds = 1\nretry_seconds = [1, 1, 1, 1, 1, 1, 1]\ndisable_after_seconds = 2",
        );
        let errand = setup.start().await;
        let client = errand.client();
        let endpoint = endpoint(client, &receiver.url("/"), &["job.completed"]).await;
        run_task(client).await;
        let delivery = only_delivery(client, &endpoint).await;
        assert_eq!(delivery["failure"]["code"], "FAILING_TOO_LONG", "{delivery:#}");
        let attempts = delivery["attempt"].as_u64().unwrap_or_default();
        assert!((2..8).contains(&attempts), "{delivery:#}");
        let endpoint = shown(client, &endpoint).await;
        assert_eq!((&endpoint["state"], &endpoint["disabled_why"]), (&json!("disabled"), &json!("it failed for too long")));
        errand.finish().await;
    }

    async fn an_address_that_is_not_allowed_is_never_called(setup: Setup) {
        let receiver = Destination::start([]).await;
        // Nothing of this machine is allowed here.
        let errand = telling(setup).section("outbound", "allow = [\"10.9.0.0/16\"]").start().await;
        let client = errand.client();
        let refused = client.post("/webhooks", &json!({"url": receiver.url("/")})).await;
        assert_eq!((refused.status, refused.pointers()), (400, vec!["/url"]), "{refused:?}");
        // What a name stands for is known when it is called.
        let by_name = format!("https://localhost:{}/", receiver.address().port());
        let endpoint = endpoint(client, &by_name, &["job.completed"]).await;
        run_task(client).await;
        let delivery = only_delivery(client, &endpoint).await;
        assert_eq!(
            (&delivery["attempt"], &delivery["failure"]["code"]),
            (&json!(1), &json!("ADDRESS_NOT_ALLOWED")),
            "{delivery:#}"
        );
        let message = delivery["failure"]["message"].as_str().unwrap_or_default();
        assert!(message.contains("loopback") && message.contains("[outbound] allow"), "{message}");
        assert_eq!(receiver.call_count(), 0);
        errand.finish().await;
    }

    async fn a_delivery_survives_the_death_of_its_worker(setup: Setup) {
        let receiver = Destination::start([Reply::hang()]).await;
        let mut errand = telling(setup)
            .section("webhooks", "call_seconds = 30\nretry_seconds = [0, 0, 0, 0, 0, 0, 0]")
            .start()
            .await;
        let endpoint = endpoint(errand.client(), &receiver.url("/"), &["job.completed"]).await;
        run_task(errand.client()).await;
        called(&receiver, 1).await;
        errand.kill9();
        errand.restart().await;
        let client = errand.client();
        let delivery = only_delivery(client, &endpoint).await;
        assert_eq!(delivery["state"], "completed", "{delivery:#}");
        let calls = receiver.calls();
        assert_eq!((calls.len(), calls[0].header("webhook-id")), (2, calls[1].header("webhook-id")));
        errand.finish().await;
    }
}
