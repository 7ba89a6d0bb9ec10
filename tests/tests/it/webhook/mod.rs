//! Webhooks: what receivers see, and what is said of them.

mod events;
mod receivers;
mod routes;
mod secrets;

use errand_tests::{
    Answer, Client, Setup,
    destination::{Call, Destination},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

/// Receivers of the test are within reach, and what fails is tried again at once.
fn telling(setup: Setup) -> Setup {
    setup
        .section("outbound", "allow = [\"127.0.0.0/8\"]")
        .section("webhooks", "call_seconds = 1\nretry_seconds = [0, 0, 0, 0, 0, 0, 0]")
}

/// An endpoint as made.
#[derive(Clone, Debug)]
struct Endpoint {
    id: String,
    secret: String,
}

async fn patch(client: &Client, path: &str, body: &Value) -> Answer {
    client.send(client.request(Method::PATCH, path).json(body)).await
}

/// An endpoint at this URL that hears of these events.
async fn endpoint(client: &Client, url: &str, events: &[&str]) -> Endpoint {
    let answer = client.post("/webhooks", &json!({"url": url, "events": events})).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = |name: &str| answer.body[name].as_str().expect("text").to_owned();
    Endpoint { id: text("id"), secret: text("secret") }
}

async fn shown(client: &Client, endpoint: &Endpoint) -> Value {
    let answer = client.get(&format!("/webhooks/{}", endpoint.id)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// The deliveries to an endpoint, newest first.
async fn deliveries(client: &Client, endpoint: &Endpoint) -> Vec<Value> {
    let answer = client.get(&format!("/webhooks/{}/deliveries", endpoint.id)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.items().to_vec()
}

/// The only delivery to an endpoint, once it has ended.
async fn only_delivery(client: &Client, endpoint: &Endpoint) -> Value {
    wait::until("one delivery has ended", || async {
        let all = deliveries(client, endpoint).await;
        (all.len() == 1 && !all[0]["finished_at"].is_null()).then(|| all[0].clone())
    })
    .await
}

/// Waits until a receiver was called so often.
async fn called(receiver: &Destination, count: usize) -> Vec<Call> {
    wait::until(format!("{count} calls came"), || async { (receiver.call_count() >= count).then_some(()) }).await;
    receiver.calls()
}

/// Runs a small task to its end.
async fn run_task(client: &Client) -> String {
    let task = client.submit_task(&json!({"prompt": "hello"})).await;
    client.wait_for_completion(&task.id).await;
    task.id
}

/// Whether a call is signed by this secret, says a library that receivers use.
fn is_signed(call: &Call, secret: &str) -> bool {
    let receiver = standardwebhooks::Webhook::new(secret).expect("a secret");
    receiver.verify(&call.bytes, &call.headers).is_ok()
}

/// Waits until no job is under way.
async fn settle(client: &Client) {
    wait::until("all has ended", || async {
        client.get("/jobs?state=live&limit=5").await.items().is_empty().then_some(())
    })
    .await;
}
