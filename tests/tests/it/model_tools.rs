//! Tools that a model asks for, over REST: what their programs say, what goes wrong, and what dies meanwhile.

use std::path::Path;

use errand_tests::{
    Setup, both_modes,
    fake_answer::Gate,
    fake_messages::{self, FakeMessages},
    fake_openai::{self, FakeOpenAi},
    process, wait,
};
use serde_json::{Value, json};

const ENGINE: &str = "model";

/// Notes in a file which call it serves, once a start, and then does this.
fn noting(file: &Path, name: &str, script: &str) -> String {
    let script = format!("echo $ERRAND_TOOL_USE_ID >> {}; {script}", file.display());
    tool(name, &script, "approval = \"never\"")
}

fn tool(name: &str, script: &str, more: &str) -> String {
    let command = json!(["sh", "-c", script]);
    format!("[[engines.{ENGINE}.tools]]\nname = {name:?}\ndescription = \"Does it.\"\ncommand = {command}\n{more}\n")
}

fn with_tools(setup: Setup, server: &str, tools: &[String]) -> Setup {
    setup.engine(ENGINE, &format!("{server}\n{}", tools.concat())).variable("MODEL_KEY", "sk-of-the-test")
}

fn results(message: &Value) -> &[Value] {
    message["content"].as_array().expect("results")
}

