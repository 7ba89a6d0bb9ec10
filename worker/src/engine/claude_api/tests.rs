//! The engine against a server that plays prepared bytes.

use errand_common::domain::{
    AttachmentContent, AttachmentRef, Decision, EventType, FailureClass, NewEvent, UsageReport,
};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    engine::{
        Ledger, code,
        server::fake::{Fake, Script},
        trial::{TrialLink, turn},
    },
    guard::MonotonicInstant,
};

/// A variable that every process has stands in for the one with the key.
const KEY_VARIABLE: &str = "PATH";

fn engine(fake: &Fake, more: &Value) -> ClaudeApi {
    // Another test may have installed it already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let base_url = fake.base_url.trim_end_matches("/v1");
    let mut config = json!({
        "base_url": base_url, "model": "claude-trial", "api_key_env": KEY_VARIABLE, "request_retries": 0,
    });
    config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let config = serde_json::from_value(config).expect("a configuration");
    let prices = serde_json::from_value(json!({ "claude-trial": { "input": 4, "output": 20 } })).expect("prices");
    ClaudeApi::new("trial", &config, PriceTable::new(&prices), Arc::from(Path::new("/proc/self/exe")))
}

struct Ran {
    end: Result<TurnEnd, TurnFailure>,
    events: Vec<NewEvent>,
    usage: Option<UsageReport>,
    link: Arc<TrialLink>,
}

impl Ran {
    /// What a viewer sees in the end.
    fn visible(&self) -> String {
        self.events.iter().fold(String::new(), |mut text, event| {
            match event.kind {
                EventType::Text => text.push_str(event.data["content"].as_str().expect("text")),
                EventType::TextRetracted => text.clear(),
                _ => {}
            }
            text
        })
    }

    fn count(&self, kind: EventType) -> usize {
        self.events.iter().filter(|event| event.kind == kind).count()
    }

    fn failure(self) -> TurnFailure {
        self.end.expect_err("a failure")
    }
}

async fn run(engine: &ClaudeApi, turn: Turn, link: TrialLink) -> Ran {
    let (events, mut heard) = mpsc::channel(1024);
    let (_lease, must_end_by) = watch::channel(MonotonicInstant::now().plus(Duration::from_secs(60)));
    let (ledger, link) = (Ledger::default(), Arc::new(link));
    let context =
        TurnContext { events, stop: CancellationToken::new(), must_end_by, ledger: ledger.clone(), link: link.clone() };
    let end = engine.run(turn, context).await;
    let mut events = Vec::new();
    while let Some(event) = heard.recv().await {
        events.push(event);
    }
    Ran { end, events, usage: ledger.report(), link }
}

async fn play(scripts: Vec<Script>, more: &Value) -> Ran {
    let fake = Fake::play(scripts).await;
    run(&engine(&fake, more), turn("hello"), TrialLink::allowing()).await
}

fn start() -> Value {
    let usage = json!({ "input_tokens": 25, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 100, "output_tokens": 1 });
    json!({ "type": "message_start", "message": { "model": "claude-trial", "content": [], "usage": usage } })
}

fn stop(reason: &str) -> [Value; 2] {
    let usage = json!({ "output_tokens": 5, "input_tokens": null });
    [
        json!({ "type": "message_delta", "delta": { "stop_reason": reason }, "usage": usage }),
        json!({ "type": "message_stop" }),
    ]
}

fn block(index: u64, block: &Value, deltas: &[Value]) -> Vec<Value> {
    let start = json!({ "type": "content_block_start", "index": index, "content_block": block });
    let deltas = deltas.iter().map(|delta| json!({ "type": "content_block_delta", "index": index, "delta": delta }));
    [start].into_iter().chain(deltas).chain([json!({ "type": "content_block_stop", "index": index })]).collect()
}

fn words(index: u64, pieces: &[&str]) -> Vec<Value> {
    let deltas: Vec<_> = pieces.iter().map(|text| json!({ "type": "text_delta", "text": text })).collect();
    block(index, &json!({ "type": "text", "text": "" }), &deltas)
}

