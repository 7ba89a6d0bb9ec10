//! The `claude_api` engine, against a server on loopback that speaks the Messages API.

use std::time::Duration;

use errand_tests::{
    Client, Setup, both_modes,
    fake_answer::Gate,
    fake_messages::{FakeMessages, Reply, Step},
    sse::visible_text,
    wait,
};
use serde_json::{Value, json};

const ENGINE: &str = "claude";

/// With a key, prices and two tools: `read` needs no asking, `write` does.
fn with_engine(setup: Setup, fake: &FakeMessages, more: &str) -> Setup {
    let read = "[[engines.claude.tools]]\nname = \"read\"\ndescription = \"Reads.\"\ncommand = [\"cat\"]\napproval = \"never\"";
    let write = "[[engines.claude.tools]]\nname = \"write\"\ndescription = \"Writes.\"\n\
        command = [\"sh\", \"-c\", \"cat >> written; echo >> written; echo done\"]";
    setup
        .engine(ENGINE, &format!("{}\n{more}\n{read}\n{write}", fake.engine()))
        .section("prices.fake-claude", "input = 4\noutput = \"20\"")
        .variable("MODEL_KEY", "sk-secret-of-the-test")
}

async fn submit(client: &Client, more: Value) -> errand_tests::Task {
    let mut body = json!({"prompt": "hi", "engineType": ENGINE});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    client.submit_task(&body).await
}

