use errand_common::domain::{Message, MessageId, Role, SessionId, Timestamp, UsageReport};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use errand_common::domain::{EventType, FailureClass};

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
    for script in [flood, endless_line] {
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