both_modes! {
    async fn a_turn_whose_worker_is_killed_between_two_calls_goes_on_elsewhere_and_each_tool_runs_once(setup: Setup) {
        let directory = tempfile::tempdir().expect("a directory");
        let receipts = directory.path().join("receipts");
        let noted = || std::fs::read_to_string(&receipts).unwrap_or_default();
        let tools = [noting(&receipts, "note", "cat; echo noted"), noting(&receipts, "hang", "sleep 600")];
        let call = |id, tool| fake_messages::Reply::tools(vec![(id, tool, json!({"n": 1}))]);
        let fake = FakeMessages::start([
            call("t1", "note"),
            fake_messages::Reply::Stream(vec![fake_messages::Step::Gate(Gate::new())]),
            call("t2", "hang"),
            fake_messages::Reply::text(&["all done"]),
        ])
        .await;
        let mut errand = with_tools(setup, &fake.engine(), &tools).start().await;
        let task = errand.client().submit_task(&json!({"prompt": "go", "engineType": ENGINE})).await;
        let mut workers = Vec::new();

        wait::until("the first tool has run and the model is asked again", || async {
            (fake.requests().len() == 2).then_some(())
        })
        .await;
        workers.push(errand.client().job(&task.id).await["worker_id"].clone());
        errand.kill9_worker(0);
        errand.restart_workers().await;
        wait::until("the second tool runs", || async { noted().contains("t2").then_some(()) }).await;
        workers.push(errand.client().job(&task.id).await["worker_id"].clone());
        errand.kill9_worker(0);
        errand.restart_workers().await;
        let job = errand.client().wait_for_completion(&task.id).await;

        assert_eq!((&job["result"]["summary"], &job["attempt"]), (&json!("all done"), &json!(3)), "{job:#}");
        assert_eq!(noted(), "t1\nt2\n", "each was started once");
        assert!(workers[0].is_string() && workers[0] != workers[1], "{workers:?}");
        let requests = fake.requests();
        assert_eq!(requests.len(), 4, "what was answered is not asked again");
        for request in &requests[1..] {
            let first = &results(&request.body["messages"][2])[0];
            assert_eq!((&first["tool_use_id"], &first["content"]), (&json!("t1"), &json!("{\"n\":1}noted\n")));
        }
        let second = &results(&requests[3].body["messages"][4])[0];
        assert_eq!((&second["tool_use_id"], &second["is_error"]), (&json!("t2"), &json!(true)));
        assert!(second["content"].as_str().expect("words").contains("was not run again"), "{second}");
        assert!(process::of_task(&task.id).is_empty());
        // Who died could not say what its requests had cost.
        let usage = errand.client().get(&format!("/agent/tasks/{}", task.id)).await.body["usage"].clone();
        assert_eq!((&usage["records"], &usage["unknown"]), (&json!(3), &json!(2)), "{usage:#}");
        errand.finish().await;
    }

    async fn a_tool_that_is_slow_or_loud_or_fails_is_stopped_and_the_model_is_told(setup: Setup) {
        let tools = [
            tool("slow", "echo begun; sleep 600", "approval = \"never\"\ntimeout_seconds = 1"),
            tool("loud", "yes", "approval = \"never\"\noutput_limit_kib = 1"),
            tool("broken", "echo half; echo the disk is on fire >&2; exit 3", "approval = \"never\""),
        ];
        let calls = vec![("t1", "slow", json!({})), ("t2", "loud", json!({})), ("t3", "broken", json!({})), ("t4", "none", json!({}))];
        let fake = FakeMessages::start([fake_messages::Reply::tools(calls), fake_messages::Reply::text(&["I see"])]).await;
        let errand = with_tools(setup, &fake.engine(), &tools).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "go", "engineType": ENGINE})).await;
        let job = client.wait_for_completion(&task.id).await;
        assert_eq!((&job["result"]["summary"], &job["attempt"]), (&json!("I see"), &json!(1)), "{job:#}");
        let told = fake.requests()[1].body["messages"][2].clone();
        let wanted = [
            "did not end within 1 s",
            "more than its limit of 1 KiB",
            "status 3\nthe disk is on fire\n",
            "there is no tool named \"none\"",
        ];
        assert_eq!(results(&told).len(), wanted.len());
        for (result, words) in results(&told).iter().zip(wanted) {
            let content = result["content"].as_str().expect("words");
            assert!(result["is_error"] == true && content.contains(words), "{words:?} is not in {result}");
        }
        assert!(process::of_task(&task.id).is_empty(), "nothing of them is left");
        errand.finish().await;
    }

    async fn a_chat_model_uses_tools_and_waits_for_a_person(setup: Setup) {
        let tools = [tool("read", "cat", "approval = \"never\""), tool("write", "echo written", "")];
        let calls = [("c1", "read", json!({"what": "a"})), ("c2", "write", json!({"what": "b"}))];
        let fake = FakeOpenAi::start([fake_openai::Reply::tools(&calls), fake_openai::Reply::text(&["both done"])]).await;
        let errand = with_tools(setup, &fake.engine(), &tools).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "go", "engineType": ENGINE})).await;
        client.wait_for_state(&task.id, "awaiting_approval").await;
        assert_eq!(fake.requests().len(), 1, "nothing is asked meanwhile");
        let answer = client.post(&format!("/agent/tasks/{}/approve", task.id), &json!({"approved": true})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let job = client.wait_for_completion(&task.id).await;
        assert_eq!((&job["result"]["summary"], &job["result"]["tokensUsed"]), (&json!("both done"), &json!(36)), "{job:#}");
        let requests = fake.requests();
        assert_eq!(requests[0].body["tools"][1]["function"]["name"], "write");
        let messages = &requests[1].body["messages"];
        assert_eq!(messages[1]["tool_calls"][1]["function"]["arguments"], "{\"what\":\"b\"}");
        for (number, id, said) in [(2, "c1", "{\"what\":\"a\"}"), (3, "c2", "written\n")] {
            let message = &messages[number];
            assert_eq!((&message["role"], &message["tool_call_id"]), (&json!("tool"), &json!(id)), "{messages:#}");
            assert_eq!(message["content"], said);
        }
        let frames = client.events(&task.id).await;
        let of = |kind: &str| frames.iter().filter(|frame| frame.kind() == kind).count();
        assert_eq!((of("tool_use"), of("tool_result"), of("approval_required")), (2, 2, 1));
        errand.finish().await;
    }

    async fn the_responses_api_streams_thinks_and_uses_tools(setup: Setup) {
        use fake_openai::{Reply, Step};
        let call = json!({"type": "function_call", "call_id": "c1", "name": "read", "arguments": "{\"at\":1}"});
        let end = || {
            let usage = json!({"input_tokens": 7, "output_tokens": 3});
            Step::Data(json!({"type": "response.completed", "response": {"model": "big", "usage": usage}}))
        };
        let fake = FakeOpenAi::start([
            Reply::Stream(vec![
                Step::Data(json!({"type": "response.reasoning_summary_text.delta", "delta": "hm"})),
                Step::Data(json!({"type": "response.output_item.done", "item": call})),
                end(),
            ]),
            Reply::Stream(vec![Step::Data(json!({"type": "response.output_text.delta", "delta": "Seen."})), end()]),
        ])
        .await;
        let server = format!("{}\napi = \"responses\"", fake.engine());
        let errand = with_tools(setup, &server, &[tool("read", "cat", "approval = \"never\"")]).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "go", "engineType": ENGINE, "systemPrompt": "Be brief."})).await;
        let job = client.wait_for_completion(&task.id).await;
        assert_eq!((&job["result"]["summary"], &job["result"]["model"]), (&json!("Seen."), &json!("big")), "{job:#}");
        assert_eq!(job["result"]["tokensUsed"], 20);
        let requests = fake.requests();
        assert_eq!((&requests[0].body["instructions"], &requests[0].body["store"]), (&json!("Be brief."), &json!(false)));
        let input = &requests[1].body["input"];
        assert_eq!(input[1], call, "{input:#}");
        let output = json!({"type": "function_call_output", "call_id": "c1", "output": "{\"at\":1}"});
        assert_eq!(input[2], output);
        let frames = client.events(&task.id).await;
        let kinds: Vec<_> = frames.iter().map(errand_tests::sse::Frame::kind).collect();
        let wanted = ["queued", "started", "thinking", "tool_use", "tool_result", "text", "usage", "completed", "end"];
        assert_eq!(kinds, wanted);
        errand.finish().await;
    }
}
