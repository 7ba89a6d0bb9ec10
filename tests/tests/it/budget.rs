//! Budgets of tasks, sessions and tenants: judged before each request to a model.

use errand_tests::{
    Client, both_modes,
    fake_openai::{FakeOpenAi, Reply, Step},
};
use serde_json::{Value, json};

const ENGINE: &str = "model";

/// Runs a prompt to its end, in this session if there is one.
async fn run(client: &Client, session: Option<&str>, more: &Value) -> Value {
    let mut body = json!({"prompt": "hi", "engineType": ENGINE, "sessionId": session});
    body.as_object_mut().expect("a body").extend(more.as_object().cloned().unwrap_or_default());
    let task = client.submit_task(&body).await;
    let mut job = client.wait_for_end(&task.id).await;
    job["session"] = task.session_id.into();
    job
}

fn assert_exceeded(job: &Value, words: &[&str]) {
    let failure = &job["failure"];
    assert_eq!((&job["state"], &failure["class"]), (&json!("failed"), &json!("fatal")), "{job:#}");
    assert_eq!(failure["code"], "BUDGET_EXCEEDED", "{job:#}");
    let message = failure["message"].as_str().expect("a message");
    words.iter().for_each(|word| assert!(message.contains(word), "{message:?} lacks {word:?}"));
}

/// A tenth of a dollar a token.
const PRICE: &str = "input = 100000\noutput = 100000";

/// One request to the fake: 11 tokens in, 7 out.
fn answer() -> Reply {
    Reply::text(&["an answer"])
}

both_modes! {
    async fn a_session_that_has_spent_its_budget_runs_nothing_more_and_another_does(setup: Setup) {
        let fake = FakeOpenAi::always(answer()).await;
        let errand = setup.engine(ENGINE, &fake.engine()).section("budgets", "session_tokens = 20").start().await;
        let client = errand.client();
        let first = run(client, None, &json!({})).await;
        let session = first["session"].as_str();
        assert_eq!(first["state"], "completed", "{first:#}");
        let second = run(client, session, &json!({})).await;
        assert_eq!(second["state"], "completed", "18 of 20 were spent: a request may begin; {second:#}");
        let third = run(client, session, &json!({})).await;
        assert_exceeded(&third, &["the session has spent 36 of 20 tokens", "a new one", "budgets.session_tokens"]);
        assert_eq!(third["attempt"], 1, "another attempt would find the same");
        assert_eq!(fake.requests().len(), 2, "the third asked nothing");
        assert_eq!(run(client, None, &json!({})).await["state"], "completed");
        errand.finish().await;
    }

    async fn a_tenant_that_has_spent_its_day_waits_for_the_next(setup: Setup) {
        let fake = FakeOpenAi::always(answer()).await;
        let errand = setup.engine(ENGINE, &fake.engine()).section("budgets", "tenant_day_tokens = 18").start().await;
        let client = errand.client();
        assert_eq!(run(client, None, &json!({})).await["state"], "completed");
        let second = run(client, None, &json!({})).await;
        let words = ["the tenant has spent 18 of 18 tokens", "after 20", "T00:00:00", "budgets.tenant_day_tokens"];
        assert_exceeded(&second, &words);
        assert_eq!(fake.requests().len(), 1);
        // What spends nothing is not bounded.
        let echo = client.submit_task(&json!({"prompt": "hi", "engineType": "echo"})).await;
        client.wait_for_completion(&echo.id).await;
        errand.finish().await;
    }

    async fn what_a_tasks_former_attempts_spent_counts_for_its_next(setup: Setup) {
        // Its token counts come, and its end does not: the attempt fails, and another may help.
        let fake = FakeOpenAi::always(Reply::Stream(vec![Step::Text("hal".into()), Step::Usage(11, 7)])).await;
        let errand = setup.engine(ENGINE, &fake.engine()).start().await;
        let client = errand.client();
        let job = run(client, None, &json!({"budget": {"maxTokens": 30}, "maxAttempts": 5})).await;
        assert_exceeded(&job, &["the task has spent 36 of 30 tokens of its own budget"]);
        assert_eq!((&job["attempt"], fake.requests().len()), (&json!(3), 2), "{job:#}");
        errand.finish().await;
    }

    async fn dollars_bound_tasks_sessions_and_tenants_as_tokens_do(setup: Setup) {
        let cut = || Reply::Stream(vec![Step::Text("hal".into()), Step::Usage(11, 7)]);
        let fake = FakeOpenAi::start([cut(), cut(), answer(), answer()]).await;
        let budgets = "session_usd = 2\ntenant_day_usd = 9";
        let errand = setup
            .engine(ENGINE, &fake.engine())
            .section("prices.fake-model", PRICE)
            .section("budgets", budgets)
            .start()
            .await;
        let client = errand.client();
        let own = run(client, None, &json!({"budget": {"maxCostUsd": 1.9}, "maxAttempts": 5})).await;
        assert_exceeded(&own, &["the task has spent 3.6 of 1.9 US dollars of its own budget"]);
        assert_eq!(fake.requests().len(), 2, "1.8 of 1.9 were spent after the first: a second may begin");
        let first = run(client, None, &json!({})).await;
        assert_eq!((&first["state"], &first["result"]["costUsd"]), (&json!("completed"), &json!(1.8)), "{first:#}");
        let session = first["session"].as_str();
        assert_eq!(run(client, session, &json!({})).await["state"], "completed");
        let third = run(client, session, &json!({})).await;
        assert_exceeded(&third, &["the session has spent 3.6 of 2 US dollars", "budgets.session_usd"]);
        assert_eq!(run(client, None, &json!({})).await["state"], "completed", "7.2 of 9 were spent by all");
        let sixth = run(client, None, &json!({})).await;
        assert_exceeded(&sixth, &["the tenant has spent 9 of 9 US dollars", "T00:00:00", "budgets.tenant_day_usd"]);
        assert_eq!(fake.requests().len(), 5);
        let total = client.get("/agent/usage").await.body["total"].clone();
        assert_eq!((&total["costUsd"], &total["unpriced"]), (&json!(9.0), &json!(0)), "{total:#}");
        errand.finish().await;
    }

    async fn a_budget_that_bounds_nothing_is_refused(setup: Setup) {
        let errand = setup.start().await;
        for (budget, pointer) in [
            (json!({}), "/budget"),
            (json!({"maxTokens": 0}), "/budget/maxTokens"),
            (json!({"maxCostUsd": -1}), "/budget/maxCostUsd"),
            (json!({"maxCostUsd": 0}), "/budget/maxCostUsd"),
        ] {
            let answer = errand.client().post("/agent/tasks", &json!({"prompt": "hi", "budget": budget})).await;
            assert_eq!((answer.status, answer.pointers()), (400, vec![pointer]), "{budget}: {}", answer.text);
        }
        let misspelt = json!({"prompt": "hi", "budget": {"maxToken": 5}});
        assert_eq!(errand.client().post("/agent/tasks", &misspelt).await.status, 400);
        errand.finish().await;
    }
}
