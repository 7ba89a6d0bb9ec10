//! The `openai_compatible` engine, against a server on loopback that does what such servers do.

use errand_tests::{
    Client, both_modes,
    fake_openai::{FakeOpenAi, Gate, Reply, Step, split_inside},
    sse::{Sse, visible_text},
    wait,
};
use serde_json::{Value, json};

const ENGINE: &str = "model";

async fn run(client: &Client) -> Value {
    let task = client.submit_task(&json!({"prompt": "hi", "engineType": ENGINE, "maxAttempts": 1})).await;
    client.wait_for_end(&task.id).await
}

both_modes! {
    async fn an_answer_streams_while_the_server_still_speaks(setup: Setup) {
        let gate = Gate::new();
        let steps = vec![
            Step::Text("hello ".into()),
            Step::Gate(gate.clone()),
            Step::Text("world".into()),
            Step::Finish("stop"),
            Step::Usage(11, 7),
            Step::Done,
        ];
        let fake = FakeOpenAi::start([Reply::Stream(steps)]).await;
        let errand = setup.engine(ENGINE, &fake.engine()).start().await;
        let client = errand.client();
        let body = json!({"prompt": "hi there", "engineType": ENGINE, "systemPrompt": "Be brief."});
        let task = client.submit_task(&body).await;
        let mut stream = Sse::of_job(client, &task.id).await;
        let mut frames = stream.take_until(|frame| frame.kind() == "text").await;
        assert_eq!(visible_text(&frames), "hello ");
        gate.open();
        frames.extend(stream.rest().await);
        assert_eq!(visible_text(&frames), "hello world");

        let result = client.wait_for_completion(&task.id).await["result"].clone();
        assert_eq!(result["summary"], "hello world");
        assert_eq!((&result["inputTokens"], &result["outputTokens"]), (&json!(11), &json!(7)));
        assert_eq!(result["tokensUsed"], 18);
        let requests = fake.requests();
        assert_eq!(requests.len(), 1);
        let asked = &requests[0].body;
        assert_eq!((&asked["model"], &asked["stream"]), (&json!("fake-model"), &json!(true)));
        let messages = json!([
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi there"},
        ]);
        assert_eq!(asked["messages"], messages);
        errand.finish().await;
    }

    async fn the_key_goes_to_the_server_and_nowhere_else(setup: Setup) {
        let secret = "sk-a-secret-that-must-not-be-seen";
        let fake = FakeOpenAi::start([Reply::error(401, "invalid_api_key", "Incorrect API key provided")]).await;
        let lines = format!("{}\napi_key_env = \"MODEL_KEY\"", fake.engine());
        let errand = setup.engine(ENGINE, &lines).variable("MODEL_KEY", secret).start().await;
        let job = run(errand.client()).await;
        assert_eq!(fake.requests()[0].headers["authorization"], format!("Bearer {secret}"));
        assert_eq!((&job["state"], &job["failure"]["class"]), (&json!("failed"), &json!("auth")), "{job:#}");
        assert!(!job.to_string().contains(secret) && !errand.log().contains(secret));
        errand.finish().await;
    }

    async fn a_character_split_between_two_packets_arrives_whole(setup: Setup) {
        let [head, tail] = split_inside("größer 字", 3);
        let reply = Reply::Stream(vec![head, tail, Step::Finish("stop"), Step::Done]);
        let fake = FakeOpenAi::start([reply]).await;
        let errand = setup.engine(ENGINE, &fake.engine()).start().await;
        assert_eq!(run(errand.client()).await["result"]["summary"], "größer 字");
        errand.finish().await;
    }

    async fn comments_reasoning_and_a_missing_end_mark_are_put_up_with(setup: Setup) {
        let reply = Reply::Stream(vec![
            Step::Bytes(b": PROCESSING\n\n".to_vec()),
            Step::Reasoning("let me think".into()),
            Step::Text("done".into()),
            Step::Finish("stop"),
        ]);
        let fake = FakeOpenAi::start([reply]).await;
        let errand = setup.engine(ENGINE, &fake.engine()).start().await;
        let client = errand.client();
        let job = run(client).await;
        assert_eq!(job["result"]["summary"], "done", "{job:#}");
        let frames = client.events(job["id"].as_str().expect("an id")).await;
        let thinking = frames.iter().find(|frame| frame.kind() == "thinking").expect("a thought");
        assert_eq!(thinking.data["content"], "let me think");
        errand.finish().await;
    }

    async fn an_error_in_the_stream_fails_the_attempt_with_the_servers_words(setup: Setup) {
        let error = json!({"error": {"message": "the GPU melted", "type": "server_error", "code": null}});
        let fake = FakeOpenAi::start([Reply::Stream(vec![Step::Text("par".into()), Step::Data(error)])]).await;
        let errand = setup.engine(ENGINE, &fake.engine()).start().await;
        let job = run(errand.client()).await;
        assert_eq!(job["state"], "failed", "{job:#}");
        assert!(job["failure"]["message"].as_str().expect("text").contains("the GPU melted"), "{job:#}");
        let id = job["id"].as_str().expect("an id");
        let frames = errand.client().events(id).await;
        let error = frames.iter().find(|frame| frame.kind() == "error").expect("an error event");
        assert_eq!((&error.data["message"], &error.data["code"]), (&job["failure"]["message"], &json!("EXECUTION_ERROR")));
        let view = errand.client().get(&format!("/agent/tasks/{id}")).await.body;
        assert_eq!((&view["status"], &view["result"]), (&json!("failed"), &job["failure"]["message"]), "{view:#}");
        errand.finish().await;
    }

    async fn an_answer_that_breaks_off_is_asked_for_again_and_its_text_retracted(setup: Setup) {
        let shown = Gate::new();
        let fake = FakeOpenAi::start([
            Reply::Stream(vec![Step::Text("half an ans".into()), Step::Gate(shown.clone()), Step::Cut]),
            Reply::text(&["a whole ", "answer"]),
        ])
        .await;
        let errand = setup.engine(ENGINE, &fake.engine()).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "hi", "engineType": ENGINE})).await;
        client.wait_for_text(&task.id, "half an ans").await;
        shown.open();
        let job = client.wait_for_completion(&task.id).await;
        assert_eq!(job["attempt"], 2);
        let frames = client.events(&task.id).await;
        assert!(frames.iter().any(|frame| frame.kind() == "text_retracted"), "who watches is told");
        assert_eq!(visible_text(&frames), "a whole answer");
        let said: Vec<Value> = client.messages(&task.session_id).await.iter().map(|said| said["content"].clone()).collect();
        assert_eq!(said, [json!("hi"), json!("a whole answer")], "what was finally said, once");
        errand.finish().await;
    }

    async fn a_cancelled_task_hangs_up_on_the_model(setup: Setup) {
        let steps = vec![Step::Text("half".into()), Step::Gate(Gate::new()), Step::Done];
        let fake = FakeOpenAi::start([Reply::Stream(steps)]).await;
        let errand = setup.engine(ENGINE, &fake.engine()).section("texts", "locale = \"zh\"").start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "hi", "engineType": ENGINE})).await;
        client.wait_for_text(&task.id, "half").await;
        assert_eq!(fake.hang_ups(), 0);
        assert_eq!(client.delete(&format!("/agent/tasks/{}", task.id)).await.status, 200);
        wait::until("the model is left alone", || async { (fake.hang_ups() == 1).then_some(()) }).await;
        assert_eq!(client.messages(&task.session_id).await[1]["content"], "half\n[中断]");
        errand.finish().await;
    }

    async fn so_much_of_the_conversation_is_told_as_the_task_says(setup: Setup) {
        let fake = FakeOpenAi::start([]).await;
        let errand = setup.engine(ENGINE, &fake.engine()).start().await;
        let client = errand.client();
        let mut session = Value::Null;
        for (prompt, context) in [("a", json!(null)), ("b", json!(null)), ("c", json!(2)), ("d", json!(1)), ("e", json!(0))] {
            let body = json!({"prompt": prompt, "engineType": ENGINE, "sessionId": session, "maxContextMessages": context});
            let task = client.submit_task(&body).await;
            client.wait_for_completion(&task.id).await;
            session = json!(task.session_id);
        }
        let asked: Vec<Vec<Value>> = fake.requests().iter().map(|request| {
            let messages = request.body["messages"].as_array().expect("messages");
            messages.iter().map(|message| message["content"].clone()).collect()
        }).collect();
        let answer = "hello from the model";
        assert_eq!(asked[1], ["a", answer, "b"].map(|text| json!(text)), "20 messages hold all of it");
        assert_eq!(asked[2], ["b", answer, "c"].map(|text| json!(text)));
        assert_eq!(asked[3], [json!("d")], "no server takes a conversation that begins with an answer");
        assert_eq!(asked[4], [json!("e")]);
        errand.finish().await;
    }

    async fn a_server_that_never_answers_is_given_up(setup: Setup) {
        let fake = FakeOpenAi::start([Reply::Hang]).await;
        let lines = format!("{}\nfirst_byte_timeout_seconds = 1", fake.engine());
        let errand = setup.engine(ENGINE, &lines).start().await;
        let job = run(errand.client()).await;
        assert_eq!((&job["state"], &job["failure"]["class"]), (&json!("failed"), &json!("transient")), "{job:#}");
        errand.finish().await;
    }

    async fn a_server_that_is_not_there_is_said_so_in_the_failure(setup: Setup) {
        let lines = "type = \"openai_compatible\"\nbase_url = \"http://127.0.0.1:9/v1\"\nmodel = \"m\"";
        let errand = setup.engine(ENGINE, lines).start().await;
        let job = run(errand.client()).await;
        assert_eq!((&job["state"], &job["failure"]["class"]), (&json!("failed"), &json!("transient")), "{job:#}");
        assert!(job["failure"]["message"].as_str().expect("text").contains("can't be reached"), "{job:#}");
        errand.finish().await;
    }

    async fn the_conversation_so_far_is_part_of_the_question(setup: Setup) {
        let fake = FakeOpenAi::start([Reply::text(&["first answer"]), Reply::text(&["second answer"])]).await;
        let errand = setup.engine(ENGINE, &fake.engine()).start().await;
        let client = errand.client();
        let first = client.submit_task(&json!({"prompt": "first", "engineType": ENGINE})).await;
        client.wait_for_completion(&first.id).await;
        let body = json!({"prompt": "second", "engineType": ENGINE, "sessionId": first.session_id});
        let second = client.submit_task(&body).await;
        client.wait_for_completion(&second.id).await;
        let messages = json!([
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "first answer"},
            {"role": "user", "content": "second"},
        ]);
        assert_eq!(fake.requests()[1].body["messages"], messages);
        errand.finish().await;
    }
}
