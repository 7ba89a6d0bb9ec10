//! What was spent, summed.

use errand_tests::{
    Client, Setup, Task, both_modes,
    fake_answer::Gate,
    fake_messages::{FakeMessages, Reply, Step},
    fake_openai::FakeOpenAi,
    identity::{IdentityProvider, SigningKey, claims},
};
use serde_json::{Value, json};

/// An engine on this model, each of whose answers costs 25 tokens in and 5 out: two ten-thousandths of a dollar.
fn priced(setup: Setup, fake: &FakeMessages) -> Setup {
    let write = "[[engines.claude.tools]]\nname = \"write\"\ndescription = \"Writes.\"\ncommand = [\"cat\"]";
    setup
        .engine("claude", &format!("{}\n{write}", fake.engine()))
        .default_engine("claude")
        .section("prices.fake-claude", "input = 4\noutput = 20")
        .variable("MODEL_KEY", "sk-of-the-test")
}

/// Says something and then nothing more.
fn stuck() -> Reply {
    Reply::Stream(vec![Step::Text(vec!["half".into()]), Step::Gate(Gate::new())])
}

/// What the runs of a task spent.
async fn usage_of(client: &Client, task: &Task) -> Value {
    client.get(&format!("/agent/tasks/{}", task.id)).await.body["usage"].clone()
}

/// So many records, of which so many don't know all; tokens in.
fn counts(usage: &Value) -> [i64; 3] {
    ["records", "unknown", "inputTokens"]
        .map(|field| usage[field].as_i64().unwrap_or_else(|| panic!("{field}: {usage:#}")))
}