fn call(index: u64, id: &str, tool: &str, pieces: &[&str]) -> Vec<Value> {
    let deltas: Vec<_> =
        pieces.iter().map(|json| json!({ "type": "input_json_delta", "partial_json": json })).collect();
    block(index, &json!({ "type": "tool_use", "id": id, "name": tool, "input": {} }), &deltas)
}

fn script(events: &[Value]) -> Script {
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    Script::events(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

fn message(blocks: Vec<Vec<Value>>, reason: &str) -> Script {
    let events: Vec<Value> = [start()].into_iter().chain(blocks.into_iter().flatten()).chain(stop(reason)).collect();
    script(&events)
}

fn error(kind: &str) -> String {
    json!({ "type": "error", "error": { "type": kind, "message": "no" } }).to_string()
}

async fn body(fake: &mut Fake) -> Value {
    let request = fake.requests.recv().await.expect("a request");
    serde_json::from_str(request.split_once("\r\n\r\n").expect("a body").1).expect("JSON")
}

#[tokio::test]
async fn text_streams_and_every_token_is_counted_and_priced() {
    let ran = play(vec![message(vec![words(0, &["Hello", " you"])], "end_turn")], &json!({})).await;
    assert_eq!(ran.end.as_ref().expect("success").text, "Hello you");
    assert_eq!((ran.count(EventType::Text), ran.visible().as_str()), (2, "Hello you"));
    let report = ran.usage.expect("told");
    let usage = report.usage;
    assert_eq!((usage.input_tokens, usage.output_tokens, report.incomplete), (135, 5, false));
    assert_eq!((usage.cache_read_tokens, usage.cache_write_tokens), (100, 10));
    assert_eq!((usage.cost_nano_usd, usage.cost_basis.as_deref()), (Some(135 * 4_000 + 5 * 20_000), Some("prices")));
}

#[tokio::test]
async fn the_request_carries_what_the_api_needs_and_marks_what_may_be_cached() {
    let mut fake = Fake::play(vec![message(vec![words(0, &["ok"])], "end_turn")]).await;
    let tool = json!({ "name": "look", "description": "Looks.", "command": ["cat"] });
    let engine = engine(
        &fake,
        &json!({
            "max_tokens": 2_000, "thinking": "enabled", "thinking_budget_tokens": 1_024, "betas": ["a", "b"], "tools": [tool],
        }),
    );
    let attachments =
        vec![AttachmentRef { hash: "h".into(), media_type: "image/png".into(), file_name: None, size: 2 }];
    let content = AttachmentContent { hash: "h".into(), base64: "aGk=".into(), size: 2 };
    let turn = Turn {
        system_prompt: Some("be brief".into()),
        attachments,
        contents: [("h".to_owned(), content)].into(),
        ..turn("what is this?")
    };
    run(&engine, turn, TrialLink::allowing()).await.end.expect("success");
    let request = fake.requests.recv().await.expect("a request");
    let (head, body) = request.split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("POST /v1/messages HTTP/1.1"), "{head}");
    let key = std::env::var(KEY_VARIABLE).expect("PATH");
    for header in ["anthropic-version: 2023-06-01", "anthropic-beta: a,b", &format!("x-api-key: {key}")] {
        assert!(head.contains(header), "{header} in {head}");
    }
    let mark = json!({ "type": "ephemeral" });
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        body,
        json!({
            "model": "claude-trial", "max_tokens": 2_000, "stream": true,
            "thinking": { "type": "enabled", "budget_tokens": 1_024 },
            "system": [{ "type": "text", "text": "be brief", "cache_control": mark }],
            "tools": [{ "name": "look", "description": "Looks.", "input_schema": { "type": "object" }, "cache_control": mark }],
            "messages": [{ "role": "user", "content": [
                { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "aGk=" } },
                { "type": "text", "text": "what is this?", "cache_control": mark },
            ] }],
        })
    );
}

