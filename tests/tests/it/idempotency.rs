//! `Idempotency-Key`: the same request twice is one piece of work and one answer.

use errand_tests::{Answer, Client, both_modes, client::task_of};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

const BOOTSTRAP: &str = "errand_the-key-of-another-tenant-0123456789";

async fn post(client: &Client, path: &str, key: &str, body: &Value) -> Answer {
    client.send(client.request(Method::POST, path).header("idempotency-key", key).json(body)).await
}

both_modes! {
    async fn a_hundred_equal_posts_at_once_are_one_task_with_a_hundred_equal_answers(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let body = json!({"prompt": "only once"});
        let answers = join_all((0..100).map(|_| post(client, "/agent/tasks", "one-key", &body))).await;
        let first = &answers[0];
        let mut replayed = 0;
        for answer in &answers {
            assert_eq!(answer.status, 202, "{answer:?}");
            assert_eq!(answer.body, first.body);
            assert_eq!(answer.header("location"), first.header("location"));
            replayed += usize::from(answer.header("idempotency-replayed") == "true");
        }
        assert_eq!(replayed, 99, "all but the one that did it say that they are repeats");
        client.wait_for_completion(&task_of(first).id).await;
        assert_eq!(client.get("/jobs").await.items().len(), 1);
        assert_eq!(client.get("/agent/sessions").await.items().len(), 1);
        errand.finish().await;
    }

    async fn a_key_used_for_another_body_or_path_is_refused(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let first = post(client, "/agent/tasks", "k", &json!({"prompt": "one"})).await;
        let other_body = post(client, "/agent/tasks", "k", &json!({"prompt": "two"})).await;
        assert_eq!((other_body.status, &other_body.body["code"]), (422, &json!("idempotency_mismatch")));
        let other_path = post(client, "/jobs", "k", &json!({"kind": "task", "payload": {"prompt": "one"}})).await;
        assert_eq!(other_path.status, 422, "{other_path:?}");
        client.wait_for_completion(&task_of(&first).id).await;
        assert_eq!(client.get("/jobs").await.items().len(), 1);
        errand.finish().await;
    }

    async fn a_repeat_honours_its_own_preference_to_wait(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let body = json!({"prompt": "again"});
        let first = post(client, "/agent/tasks", "k", &body).await;
        let request = client.request(Method::POST, "/agent/tasks").header("idempotency-key", "k");
        let second = client.send(request.header("prefer", "wait=60").json(&body)).await;
        assert_eq!(second.status, 200, "{second:?}");
        assert_eq!(second.body["id"], task_of(&first).id);
        assert_eq!(second.body["status"], "completed");
        assert_eq!(second.header("idempotency-replayed"), "true");
        errand.finish().await;
    }

    async fn a_refused_request_leaves_its_key_unused(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        assert_eq!(post(client, "/agent/tasks", "k", &json!({"prompt": ""})).await.status, 400);
        let good = post(client, "/agent/tasks", "k", &json!({"prompt": "now it is right"})).await;
        assert_eq!(good.status, 202, "{good:?}");
        client.wait_for_completion(&task_of(&good).id).await;
        errand.finish().await;
    }

    async fn equal_keys_of_two_tenants_do_not_meet(setup: Setup) {
        let errand = setup.section("auth", &format!("bootstrap_key = {BOOTSTRAP:?}")).start().await;
        let ours = errand.client();
        let theirs = ours.with_key(BOOTSTRAP);
        let body = json!({"prompt": "same words"});
        let one = task_of(&post(ours, "/agent/tasks", "k", &body).await);
        let other = task_of(&post(&theirs, "/agent/tasks", "k", &body).await);
        assert_ne!(one.id, other.id);
        ours.wait_for_completion(&one.id).await;
        theirs.wait_for_completion(&other.id).await;
        errand.finish().await;
    }

    async fn a_key_outlives_a_restart(setup: Setup) {
        let mut errand = setup.start().await;
        let body = json!({"prompt": "durable"});
        let first = task_of(&post(errand.client(), "/agent/tasks", "k", &body).await);
        errand.client().wait_for_completion(&first.id).await;
        errand.kill9();
        errand.restart().await;
        let second = post(errand.client(), "/agent/tasks", "k", &body).await;
        assert_eq!(task_of(&second).id, first.id);
        assert_eq!(second.header("idempotency-replayed"), "true");
        errand.finish().await;
    }

    async fn equal_cancels_that_arrive_together_get_equal_answers(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let far = (chrono::Utc::now() + chrono::TimeDelta::hours(1)).to_rfc3339();
        let task = client.submit_task(&json!({"prompt": "x", "runAt": far})).await;
        let (path, empty) = (format!("/jobs/{}/cancel", task.id), json!({}));
        let answers = join_all((0..30).map(|_| post(client, &path, "k", &empty))).await;
        for answer in &answers {
            assert_eq!((answer.status, &answer.body), (200, &answers[0].body));
        }
        let replayed = answers.iter().filter(|answer| answer.header("idempotency-replayed") == "true").count();
        assert_eq!(replayed, 29);
        errand.finish().await;
    }

    async fn a_repeated_cancel_gives_the_first_answer_again(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let far = (chrono::Utc::now() + chrono::TimeDelta::hours(1)).to_rfc3339();
        let task = client.submit_task(&json!({"prompt": "x", "runAt": far})).await;
        let path = format!("/jobs/{}/cancel", task.id);
        let first = post(client, &path, "k", &json!({})).await;
        assert_eq!(first.status, 200, "{first:?}");
        let second = post(client, &path, "k", &json!({})).await;
        assert_eq!((second.status, &second.body), (200, &first.body));
        assert_eq!(second.header("idempotency-replayed"), "true");
        errand.finish().await;
    }
}