both_modes! {
    async fn what_tasks_spend_is_summed_by_what_is_asked_and_users_see_theirs(setup: Setup) {
        let model = FakeOpenAi::start([]).await;
        let (provider, key) = (IdentityProvider::start().await, SigningKey::ec("e1"));
        provider.publish(&[&key]);
        let errand = setup
            .section("auth", &provider.settings())
            .engine("model", &model.engine())
            .default_engine("model")
            .start()
            .await;
        let service = errand.client();
        let ann = service.with_key(&key.sign(&claims("ann")));
        // Tenants of tokens and of the harness's key are one, or a user's sums would not be among them.
        let nothing = service.get("/agent/usage").await;
        assert_eq!((&nothing.body["items"], &nothing.body["total"]["records"]), (&json!([]), &json!(0)), "{nothing:?}");
        for client in [service, &ann, service] {
            let task = client.submit_task(&json!({"prompt": "a"})).await;
            client.wait_for_completion(&task.id).await;
        }
        // The fake says 11 tokens in and 7 out for each.
        let all = service.get("/agent/usage?group_by=user,engine").await.body;
        assert_eq!((&all["total"]["inputTokens"], &all["total"]["totalTokens"]), (&json!(33), &json!(54)), "{all:#}");
        assert_eq!((&all["total"]["unpriced"], &all["total"]["unknown"]), (&json!(3), &json!(0)), "{all:#}");
        assert_eq!(all["groupBy"], json!(["user", "engine"]));
        let groups: Vec<_> = all["items"].as_array().expect("items").iter()
            .map(|item| (item["user"].clone(), item["engine"].clone(), item["records"].clone())).collect();
        assert_eq!(groups, [(json!(""), json!("model"), json!(2)), (json!("ann"), json!("model"), json!(1))]);
        let hers = ann.get("/agent/usage").await.body;
        assert_eq!(hers["total"]["inputTokens"], 11, "{hers:#}");
        let by_user = ann.get("/agent/usage?group_by=user").await.body["items"].clone();
        assert_eq!((by_user.as_array().map(Vec::len), &by_user[0]["user"]), (Some(1), &json!("ann")), "{by_user:#}");

        let today = chrono::Utc::now().format("%Y-%m-%d").to_string();
        let day = service.get(&format!("/agent/usage?from={today}&to={today}&group_by=day")).await.body;
        assert!(day["items"].as_array().is_some_and(|items| !items.is_empty() && items[0]["day"] == today.as_str()), "{day:#}");
        let future = service.get("/agent/usage?from=2999-01-01").await.body;
        assert_eq!(future["total"]["records"], 0);
        for (query, pointer) in [
            ("from=yesterday", "query:from"),
            ("group_by=colour", "query:group_by"),
            ("group_by=day,day", "query:group_by"),
            ("from=2026-11-21T00:00:00Z&to=2026-11-20T00:00:00Z", "query:to"),
        ] {
            let refused = service.get(&format!("/agent/usage?{query}")).await;
            assert_eq!((refused.status, refused.pointers()), (400, vec![pointer]), "{query}");
        }
        errand.finish().await;
    }

    async fn a_run_that_is_handed_back_tells_what_it_knows_of_its_spending(setup: Setup) {
        let fake = FakeMessages::start([stuck()]).await;
        let mut errand = priced(setup, &fake).section("worker", "drain_seconds = 1").start().await;
        let task = errand.client().submit_task(&json!({"prompt": "hi"})).await;
        errand.client().wait_for_text(&task.id, "half").await;
        assert!(errand.sigterm_worker(0).await.success());
        errand.restart_workers().await;
        let job = errand.client().wait_for_completion(&task.id).await;
        assert_eq!((&job["attempt"], &job["result"]["inputTokens"]), (&json!(1), &json!(25)), "{job:#}");
        let usage = usage_of(errand.client(), &task).await;
        assert_eq!(counts(&usage), [2, 1, 50], "what the first run was billed for by then is in the sum: {usage:#}");
        errand.finish().await;
    }

    async fn a_run_that_takes_too_long_tells_what_it_knows_of_its_spending(setup: Setup) {
        let fake = FakeMessages::start([stuck()]).await;
        let errand = priced(setup, &fake).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "hi", "timeoutSeconds": 1, "maxAttempts": 1})).await;
        let job = client.wait_for_end(&task.id).await;
        assert_eq!(job["failure"]["code"], "TIMEOUT", "{job:#}");
        assert_eq!(counts(&usage_of(client, &task).await), [1, 1, 25]);
        errand.finish().await;
    }

    async fn a_run_that_is_parked_and_the_one_after_it_are_counted_once_each(setup: Setup) {
        let fake = FakeMessages::start([Reply::tools(vec![("t1", "write", json!({}))]), Reply::text(&["done"])]).await;
        let errand = priced(setup, &fake).section("worker", "approval_warm_seconds = 0").start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "hi"})).await;
        let parked = errand_tests::wait::until("it is parked", || async {
            let job = client.job(&task.id).await;
            (job["state"] == "awaiting_approval" && job["lease_until"].is_null()).then_some(job)
        })
        .await;
        assert_eq!(counts(&usage_of(client, &task).await), [1, 0, 25], "{parked:#}");
        let answer = client.post(&format!("/agent/tasks/{}/approve", task.id), &json!({"approved": true})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        client.wait_for_completion(&task.id).await;
        let usage = usage_of(client, &task).await;
        assert_eq!((counts(&usage), &usage["costUsd"]), ([2, 0, 50], &json!(0.0004)), "{usage:#}");
        assert_eq!(fake.billed(), (50, 10));
        let events = client.events(&task.id).await;
        let told: Vec<_> = events.iter().filter(|frame| frame.kind() == "usage").map(|frame| &frame.data["totalTokens"]).collect();
        assert_eq!(told, [30, 30]);
        let metrics = errand.worker_client(0).get_root("/metrics").await.expect("metrics").text;
        for (direction, tokens) in [("input", 50), ("output", 10)] {
            let counted = format!("errand_engine_tokens_total{{engine=\"claude\",direction=\"{direction}\"}} {tokens}");
            assert!(metrics.lines().any(|line| line == counted), "{counted} in:\n{metrics}");
        }
        errand.finish().await;
    }
}
