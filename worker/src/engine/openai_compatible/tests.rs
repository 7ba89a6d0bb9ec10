use errand_common::domain::{EventType, FailureClass, Message, MessageId, Role, SessionId, Timestamp, UsageReport};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    engine::{
        Ledger, TurnFailure, code,
        server::fake::{Fake, Script},
        trial::{TrialLink, turn},
    },
    guard::MonotonicInstant,
};

fn engine(base_url: &str, more: &Value) -> OpenAiCompatible {
    // Another test may have installed it already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut config = json!({ "base_url": base_url, "model": "trial", "request_retries": 0 });
    config.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let config = serde_json::from_value(config).expect("a configuration");
    OpenAiCompatible::new("trial", &config, PriceTable::default(), Arc::from(Path::new("/proc/self/exe")))
}

/// The end and all events, each as its type and content.
async fn run(engine: &OpenAiCompatible, turn: Turn) -> (Result<TurnEnd, TurnFailure>, Vec<(EventType, String)>) {
    let (end, said, _) = run_accounted(engine, turn).await;
    (end, said)
}

/// As [`run`], with what the run knows that it spent.
async fn run_accounted(
    engine: &OpenAiCompatible,
    turn: Turn,
) -> (Result<TurnEnd, TurnFailure>, Vec<(EventType, String)>, Option<UsageReport>) {
    let (events, mut heard) = mpsc::channel(1024);
    let (_lease, must_end_by) = watch::channel(MonotonicInstant::now().plus(Duration::from_secs(60)));
    let ledger = Ledger::default();
    let context = TurnContext {
        events,
        stop: CancellationToken::new(),
        must_end_by,
        ledger: ledger.clone(),
        link: Arc::new(TrialLink::allowing()),
    };
    let end = engine.run(turn, context).await;
    let mut said = Vec::new();
    while let Some(event) = heard.recv().await {
        let content = event.data.get("content").and_then(Value::as_str).unwrap_or_default();
        said.push((event.kind, content.to_owned()));
    }
    (end, said, ledger.report())
}

async fn account_of(script: Script) -> (Result<TurnEnd, TurnFailure>, Vec<(EventType, String)>, Option<UsageReport>) {
    let fake = Fake::play(vec![script]).await;
    run_accounted(&engine(&fake.base_url, &json!({})), turn("hello")).await
}

async fn answer_to(script: Script) -> (Result<TurnEnd, TurnFailure>, Vec<(EventType, String)>) {
    let fake = Fake::play(vec![script]).await;
    run(&engine(&fake.base_url, &json!({})), turn("hello")).await
}

async fn failure_of(script: Script) -> TurnFailure {
    answer_to(script).await.0.expect_err("a failure")
}

fn text(content: &str) -> String {
    json!({ "model": "trial-1", "choices": [{ "delta": { "content": content }, "finish_reason": null }], "usage": null })
        .to_string()
}

/// A variable that every process has stands in for the one with the key.
const KEY_VARIABLE: &str = "PATH";

fn key() -> String {
    std::env::var(KEY_VARIABLE).expect("PATH")
}

const STOP: &str = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;

#[tokio::test]
async fn text_streams_and_tokens_are_counted() {
    let (end, said, usage) = account_of(Script::events(&[&text("Hello"), &text(" you"), STOP, USAGE, "[DONE]"])).await;
    let usage = usage.expect("the server told").usage;
    let end = end.expect("success");
    assert_eq!((end.text.as_str(), end.model.as_deref()), ("Hello you", Some("trial-1")));
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.cost_nano_usd), (7, 2, None));
    assert_eq!(said, [(EventType::Text, "Hello".into()), (EventType::Text, " you".into())]);
}