#[tokio::test]
async fn thinking_is_shown_and_goes_back_signed() {
    let deltas = [
        json!({ "type": "thinking_delta", "thinking": "hm" }),
        json!({ "type": "signature_delta", "signature": "sig" }),
    ];
    let thinking = block(0, &json!({ "type": "thinking", "thinking": "", "signature": "" }), &deltas);
    let first = message(vec![thinking, call(1, "t1", "nothing", &[])], "tool_use");
    let mut fake = Fake::play(vec![first, message(vec![words(0, &["done"])], "end_turn")]).await;
    let ran = run(&engine(&fake, &json!({})), turn("hello"), TrialLink::allowing()).await;
    assert_eq!(ran.end.as_ref().expect("success").text, "done");
    assert_eq!(ran.count(EventType::Thinking), 1);
    body(&mut fake).await;
    let second = body(&mut fake).await;
    assert_eq!(
        second["messages"][1]["content"],
        json!([
            { "type": "thinking", "thinking": "hm", "signature": "sig" },
            { "type": "tool_use", "id": "t1", "name": "nothing", "input": {} },
        ])
    );
    let result = &second["messages"][2]["content"][0];
    assert_eq!((&result["tool_use_id"], &result["is_error"]), (&json!("t1"), &json!(true)), "there is no such tool");
    assert_eq!(ran.usage.expect("told").usage.input_tokens, 270, "of both requests");
    assert_eq!(ran.link.remembered().turns, 1);
    assert_eq!(ran.link.remembered().checkpoints.last().expect("a state").content, "", "nothing is left to go on with");
}

#[tokio::test]
async fn a_denied_call_is_told_to_the_model_and_both_calls_are_asked_at_once() {
    let two = message(vec![call(0, "t1", "a", &["{\"x\"", ":1}"]), call(1, "t2", "b", &[])], "tool_use");
    let mut fake = Fake::play(vec![two, message(vec![words(0, &["well"])], "end_turn")]).await;
    let tool = |name: &str| json!({ "name": name, "description": "A tool.", "command": ["true"] });
    let engine = engine(&fake, &json!({ "tools": [tool("a"), tool("b")] }));
    let link = TrialLink::deciding(|call| Decision::Deny { message: format!("not {}", call.tool) });
    let ran = run(&engine, turn("hello"), link).await;
    assert_eq!(ran.end.as_ref().expect("success").text, "well");
    let asked = ran.link.remembered().asked;
    assert_eq!(asked.iter().map(|call| call.id.as_str()).collect::<Vec<_>>(), ["t1", "t2"]);
    assert_eq!(asked[0].input, json!({ "x": 1 }));
    assert!(!ran.link.remembered().kept.is_empty(), "kept before it was asked");
    body(&mut fake).await;
    let results = body(&mut fake).await["messages"][2]["content"].clone();
    assert_eq!((&results[0]["content"], &results[1]["content"]), (&json!("not a"), &json!("not b")));
}

#[tokio::test]
async fn a_denied_call_does_not_run_though_another_has_its_id() {
    let two = message(vec![call(0, "t1", "a", &[]), call(1, "t1", "b", &[])], "tool_use");
    let mut fake = Fake::play(vec![two, message(vec![words(0, &["well"])], "end_turn")]).await;
    let tool = |name: &str| json!({ "name": name, "description": "A tool.", "command": ["true"] });
    let engine = engine(&fake, &json!({ "tools": [tool("a"), tool("b")] }));
    let link = TrialLink::deciding(|call| match call.tool.as_str() {
        "a" => Decision::Allow,
        _ => Decision::Deny { message: "no".to_owned() },
    });
    let ran = run(&engine, turn("hello"), link).await;
    assert_eq!(ran.end.as_ref().expect("success").text, "well");
    let asked = ran.link.remembered().asked;
    assert_eq!(
        asked.iter().map(|call| call.id.as_str()).collect::<Vec<_>>(),
        ["t1", "t1-2"],
        "viewers tell them apart"
    );
    body(&mut fake).await;
    let results = body(&mut fake).await["messages"][2]["content"].clone();
    assert_eq!(
        (&results[0]["tool_use_id"], &results[1]["tool_use_id"]),
        (&json!("t1"), &json!("t1")),
        "as it named them"
    );
    assert_ne!(results[0]["content"], "no");
    assert_eq!(results[1]["content"], "no");
}