both_modes! {
    async fn an_answer_streams_and_is_counted_and_priced(setup: Setup) {
        let steps = vec![
            Step::Thinking("hm".into()),
            Step::Text(vec!["hello ".into(), "world".into()]),
            Step::Stop("end_turn"),
        ];
        let fake = FakeMessages::start([Reply::Stream(steps)]).await;
        let errand = with_engine(setup, &fake, "").start().await;
        let client = errand.client();
        let task = submit(client, json!({"systemPrompt": "Be brief."})).await;
        let job = client.wait_for_completion(&task.id).await;
        let result = &job["result"];
        assert_eq!((&result["summary"], &result["tokensUsed"]), (&json!("hello world"), &json!(30)), "{job:#}");
        assert_eq!((&result["model"], &result["costUsd"]), (&json!("fake-claude"), &json!(0.0002)));
        assert_eq!(fake.billed(), (25, 5));
        let frames = client.events(&task.id).await;
        assert_eq!(visible_text(&frames), "hello world");
        assert!(frames.iter().any(|frame| frame.kind() == "thinking" && frame.data["content"] == "hm"));
        let request = &fake.requests()[0];
        assert_eq!(request.headers["x-api-key"], "sk-secret-of-the-test");
        assert_eq!(request.body["system"][0]["text"], "Be brief.");
        errand.finish().await;
    }

    async fn an_image_reaches_the_model(setup: Setup) {
        let fake = FakeMessages::start([]).await;
        let errand = with_engine(setup, &fake, "").start().await;
        let png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII=";
        let image = json!({"base64Data": png, "mediaType": "image/png", "fileName": "dot.png"});
        let task = submit(errand.client(), json!({"attachments": [image]})).await;
        errand.client().wait_for_completion(&task.id).await;
        let block = &fake.requests()[0].body["messages"][0]["content"][0];
        assert_eq!((&block["type"], &block["source"]["data"]), (&json!("image"), &json!(png)), "{block}");
        errand.finish().await;
    }

    async fn tools_run_in_order_and_what_needs_asking_waits_for_a_person(setup: Setup) {
        let calls = vec![("t1", "read", json!({"what": "a"})), ("t2", "write", json!({"what": "b"}))];
        let fake = FakeMessages::start([Reply::tools(calls), Reply::text(&["both done"])]).await;
        let errand = with_engine(setup, &fake, "").start().await;
        let client = errand.client();
        let task = submit(client, json!({})).await;
        client.wait_for_state(&task.id, "awaiting_approval").await;
        assert_eq!(fake.requests().len(), 1, "nothing is asked meanwhile");
        let answer = client.post(&format!("/agent/tasks/{}/approve", task.id), &json!({"approved": true})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let job = client.wait_for_completion(&task.id).await;
        assert_eq!(job["result"]["summary"], "both done");
        let results = fake.requests()[1].body["messages"][2]["content"].clone();
        assert_eq!((&results[0]["tool_use_id"], &results[0]["content"]), (&json!("t1"), &json!("{\"what\":\"a\"}")));
        assert_eq!((&results[1]["tool_use_id"], &results[1]["content"]), (&json!("t2"), &json!("done\n")));
        let frames = client.events(&task.id).await;
        let of = |kind: &str| frames.iter().filter(|frame| frame.kind() == kind).count();
        assert_eq!((of("tool_use"), of("tool_result"), of("approval_required")), (2, 2, 1));
        assert_eq!(job["result"]["inputTokens"], 50);
        errand.finish().await;
    }

    async fn a_tool_that_the_task_allows_needs_no_asking_and_a_denied_one_does_not_run(setup: Setup) {
        let write = || Reply::tools(vec![("t1", "write", json!({}))]);
        let fake = FakeMessages::start([write(), Reply::text(&["allowed"]), write(), Reply::text(&["too bad"])]).await;
        let errand = with_engine(setup, &fake, "").start().await;
        let client = errand.client();
        let allowed = submit(client, json!({"allowedTools": ["write"]})).await;
        assert_eq!(client.wait_for_completion(&allowed.id).await["result"]["summary"], "allowed");
        let denied = submit(client, json!({})).await;
        client.wait_for_state(&denied.id, "awaiting_approval").await;
        let body = json!({"approved": false, "message": "rather not"});
        let answer = client.post(&format!("/agent/tasks/{}/approve", denied.id), &body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(client.wait_for_completion(&denied.id).await["result"]["summary"], "too bad");
        let result = fake.requests()[3].body["messages"][2]["content"][0].clone();
        assert_eq!((&result["content"], &result["is_error"]), (&json!("rather not"), &json!(true)));
        errand.finish().await;
    }

    async fn a_stream_cut_in_mid_answer_is_retracted_and_the_history_holds_what_was_finally_said(setup: Setup) {
        let fake = FakeMessages::start([
            Reply::Stream(vec![Step::Text(vec!["half an ans".into()]), Step::Pause(Duration::from_millis(200)), Step::Cut]),
            Reply::text(&["a whole ", "answer"]),
        ])
        .await;
        let errand = with_engine(setup, &fake, "").start().await;
        let client = errand.client();
        let task = submit(client, json!({})).await;
        let job = client.wait_for_completion(&task.id).await;
        assert_eq!(job["attempt"], 1, "asked again within the attempt");
        let frames = client.events(&task.id).await;
        assert!(frames.iter().any(|frame| frame.kind() == "text_retracted"));
        assert_eq!(visible_text(&frames), "a whole answer");
        let session = job["session_id"].as_str().expect("a session");
        assert_eq!(client.messages(session).await.last().expect("a message")["content"], "a whole answer");
        let usage = frames.iter().find(|frame| frame.kind() == "usage").expect("a usage event");
        assert_eq!(usage.data["unknown"], true, "what the cut answer would have cost is not known: {:?}", usage.data);
        errand.finish().await;
    }

    async fn a_cancelled_task_hangs_up_on_the_model(setup: Setup) {
        let fake = FakeMessages::start([Reply::Stream(vec![
            Step::Text(vec!["half".into()]), Step::Gate(Gate::new()), Step::Stop("end_turn"),
        ])])
        .await;
        let errand = with_engine(setup, &fake, "").start().await;
        let client = errand.client();
        let task = submit(client, json!({})).await;
        client.wait_for_text(&task.id, "half").await;
        assert_eq!(fake.hang_ups(), 0);
        assert_eq!(client.delete(&format!("/agent/tasks/{}", task.id)).await.status, 200);
        wait::until("the model is left alone", || async { (fake.hang_ups() == 1).then_some(()) }).await;
        let last = client.messages(&task.session_id).await.pop().expect("messages");
        assert_eq!(last["content"], "half\n[interrupted]");
        wait::until("what it had spent is told", || async {
            let usage = client.get(&format!("/agent/tasks/{}", task.id)).await.body["usage"].clone();
            (usage["records"] == 1).then(|| assert_eq!((&usage["unknown"], &usage["inputTokens"]), (&json!(1), &json!(25))))
        })
        .await;
        errand.finish().await;
    }

    async fn a_short_wait_is_waited_for_and_a_long_one_puts_the_job_off(setup: Setup) {
        let busy = |seconds: &str| Reply::Error(429, vec![("retry-after", seconds.to_owned())], "rate_limit_error");
        let fake = FakeMessages::start([busy("1"), Reply::text(&["at last"]), busy("600")]).await;
        let errand = with_engine(setup, &fake, "").start().await;
        let client = errand.client();
        let short = submit(client, json!({})).await;
        let job = client.wait_for_completion(&short.id).await;
        assert_eq!((&job["result"]["summary"], &job["attempt"]), (&json!("at last"), &json!(1)));
        let long = submit(client, json!({})).await;
        let job = client.wait_for_state(&long.id, "retrying").await;
        assert_eq!(job["failure"]["class"], "rate_limited", "{job:#}");
        let other = submit(client, json!({})).await;
        client.wait_for_state(&other.id, "scheduled").await;
        assert_eq!(fake.requests().len(), 3, "the destination is left alone by everyone");
        for id in [&long.id, &other.id] {
            client.delete(&format!("/agent/tasks/{id}")).await;
        }
        errand.finish().await;
    }

    async fn refused_requests_fail_with_their_class_and_never_tell_the_key(setup: Setup) {
        let fake = FakeMessages::start([
            Reply::Error(401, vec![], "authentication_error"),
            Reply::Error(529, vec![], "overloaded_error"),
            Reply::Stream(vec![Step::Text(vec!["I".into()]), Step::Stop("refusal")]),
        ])
        .await;
        let errand = with_engine(setup, &fake, "request_retries = 0").start().await;
        let client = errand.client();
        for (class, code) in [("auth", "ENGINE_AUTH"), ("transient", "EXECUTION_ERROR"), ("fatal", "CONTENT_FILTERED")] {
            let task = submit(client, json!({"maxAttempts": 1})).await;
            let job = client.wait_for_end(&task.id).await;
            assert_eq!((&job["failure"]["class"], &job["failure"]["code"]), (&json!(class), &json!(code)), "{job:#}");
        }
        assert!(!errand.log().contains("sk-secret-of-the-test"));
        errand.finish().await;
    }

    async fn an_engine_with_one_place_runs_one_task_at_a_time(setup: Setup) {
        let slow = || Reply::Stream(vec![
            Step::Pause(Duration::from_millis(300)), Step::Text(vec!["done".into()]), Step::Stop("end_turn"),
        ]);
        let fake = FakeMessages::start([slow(), slow(), slow()]).await;
        let errand = with_engine(setup, &fake, "max_concurrency = 1").start().await;
        let client = errand.client();
        let mut tasks = Vec::new();
        for _ in 0..3 {
            tasks.push(submit(client, json!({})).await);
        }
        for task in &tasks {
            let job = client.wait_for_completion(&task.id).await;
            assert_eq!((&job["result"]["summary"], &job["attempt"]), (&json!("done"), &json!(1)), "no attempt is spent");
        }
        errand.finish().await;
    }
}