#[tokio::test]
async fn the_request_carries_the_conversation() {
    let mut fake = Fake::play(vec![Script::events(&[STOP, "[DONE]"])]).await;
    let engine = engine(&fake.base_url, &json!({ "max_tokens": 5, "api_key_env": KEY_VARIABLE }));
    let message = |role, content: &str| Message {
        id: MessageId::new(),
        session_id: SessionId::new(),
        job_id: None,
        role,
        content: content.to_owned(),
        attachments: vec![],
        ordinal: 1,
        created_at: Timestamp::default(),
    };
    let history = vec![message(Role::User, "first"), message(Role::Assistant, "second")];
    let turn = Turn { system_prompt: Some("be brief".into()), history, ..turn("third") };
    run(&engine, turn).await.0.expect("success");
    let request = fake.requests.recv().await.expect("a request");
    let (head, body) = request.split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1"), "{head}");
    assert!(head.contains(&format!("authorization: Bearer {}", key())), "{head}");
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(
        body,
        json!({
            "model": "trial", "stream": true, "stream_options": { "include_usage": true }, "max_tokens": 5,
            "messages": [
                { "role": "system", "content": "be brief" },
                { "role": "user", "content": "first" },
                { "role": "assistant", "content": "second" },
                { "role": "user", "content": "third" },
            ],
        })
    );
}

#[tokio::test]
async fn characters_cut_by_the_network_stay_whole() {
    let events = format!("data: {}\n\ndata: {STOP}\n\ndata: [DONE]\n\n", text("\u{4f60}\u{597d}\u{1f600}"));
    let script = events.bytes().fold(Script::stream(), |script, byte| script.then([byte]));
    let (end, said) = answer_to(script).await;
    assert_eq!(end.expect("success").text, "\u{4f60}\u{597d}\u{1f600}");
    assert_eq!(said.len(), 1);
}

#[tokio::test]
async fn quirks_of_servers_are_put_up_with() {
    let script = Script::stream()
        .then(": PROCESSING\n\n")
        .then("data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\",\"content\":null}}]}\r\n\r\n")
        .then("data: {\"choices\":[{\"delta\":{\"reasoning\":\"so\"}}],\"unknown\":{\"x\":1}}\n\n")
        .then("event: message\nid: 4\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\\u0000b\"}}]}\n\n")
        .then("data: {\"choices\":null,\"usage\":{\"prompt_tokens\":null}}\n\n")
        .then(format!("data: {STOP}\n\n"));
    let (end, said, usage) = account_of(script).await;
    assert!(usage.is_some_and(|report| report.incomplete), "the server told nothing that can be counted");
    let end = end.expect("a finish reason without [DONE] is an end");
    assert_eq!(end.text, "a\u{FFFD}b");
    let thinking = |text: &str| (EventType::Thinking, text.to_owned());
    assert_eq!(said, [thinking("hm"), thinking("so"), (EventType::Text, "a\u{FFFD}b".into())]);
    let (end, _) = answer_to(Script::events(&[&text("x"), "[DONE]"])).await;
    assert_eq!(end.expect("[DONE] without a finish reason is an end").text, "x");
}