#[tokio::test]
async fn a_later_run_goes_on_where_the_last_one_stopped_and_repeats_no_tool() {
    let said =
        json!([{ "type": "text", "text": "I look." }, { "type": "tool_use", "id": "t1", "name": "a", "input": {} }]);
    let mut turn = turn("hello");
    let kept = |started: bool, result: Value| {
        json!({
            "version": 1, "job_id": turn.job_id, "model": "claude-trial",
            "rounds": [{ "said": said, "text": "I look.", "uses": [{
                "call": { "id": "t1", "tool": "a", "input": {} }, "started": started, "result": result,
            }] }],
        })
    };
    let state = |content: Value| errand_common::port::store::EngineState {
        engine: "trial".into(),
        engine_session: String::new(),
        content: content.to_string(),
    };
    let cases =
        [(kept(true, json!({ "content": "42", "is_error": false })), "42"), (kept(true, Value::Null), "not known")];
    for (content, told) in cases {
        let mut fake = Fake::play(vec![message(vec![words(0, &["It is 42."])], "end_turn")]).await;
        turn.state = Some(state(content));
        let ran = run(&engine(&fake, &json!({})), turn.clone(), TrialLink::allowing()).await;
        assert_eq!(ran.end.as_ref().expect("success").text, "I look.\n\nIt is 42.");
        assert_eq!(ran.visible(), "I look.\n\nIt is 42.");
        let result = body(&mut fake).await["messages"][2]["content"][0]["content"].clone();
        assert!(result.as_str().expect("text").contains(told), "{result}");
    }
    turn.state = Some(state(
        json!({ "version": 1, "job_id": errand_common::domain::JobId::new(), "model": "claude-trial", "rounds": [] }),
    ));
    let fake = Fake::play(vec![message(vec![words(0, &["anew"])], "end_turn")]).await;
    let ran = run(&engine(&fake, &json!({})), turn, TrialLink::allowing()).await;
    assert_eq!(ran.end.expect("success").text, "anew", "another task's state is none of this one's");
}

#[tokio::test]
async fn a_turn_that_does_not_end_is_ended_and_its_last_tool_not_run() {
    let again = || message(vec![call(0, "t", "a", &[])], "tool_use");
    let fake = Fake::play(vec![again(), again()]).await;
    let ran = run(&engine(&fake, &json!({})), Turn { max_turns: 2, ..turn("hello") }, TrialLink::allowing()).await;
    assert_eq!((ran.count(EventType::ToolUse), ran.count(EventType::ToolResult)), (2, 1));
    let failure = ran.failure();
    assert_eq!((failure.class, failure.code), (FailureClass::Fatal, code::MAX_TURNS));
}

#[tokio::test]
async fn a_pause_is_no_end() {
    let mut fake = Fake::play(vec![
        message(vec![words(0, &["one "])], "pause_turn"),
        message(vec![words(0, &["two"])], "end_turn"),
    ])
    .await;
    let ran = run(&engine(&fake, &json!({})), turn("hello"), TrialLink::allowing()).await;
    assert_eq!(ran.end.expect("success").text, "one two");
    body(&mut fake).await;
    let messages = body(&mut fake).await["messages"].clone();
    assert_eq!(messages[1], json!({ "role": "assistant", "content": [{ "type": "text", "text": "one " }] }));
}

#[tokio::test]
async fn refusals_and_short_answers_are_called_so() {
    let refused = play(vec![message(vec![words(0, &["I"])], "refusal")], &json!({})).await.failure();
    assert_eq!((refused.class, refused.code), (FailureClass::Fatal, code::CONTENT_FILTERED));
    let short = play(vec![message(vec![words(0, &["cut"])], "max_tokens")], &json!({})).await;
    assert_eq!((short.end.as_ref().expect("success").text.as_str(), short.count(EventType::Progress)), ("cut", 1));
}

#[tokio::test]
async fn errors_have_their_classes_and_cost_nothing() {
    let cases = [
        ("400 Bad Request", "invalid_request_error", FailureClass::Invalid, code::INVALID_REQUEST),
        ("401 Unauthorized", "authentication_error", FailureClass::Auth, code::ENGINE_AUTH),
        ("402 Payment Required", "billing_error", FailureClass::Fatal, code::QUOTA_EXHAUSTED),
        ("429 Too Many Requests", "rate_limit_error", FailureClass::RateLimited, code::RATE_LIMITED),
        ("529 Overloaded", "overloaded_error", FailureClass::Transient, code::EXECUTION_ERROR),
    ];
    for (status, kind, class, code) in cases {
        let ran = play(vec![Script::json(status, &[], &error(kind))], &json!({})).await;
        assert_eq!(ran.usage, None, "{status}");
        let failure = ran.failure();
        assert_eq!((failure.class, failure.code), (class, code), "{status}");
        assert!(!failure.message.contains(&std::env::var(KEY_VARIABLE).expect("PATH")), "the key stays unsaid");
    }
}

