//! What follows a failed attempt, and when.

use std::time::Duration;

use errand_tests::{
    Client, Task, both_modes,
    fake_openai::{FakeOpenAi, Reply},
};
use serde_json::{Value, json};

const ENGINE: &str = "model";

async fn submit(client: &Client) -> Task {
    client.submit_task(&json!({"prompt": "hi", "engineType": ENGINE})).await
}

fn of_type(timeline: &[Value], kind: &str) -> Vec<Value> {
    timeline.iter().filter(|event| event["type"] == kind).cloned().collect()
}

both_modes! {
    async fn a_server_that_recovers_is_asked_again_and_the_backoff_is_in_the_timeline(setup: Setup) {
        let busy = || Reply::error(503, "overloaded", "come back later");
        let fake = FakeOpenAi::start([busy(), busy(), Reply::text(&["at ", "last"])]).await;
        let errand = setup.engine(ENGINE, &fake.engine()).start().await;
        let client = errand.client();
        let task = submit(client).await;
        let job = client.wait_for_completion(&task.id).await;
        assert_eq!((&job["attempt"], &job["result"]["summary"]), (&json!(3), &json!("at last")), "{job:#}");
        assert_eq!(fake.requests().len(), 3);
        let timeline = client.timeline(&task.id).await;
        let retrying = of_type(&timeline, "retrying");
        assert_eq!(retrying.len(), 2, "{timeline:#?}");
        for (event, longest) in retrying.iter().zip([1_000, 2_000]) {
            assert_eq!(event["class"], "transient");
            assert!(event["message"].as_str().is_some_and(|message| !message.is_empty()), "{event}");
            let delay = event["delay_ms"].as_u64().expect("a delay");
            assert!(delay <= longest, "{event}");
            assert!(event["run_at"].is_string(), "{event}");
        }
        assert_eq!(of_type(&timeline, "started").len(), 3);
        errand.finish().await;
    }

    async fn the_servers_own_wait_is_respected(setup: Setup) {
        let limited = Reply::error(429, "rate_limit_exceeded", "slow down").with_header("retry-after", "2");
        let fake = FakeOpenAi::start([limited]).await;
        let errand = setup.engine(ENGINE, &fake.engine()).start().await;
        let client = errand.client();
        let task = submit(client).await;
        client.wait_for_completion(&task.id).await;
        let requests = fake.requests();
        assert_eq!(requests.len(), 2);
        assert!(requests[1].at - requests[0].at >= Duration::from_secs(2));
        let retrying = of_type(&client.timeline(&task.id).await, "retrying");
        assert_eq!(retrying[0]["class"], "rate_limited");
        let delay = retrying[0]["delay_ms"].as_u64().expect("a delay");
        assert!((1_500..=2_000).contains(&delay), "{delay}");
        errand.finish().await;
    }

    async fn the_last_attempt_is_the_last(setup: Setup) {
        let fake = FakeOpenAi::start((0..5).map(|_| Reply::error(500, "oops", "a bug of the server's"))).await;
        let errand = setup.engine(ENGINE, &fake.engine()).start().await;
        let client = errand.client();
        let task = submit(client).await;
        let job = client.wait_for_end(&task.id).await;
        assert_eq!(job["state"], "failed");
        assert_eq!((&job["attempt"], &job["max_attempts"]), (&json!(3), &json!(3)));
        assert_eq!((&job["failure"]["class"], &job["failure"]["attempt"]), (&json!("transient"), &json!(3)));
        assert_eq!(fake.requests().len(), 3);
        errand.finish().await;
    }

    async fn what_would_fail_again_is_not_tried_again(setup: Setup) {
        let fake = FakeOpenAi::start([
            Reply::error(400, "context_length_exceeded", "too long"),
            Reply::error(401, "invalid_api_key", "who are you"),
            Reply::error(404, "model_not_found", "no such model"),
            Reply::error(429, "insufficient_quota", "you have no money left"),
        ])
        .await;
        let errand = setup.engine(ENGINE, &fake.engine()).start().await;
        let client = errand.client();
        for (number, class) in ["invalid", "auth", "invalid", "fatal"].into_iter().enumerate() {
            let task = submit(client).await;
            let job = client.wait_for_end(&task.id).await;
            assert_eq!((&job["state"], &job["failure"]["class"]), (&json!("failed"), &json!(class)), "{job:#}");
            assert_eq!(job["attempt"], 1);
            assert_eq!(fake.requests().len(), number + 1);
        }
        errand.finish().await;
    }

    async fn a_failed_job_can_be_run_again_as_a_new_one(setup: Setup) {
        let fake = FakeOpenAi::start([Reply::error(400, "bad", "no"), Reply::text(&["fine"])]).await;
        let errand = setup.engine(ENGINE, &fake.engine()).start().await;
        let client = errand.client();
        let task = submit(client).await;
        assert_eq!(client.wait_for_end(&task.id).await["state"], "failed");
        let answer = client.post(&format!("/jobs/{}/retry", task.id), &json!({})).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let id = answer.body["job_id"].as_str().expect("an id");
        assert_ne!(id, task.id);
        let job = client.wait_for_completion(id).await;
        assert_eq!(job["retry_of"], task.id);
        assert_eq!(job["attempt"], 1);
        assert_eq!(client.job(&task.id).await["state"], "failed", "what has ended stays as it was");
        let refused = client.post(&format!("/jobs/{id}/retry"), &json!({})).await;
        assert_eq!(refused.status, 409, "{refused:?}");
        errand.finish().await;
    }
}
