//! What signs, and how it is replaced.

use errand_tests::{both_modes, destination::Destination};
use serde_json::json;

use super::{called, endpoint, is_signed, run_task, settle, telling};

both_modes! {
    async fn a_secret_is_replaced_without_losing_a_delivery(setup: Setup) {
        let receiver = Destination::start([]).await;
        let errand = telling(setup).start().await;
        let client = errand.client();
        let endpoint = endpoint(client, &receiver.url("/"), &["job.completed"]).await;
        let path = format!("/webhooks/{}/secret", endpoint.id);
        let rotated = client.post(&path, &json!({})).await;
        let second = rotated.body["secret"].as_str().expect("a secret").to_owned();
        assert_ne!(second, endpoint.secret);
        run_task(client).await;
        let call = called(&receiver, 1).await.remove(0);
        assert_eq!(call.header("webhook-signature").split(' ').count(), 2, "{call:?}");
        assert!(is_signed(&call, &endpoint.secret) && is_signed(&call, &second), "a receiver may have either");

        // One's own, and the former is gone at once.
        let third = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let rotated = client.post(&path, &json!({"secret": third, "overlap_seconds": 0})).await;
        assert_eq!(rotated.body["secret"], third, "{rotated:?}");
        run_task(client).await;
        let call = called(&receiver, 2).await.remove(1);
        let signed = [endpoint.secret.as_str(), &second, third].map(|secret| is_signed(&call, secret));
        assert_eq!(signed, [false, false, true]);
        let wrong = client.post(&path, &json!({"secret": "short"})).await;
        assert_eq!((wrong.status, wrong.pointers()), (400, vec!["/secret"]));
        settle(client).await;
        errand.finish().await;
    }

    async fn a_secret_is_shown_once(setup: Setup) {
        let receiver = Destination::start([]).await;
        let errand = telling(setup).start().await;
        let client = errand.client();
        let body = json!({"url": receiver.url("/")});
        let create = || client.request(reqwest::Method::POST, "/webhooks").header("idempotency-key", "one").json(&body);
        let made = client.send(create()).await;
        assert!(made.body["secret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")), "{made:?}");
        let again = client.send(create()).await;
        assert_eq!((again.header("idempotency-replayed"), &again.body["id"]), ("true", &made.body["id"]));
        let id = made.body["id"].as_str().expect("an id");
        let others = [again, client.get(&format!("/webhooks/{id}")).await, client.get("/webhooks").await];
        assert!(others.iter().all(|answer| !answer.text.contains("whsec_")), "{others:?}");
        errand.finish().await;
    }
}
