//! Who is told of what.

use errand_tests::{
    both_modes,
    destination::{Destination, Reply},
};
use serde_json::json;

use super::{called, deliveries, endpoint, is_signed, only_delivery, run_task, settle, telling};

both_modes! {
    async fn every_end_has_its_event_and_filters_keep_others_away(setup: Setup) {
        let (all, failures) = (Destination::start([]).await, Destination::start([]).await);
        let errand = telling(setup).start().await;
        let client = errand.client();
        endpoint(client, &all.url("/"), &[]).await;
        endpoint(client, &failures.url("/"), &["job.failed", "job.cancelled"]).await;
        run_task(client).await;
        let cancelled = client.post("/jobs", &json!({"kind": "task", "payload": {"prompt": "x"}, "run_at": "2030-01-01T00:00:00Z"})).await;
        let cancelled = cancelled.body["job_id"].as_str().expect("an id").to_owned();
        assert_eq!(client.post(&format!("/jobs/{cancelled}/cancel"), &json!({})).await.status, 200);
        let nowhere = json!({"kind": "http", "payload": {"method": "POST", "url": all.url("/missing"), "expect": [201]}});
        let group = json!({"kind": "group", "payload": {"jobs": [nowhere, {"kind": "task", "payload": {"prompt": "y"}}]}});
        client.wait_for_end(client.post("/jobs", &group).await.body["job_id"].as_str().expect("an id")).await;
        settle(client).await;
        let types = |receiver: &Destination| {
            let calls = receiver.calls();
            let mut types: Vec<_> =
                calls.iter().filter_map(|call| call.body["type"].as_str().map(str::to_owned)).collect();
            types.sort();
            types
        };
        assert_eq!(types(&all), ["job.cancelled", "job.completed", "job.completed", "job.failed", "job.partial"]);
        assert_eq!(types(&failures), ["job.cancelled", "job.failed"]);
        errand.finish().await;
    }

    async fn an_endpoint_may_want_cloud_events(setup: Setup) {
        let receiver = Destination::start([]).await;
        let errand = telling(setup).start().await;
        let client = errand.client();
        let made = client.post("/webhooks", &json!({"url": receiver.url("/"), "format": "cloudevents"})).await;
        let task = run_task(client).await;
        let call = called(&receiver, 1).await.remove(0);
        assert_eq!(call.header("content-type"), "application/cloudevents+json");
        assert!(is_signed(&call, made.body["secret"].as_str().expect("a secret")), "signed all the same");
        let event = &call.body;
        assert_eq!((&event["specversion"], &event["type"]), (&json!("1.0"), &json!("errand.job.completed")), "{event:#}");
        assert_eq!((&event["id"], &event["subject"]), (&json!(call.header("webhook-id")), &json!(format!("jobs/{task}"))));
        assert_eq!(event["data"]["job_id"], json!(task));
        settle(client).await;
        errand.finish().await;
    }

    async fn a_job_brings_an_endpoint_of_its_own_that_hears_of_it_alone(setup: Setup) {
        let receiver = Destination::start([]).await;
        let errand = telling(setup).start().await;
        let client = errand.client();
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        run_task(client).await;
        let target = json!({"url": receiver.url("/signed"), "secret": secret});
        let task = client.submit_task(&json!({"prompt": "mine", "webhook": target})).await;
        client.wait_for_completion(&task.id).await;
        let call = called(&receiver, 1).await.remove(0);
        assert_eq!((call.target.as_str(), &call.body["data"]["job_id"]), ("/signed", &json!(task.id)));
        assert!(is_signed(&call, secret), "{call:?}");
        assert!(client.get("/webhooks").await.items().is_empty(), "it is no endpoint of the tenant");

        // The job that repeats one tells it too; without a secret nothing is signed.
        receiver.rule(|call| if call.target == "/work" { Reply::status(400) } else { Reply::ok() });
        let job = json!({
            "kind": "http", "payload": {"method": "POST", "url": receiver.url("/work")},
            "webhook": {"url": receiver.url("/plain")},
        });
        let failed = client.post("/jobs", &job).await.body["job_id"].as_str().expect("an id").to_owned();
        client.wait_for_end(&failed).await;
        let again = client.post(&format!("/jobs/{failed}/retry"), &json!({})).await.body["job_id"].clone();
        client.wait_for_end(again.as_str().expect("an id")).await;
        settle(client).await;
        let told: Vec<_> = receiver.calls().into_iter().filter(|call| call.target == "/plain").collect();
        let jobs: Vec<_> = told.iter().map(|call| call.body["data"]["job_id"].clone()).collect();
        assert_eq!(jobs, [json!(failed), again]);
        assert!(told.iter().all(|call| call.header("webhook-signature").is_empty() && call.body["type"] == "job.failed"));
        errand.finish().await;
    }

    async fn what_was_delivered_can_be_delivered_again_and_an_endpoint_tried(setup: Setup) {
        let receiver = Destination::start([]).await;
        let errand = telling(setup).start().await;
        let client = errand.client();
        let endpoint = endpoint(client, &receiver.url("/"), &["job.completed"]).await;
        run_task(client).await;
        let first = only_delivery(client, &endpoint).await;
        let path = format!("/webhooks/{}/deliveries/{}/redeliver", endpoint.id, first["id"].as_str().expect("an id"));
        let again = client.post(&path, &json!({})).await;
        assert_eq!(again.status, 202, "{again:?}");
        let calls = called(&receiver, 2).await;
        assert_eq!(calls[0].header("webhook-id"), calls[1].header("webhook-id"), "the same event");
        assert_eq!(calls[0].body, calls[1].body);
        let tried = client.post(&format!("/webhooks/{}/test", endpoint.id), &json!({})).await;
        assert_eq!(tried.status, 202, "{tried:?}");
        let calls = called(&receiver, 3).await;
        assert!(calls[2].body["type"] == "webhook.test" && is_signed(&calls[2], &endpoint.secret));
        settle(client).await;
        let log = deliveries(client, &endpoint).await;
        let types: Vec<_> = log.iter().filter_map(|delivery| delivery["event_type"].as_str()).collect();
        assert_eq!(types, ["webhook.test", "job.completed", "job.completed"]);
        let failed = client.get(&format!("/webhooks/{}/deliveries?state=failed", endpoint.id)).await;
        assert!(failed.items().is_empty());
        errand.finish().await;
    }
}