#[tokio::test]
async fn what_may_pass_soon_is_asked_again_and_what_takes_longer_is_put_off() {
    let busy = |wait: &str| {
        Script::json("429 Too Many Requests", &[&format!("retry-after: {wait}")], &error("rate_limit_error"))
    };
    let good = || message(vec![words(0, &["ok"])], "end_turn");
    let retrying = json!({ "request_retries": 2 });
    let ran = play(
        vec![busy("0"), Script::json("529 Overloaded", &["retry-after-ms: 1"], &error("overloaded_error")), good()],
        &retrying,
    )
    .await;
    assert_eq!(ran.end.expect("the third time").text, "ok");
    let failure = play(vec![busy("31"), good()], &retrying).await.failure();
    assert_eq!((failure.class, failure.retry_after), (FailureClass::RateLimited, Some(Duration::from_secs(31))));
    let spent = json!({ "type": "error", "error": {
        "type": "rate_limit_error", "message": "no", "details": { "error_code": "enforced_spend_limit_reached" },
    } });
    let failure =
        play(vec![Script::json("429 Too Many Requests", &[], &spent.to_string()), good()], &retrying).await.failure();
    assert_eq!(failure.code, code::QUOTA_EXHAUSTED, "no wait ends that");
    let told = Script::json("500 Internal Server Error", &["x-should-retry: false"], &error("api_error"));
    play(vec![told, good()], &retrying).await.failure();
}

#[tokio::test]
async fn a_broken_answer_is_retracted_and_asked_for_again() {
    let half = || [start()].into_iter().chain(words(0, &["half an"])).collect::<Vec<_>>();
    let overloaded = json!({ "type": "error", "error": { "type": "overloaded_error", "message": "no" } });
    let in_stream: Vec<Value> = half().into_iter().chain([overloaded]).collect();
    let no_stop: Vec<Value> = half().into_iter().chain([stop("end_turn")[0].clone()]).collect();
    let cases = [
        (script(&half()), true),
        (script(&half()).reset(), true),
        (script(&in_stream), true),
        (script(&no_stop), false),
    ];
    for (broken, incomplete) in cases {
        let good = message(vec![words(0, &["whole"])], "end_turn");
        let ran = play(vec![broken, good], &json!({ "request_retries": 1 })).await;
        assert_eq!(ran.end.as_ref().expect("the second time").text, "whole");
        assert_eq!((ran.count(EventType::TextRetracted), ran.visible().as_str()), (1, "whole"));
        let report = ran.usage.expect("known in part");
        assert_eq!((report.incomplete, report.usage.input_tokens), (incomplete, 270), "both began to be paid for");
    }
    let failure = play(vec![script(&half())], &json!({})).await.failure();
    assert_eq!(failure.class, FailureClass::Transient);
}

#[tokio::test]
async fn a_stop_hangs_up() {
    let half: Vec<Value> = [start()].into_iter().chain(words(0, &["first"])).collect();
    let mut fake = Fake::play(vec![script(&half).hang()]).await;
    let engine = engine(&fake, &json!({}));
    let (events, mut heard) = mpsc::channel(16);
    let (_lease, must_end_by) = watch::channel(MonotonicInstant::now().plus(Duration::from_secs(60)));
    let (stop, ledger) = (CancellationToken::new(), Ledger::default());
    let link = Arc::new(TrialLink::allowing());
    let context = TurnContext { events, stop: stop.clone(), must_end_by, ledger: ledger.clone(), link };
    let run = tokio::spawn(async move { engine.run(turn("hello"), context).await });
    heard.recv().await.expect("the first word");
    stop.cancel();
    run.await.expect("no panic").expect_err("stopped");
    fake.gone.recv().await.expect("the server sees the connection closed");
    assert!(ledger.report().expect("something was spent").incomplete);
}