#[tokio::test]
async fn an_answer_in_one_piece_is_taken() {
    let whole = json!({ "choices": [{ "message": { "content": "all at once" }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 1, "completion_tokens": 3 } });
    let (end, said, usage) = account_of(Script::json("200 OK", &[], &whole.to_string())).await;
    assert_eq!(end.expect("success").text, "all at once");
    assert_eq!(usage.expect("the server told").usage.output_tokens, 3);
    assert_eq!(said, [(EventType::Text, "all at once".into())]);
}

#[tokio::test]
async fn a_truncated_answer_is_no_success() {
    let failure = failure_of(Script::events(&[&text("half")])).await;
    assert_eq!(failure.class, FailureClass::Transient);
    assert!(failure.message.contains("cut its answer off"), "{failure}");
}

#[tokio::test]
async fn a_broken_connection_is_transient_unless_the_text_was_complete() {
    let failure = failure_of(Script::events(&[&text("half")]).reset()).await;
    assert_eq!(failure.class, FailureClass::Transient);
    let short = |events: &[&str]| {
        let head = Script::head("200 OK", &["content-type: text/event-stream", "content-length: 100000"]);
        events.iter().fold(head, |script, data| script.then(format!("data: {data}\n\n")))
    };
    let failure = failure_of(short(&[&text("half")])).await;
    assert_eq!(failure.class, FailureClass::Transient);
    assert!(failure.message.contains("broke in the midst"), "{failure}");
    let (end, _) = answer_to(short(&[&text("whole"), STOP])).await;
    assert_eq!(end.expect("the text was complete").text, "whole");
}

#[tokio::test]
async fn an_error_in_the_stream_is_a_failure_of_its_kind() {
    let of = async |error: &str| failure_of(Script::events(&[&text("half"), error])).await;
    let overloaded = of(r#"{"error":{"message":"overloaded","type":"server_error","code":null}}"#).await;
    assert_eq!((overloaded.class, overloaded.message.contains("overloaded")), (FailureClass::Transient, true));
    assert_eq!(
        of(r#"{"error":{"message":"slow","code":"rate_limit_exceeded"}}"#).await.class,
        FailureClass::RateLimited
    );
    assert_eq!(of(r#"{"error":{"message":"slow","code":429}}"#).await.class, FailureClass::RateLimited);
    assert_eq!(of(r#"{"error":{"message":"x","code":"insufficient_quota"}}"#).await.class, FailureClass::Fatal);
    assert_eq!(of(r#"{"error":"just words"}"#).await.class, FailureClass::Transient);
}

#[tokio::test]
async fn a_busy_server_says_when_to_come_again() {
    let body = r#"{"error":{"message":"Rate limit reached","type":"requests","code":"rate_limit_exceeded"}}"#;
    let failure = failure_of(Script::json("429 Too Many Requests", &["retry-after: 3"], body)).await;
    assert_eq!((failure.class, failure.retry_after), (FailureClass::RateLimited, Some(Duration::from_secs(3))));
    assert!(failure.message.contains("429: Rate limit reached"), "{failure}");
}

#[tokio::test]
async fn an_account_without_money_is_not_asked_again() {
    let body = r#"{"error":{"message":"You exceeded your quota","code":"insufficient_quota"}}"#;
    let failure = failure_of(Script::json("429 Too Many Requests", &[], body)).await;
    assert_eq!((failure.class, failure.code), (FailureClass::Fatal, code::QUOTA_EXHAUSTED));
}

#[tokio::test]
async fn a_refused_key_is_named_and_not_told() {
    let error = json!({ "error": format!("bad key {}", key()) }).to_string();
    let fake = Fake::play(vec![Script::json("401 Unauthorized", &[], &error)]).await;
    let engine = engine(&fake.base_url, &json!({ "api_key_env": KEY_VARIABLE }));
    let failure = run(&engine, turn("hello")).await.0.expect_err("refused");
    assert_eq!(failure.class, FailureClass::Auth);
    assert!(failure.message.ends_with("401: bad key ***"), "{failure}");
}

#[tokio::test]
async fn refused_parameters_are_left_out_once() {
    let refuse =
        |message: &str| Script::json("400 Bad Request", &[], &json!({ "error": { "message": message } }).to_string());
    let mut fake = Fake::play(vec![
        refuse("Unrecognized request argument: stream_options"),
        refuse("Unsupported parameter: use 'max_completion_tokens' instead"),
        Script::events(&[&text("ok"), STOP]),
        refuse("stream_options"),
        refuse("stream_options"),
    ])
    .await;
    let engine = engine(&fake.base_url, &json!({ "max_tokens": 5 }));
    assert_eq!(run(&engine, turn("hello")).await.0.expect("success").text, "ok");
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let request = fake.requests.recv().await.expect("a request");
        bodies.push(request.split_once("\r\n\r\n").expect("a body").1.to_owned());
    }
    assert!(bodies[0].contains("stream_options") && bodies[0].contains("\"max_tokens\""));
    assert!(!bodies[1].contains("stream_options") && bodies[1].contains("\"max_tokens\""));
    assert!(bodies[2].contains("\"max_completion_tokens\":5") && !bodies[2].contains("\"max_tokens\""));
    let failure = run(&engine, turn("hello")).await.0.expect_err("refused again");
    assert_eq!(failure.class, FailureClass::Invalid);
}

#[tokio::test]
async fn finish_reasons_are_heeded() {
    let finish = |reason: &str| json!({ "choices": [{ "delta": {}, "finish_reason": reason }] }).to_string();
    let tools = failure_of(Script::events(&[&finish("tool_calls"), "[DONE]"])).await;
    assert_eq!(tools.class, FailureClass::Invalid);
    let filtered = failure_of(Script::events(&[&finish("content_filter"), "[DONE]"])).await;
    assert_eq!(filtered.code, code::CONTENT_FILTERED);
    let (end, said) = answer_to(Script::events(&[&text("cut"), &finish("length"), "[DONE]"])).await;
    assert_eq!(end.expect("success").text, "cut");
    assert_eq!(said.last().map(|(kind, _)| *kind), Some(EventType::Progress));
}

#[tokio::test]
async fn what_is_no_completion_is_called_so() {
    let page = failure_of(Script::head("200 OK", &["content-type: text/html"]).then("<html>")).await;
    assert!(page.message.contains("text/html") && page.message.contains("base_url"), "{page}");
    let garbage = failure_of(Script::events(&["{not json"])).await;
    assert!(garbage.message.contains("JSON"), "{garbage}");
    let moved = failure_of(Script::head("302 Found", &["location: http://example.com/"])).await;
    assert!(moved.class == FailureClass::Invalid && moved.message.contains("base_url"), "{moved}");
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let flood =
        (0..40).fold(Script::stream(), |script, _| script.then(format!("data: {}\n\n", text(&"x".repeat(100)))));
    let endless_line = (0..80).fold(Script::stream().then("data: "), |script, _| script.then(vec![b'x'; 1024]));
    let padded = format!("data: {}\n\n", json!({ "choices": [{ "delta": {} }], "padding": "x".repeat(1_000) }));
    let empty_words = (0..700).fold(Script::stream(), |script, _| script.then(padded.as_str()));
    let empty_calls = (0..40).fold(Script::stream(), |script, index| {
        let call = json!({ "index": index, "id": "c", "function": { "name": "look" } });
        script.then(format!("data: {}\n\n", delta(&json!({ "tool_calls": [call] }))))
    });
    for script in [flood, endless_line, empty_words, empty_calls] {
        let fake = Fake::play(vec![script.hang()]).await;
        let engine = engine(&fake.base_url, &json!({ "answer_limit_kib": 2 }));
        let failure = run(&engine, turn("hello")).await.0.expect_err("too long");
        assert_eq!((failure.class, failure.code), (FailureClass::Fatal, code::OUTPUT_LIMIT), "{failure}");
        assert!(failure.message.contains("2 KiB"), "{failure}");
    }
}

#[tokio::test]
async fn silence_has_its_limits() {
    let fake = Fake::play(vec![Script::default().hang(), Script::events(&[&text("half")]).hang()]).await;
    let engine = engine(&fake.base_url, &json!({ "first_byte_timeout_seconds": 1, "idle_timeout_seconds": 1 }));
    for _ in 0..2 {
        let failure = run(&engine, turn("hello")).await.0.expect_err("silence");
        assert_eq!((failure.class, failure.code), (FailureClass::Transient, code::ENGINE_TIMEOUT), "{failure}");
    }
}

#[tokio::test]
async fn a_stop_hangs_up() {
    let mut fake = Fake::play(vec![Script::events(&[&text("first")]).hang()]).await;
    let engine = engine(&fake.base_url, &json!({}));
    let (events, mut heard) = mpsc::channel(16);
    let (_lease, must_end_by) = watch::channel(MonotonicInstant::now().plus(Duration::from_secs(60)));
    let stop = CancellationToken::new();
    let context = TurnContext {
        events,
        stop: stop.clone(),
        must_end_by,
        ledger: Ledger::default(),
        link: Arc::new(TrialLink::allowing()),
    };
    let run = tokio::spawn(async move { engine.run(turn("hello"), context).await });
    heard.recv().await.expect("the first word");
    stop.cancel();
    run.await.expect("no panic").expect_err("stopped");
    fake.gone.recv().await.expect("the server sees the connection closed");
}

#[tokio::test]
async fn an_engine_that_cannot_run_says_why() {
    let reason = async |engine: &OpenAiCompatible| match engine.availability().await {
        Availability::Available => String::new(),
        Availability::Unavailable(reason) => reason,
    };
    let fake = Fake::play(vec![Script::json("401 Unauthorized", &[], "{}")]).await;
    assert_eq!(reason(&engine(&fake.base_url, &json!({}))).await, "", "any answer will do");
    let keyless = engine(&fake.base_url, &json!({ "api_key_env": "NO_SUCH_VARIABLE_HERE" }));
    assert!(reason(&keyless).await.contains("NO_SUCH_VARIABLE_HERE is not set"));
    assert_eq!(run(&keyless, turn("x")).await.0.expect_err("no key").code, code::ENGINE_UNAVAILABLE);
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        format!("http://{}/v1", listener.local_addr().expect("an address"))
    };
    let absent = engine(&closed, &json!({}));
    assert!(reason(&absent).await.contains("refused"), "{}", reason(&absent).await);
    let failure = run(&absent, turn("x")).await.0.expect_err("nobody there");
    assert_eq!(failure.class, FailureClass::Transient);
    assert!(reason(&engine("ftp://x", &json!({}))).await.contains("http or https"));
}

fn delta(delta: &Value) -> String {
    json!({ "choices": [{ "delta": delta, "finish_reason": null }] }).to_string()
}

const TOOL_CALLS: &str = r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#;

/// With a tool `look` that is not asked about, and whose program is of no account here.
fn with_tool(base_url: &str, more: &Value) -> OpenAiCompatible {
    let tool = json!({ "name": "look", "description": "Looks.", "command": ["/nowhere"], "approval": "never" });
    let mut settings = json!({ "tools": [tool] });
    settings.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    engine(base_url, &settings)
}

async fn body(fake: &mut Fake) -> Value {
    let request = fake.requests.recv().await.expect("a request");
    serde_json::from_str(request.split_once("\r\n\r\n").expect("a body").1).expect("JSON")
}

#[tokio::test]
async fn calls_are_put_together_from_their_fragments_and_answered() {
    let fragment = |fragment: Value| delta(&json!({ "tool_calls": [fragment] }));
    let first = Script::events(&[
        &text("I look."),
        &fragment(
            json!({ "index": 0, "id": "c0", "type": "function", "function": { "name": "look", "arguments": "" } }),
        ),
        &fragment(json!({ "index": 1, "id": "c1", "function": { "name": "look", "arguments": "{\"at\":" } })),
        &fragment(json!({ "index": 0, "function": { "arguments": "{}" } })),
        &fragment(json!({ "index": 1, "function": { "arguments": "2}" } })),
        TOOL_CALLS,
        r#"{"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}"#,
        "[DONE]",
    ]);
    let mut fake = Fake::play(vec![first, Script::events(&[&text("Seen."), STOP, USAGE, "[DONE]"])]).await;
    let (end, said, usage) = run_accounted(&with_tool(&fake.base_url, &json!({})), turn("hello")).await;
    assert_eq!(end.expect("success").text, "I look.\n\nSeen.");
    assert_eq!(said.iter().filter(|(kind, _)| *kind == EventType::ToolResult).count(), 2);
    let usage = usage.expect("told").usage;
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.cache_read_tokens), (17, 4, 4));
    let offered = body(&mut fake).await["tools"].clone();
    assert_eq!((&offered[0]["type"], &offered[0]["function"]["name"]), (&json!("function"), &json!("look")));
    let messages = body(&mut fake).await["messages"].clone();
    let calls = &messages[1]["tool_calls"];
    assert_eq!((&calls[0]["id"], &calls[0]["function"]["arguments"]), (&json!("c0"), &json!("{}")));
    assert_eq!((&calls[1]["id"], &calls[1]["function"]["arguments"]), (&json!("c1"), &json!("{\"at\":2}")));
    for (number, id) in [(2, "c0"), (3, "c1")] {
        assert_eq!((&messages[number]["role"], &messages[number]["tool_call_id"]), (&json!("tool"), &json!(id)));
        assert!(messages[number]["content"].as_str().expect("text").contains("/nowhere"), "its program is missing");
    }
}

#[tokio::test]
async fn calls_without_an_id_an_index_or_text_are_understood() {
    let whole = json!([
        { "function": { "name": "look", "arguments": { "at": 1 } } },
        { "function": { "name": "look", "arguments": "" } },
    ]);
    let first = Script::events(&[&delta(&json!({ "tool_calls": whole })), STOP, "[DONE]"]);
    let mut fake = Fake::play(vec![first, Script::events(&[&text("ok"), STOP, "[DONE]"])]).await;
    run(&with_tool(&fake.base_url, &json!({})), turn("hello")).await.0.expect("success");
    body(&mut fake).await;
    let messages = body(&mut fake).await["messages"].clone();
    assert_eq!(messages[1]["content"], Value::Null);
    let calls = &messages[1]["tool_calls"];
    assert_eq!((&calls[0]["id"], &calls[0]["function"]["arguments"]), (&json!("call_0"), &json!("{\"at\":1}")));
    assert_eq!((&calls[1]["id"], &calls[1]["function"]["arguments"]), (&json!("call_1"), &json!("{}")));
    assert_eq!((&messages[2]["tool_call_id"], &messages[3]["tool_call_id"]), (&json!("call_0"), &json!("call_1")));
}

#[tokio::test]
async fn the_responses_api_is_spoken_where_it_is_asked_for() {
    let event = |kind: &str, more: Value| {
        let mut event = json!({ "type": kind });
        event.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        event.to_string()
    };
    let usage = json!({ "input_tokens": 7, "output_tokens": 3, "input_tokens_details": { "cached_tokens": 2 } });
    let end = |kind: &str| {
        event(
            kind,
            json!({ "response": {
        "model": "big", "usage": usage, "incomplete_details": { "reason": "max_output_tokens" },
        "error": { "code": "server_error", "message": "no" },
    } }),
        )
    };
    let call = json!({ "type": "function_call", "call_id": "c1", "name": "look", "arguments": "{\"at\":1}" });
    let first = Script::events(&[
        &event("response.created", json!({ "response": { "model": "big" } })),
        &event("response.reasoning_summary_text.delta", json!({ "delta": "hm" })),
        &event("response.output_item.done", json!({ "item": call })),
        &end("response.completed"),
    ]);
    let words = event("response.output_text.delta", json!({ "delta": "Seen." }));
    let mut fake = Fake::play(vec![first, Script::events(&[&words, &end("response.completed")])]).await;
    let engine = with_tool(&fake.base_url, &json!({ "api": "responses" }));
    let (ended, said, account) =
        run_accounted(&engine, Turn { system_prompt: Some("brief".into()), ..turn("hello") }).await;
    let ended = ended.expect("success");
    assert_eq!((ended.text.as_str(), ended.model.as_deref()), ("Seen.", Some("big")));
    assert_eq!(said[0], (EventType::Thinking, "hm".into()));
    let account = account.expect("told");
    assert_eq!((account.incomplete, account.usage.input_tokens, account.usage.cache_read_tokens), (false, 14, 4));
    let request = body(&mut fake).await;
    assert_eq!((&request["instructions"], &request["store"]), (&json!("brief"), &json!(false)));
    let input = body(&mut fake).await["input"].clone();
    assert_eq!(input[1], call);
    assert_eq!((&input[2]["type"], &input[2]["call_id"]), (&json!("function_call_output"), &json!("c1")));

    let answer = async |events: &[&str]| {
        let fake = Fake::play(vec![Script::events(events)]).await;
        run(&with_tool(&fake.base_url, &json!({ "api": "responses" })), turn("hello")).await
    };
    let (short, said) = answer(&[&words, &end("response.incomplete")]).await;
    assert_eq!(short.expect("success").text, "Seen.");
    assert_eq!(said.last().map(|(kind, _)| *kind), Some(EventType::Progress));
    let failed = answer(&[&words, &end("response.failed")]).await.0.expect_err("failed");
    assert_eq!(failed.class, FailureClass::Transient);
    let cut = answer(&[&words]).await.0.expect_err("cut off");
    assert!(cut.message.contains("cut its answer off"), "{cut}");
}
