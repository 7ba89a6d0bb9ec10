//! The client of gateways against a real one.

use std::{sync::Arc, time::Duration};

use errand_common::{
    domain::{JobId, TraceContext},
    telemetry::trace,
};
use errand_tests::{
    fake_openai::{FakeOpenAi, Reply},
    proxy::{self, Proxy},
    real_gateway::{RealGateway, TOKEN},
    run::run_within,
    wait,
};
use errand_worker::gateway::{
    AgentChange, ChatNews, ChatState, Delivered, DevicesInMemory, Gateway, HistoryRequest, Message, NewAgent,
    RunEndStatus, Turn, Unanswered, Undelivered,
    failure::code::{
        ALREADY_EXISTS, AUTH, CONFIG_CHANGED, FILE_CHANGED, KEY_REUSED, LABEL_TAKEN, NOT_PAIRED, UNKNOWN_AGENT,
        UNKNOWN_METHOD, UNSUPPORTED_FILE,
    },
};
use serde_json::json;
use tokio::time::Instant;

use super::{LIMIT, pool, start, target, wanted};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(900)
}

fn message<'a>(key: &'a str, text: &'a str) -> Message<'a> {
    Message { text, key, deliver: false, timeout: None, commands: false, in_doubt: false }
}

fn code<T: std::fmt::Debug>(outcome: Result<T, Unanswered>) -> &'static str {
    match outcome {
        Err(Unanswered::Refused(failure)) => failure.code,
        other => panic!("refused is wanted: {other:?}"),
    }
}

async fn say(turn: &Turn, message: &Message<'_>) -> Delivered {
    turn.deliver(message, soon()).await.unwrap_or_else(|why| panic!("{}: {why:?}", message.key))
}

/// How many messages of users a session holds.
async fn said(gateway: &Gateway, session: &str) -> usize {
    let request = HistoryRequest { limit: 200, offset: 0, max_chars: None };
    let page = gateway.history(session, &request).await.expect("a history");
    page.messages.iter().filter(|row| row["role"] == "user").count()
}

/// Waits for a run's end.
async fn finished(gateway: &Gateway, run_id: &str) -> RunEndStatus {
    gateway.wait_for_run(run_id, Duration::from_secs(120)).await.expect("an answer").status
}

#[test]
fn a_real_gateway_is_served_as_the_fake_is() {
    if !wanted() {
        return;
    }
    run_within(LIMIT, async {
        let model = FakeOpenAi::always(Reply::text(&["heard ", "you"])).await;
        let real = start(&model, false).await;
        let devices = Arc::new(DevicesInMemory::default());
        let pool = pool(&devices);
        let gateway = pool.gateway(&target(&real.url(), Some(TOKEN))).expect("room");
        // As runs ask: each request names the trace that it belongs to.
        let job = JobId::new();
        let asked = async {
            methods(&gateway).await;
            messages(&gateway).await;
        };
        trace::within_run(Some(TraceContext::of_job(job).run(job, 1)), job, asked).await;
        let refused = pool.gateway(&target(&real.url(), Some("wrong-token"))).expect("room");
        assert_eq!(code(refused.status().await), AUTH);
        far_back(&gateway).await;
        cut_after_acceptance(&real, &devices).await;
        restarts(&real, &gateway).await;
    });
}

#[test]
fn a_device_comes_in_also_where_devices_must_be_approved() {
    if !wanted() {
        return;
    }
    run_within(LIMIT, async {
        let model = FakeOpenAi::always(Reply::text(&["heard"])).await;
        let real = start(&model, true).await;
        let devices = Arc::new(DevicesInMemory::default());
        let pool = pool(&devices);
        let gateway = pool.gateway(&target(&real.url(), Some(TOKEN))).expect("room");
        // Newer gateways let a backend with the shared token in from their own machine, paired or not.
        match gateway.status().await {
            Ok(_) => eprintln!("let in without pairing"),
            Err(Unanswered::Refused(failure)) => {
                assert_eq!(failure.code, NOT_PAIRED, "{failure:?}");
                real.approve_devices().await;
                wait::until("it is let in", || async { gateway.status().await.ok() }).await;
            }
            other => panic!("{other:?}"),
        }
        gateway.ensure_session("paired", None).await.expect("with all scopes");
    });
}

async fn methods(gateway: &Gateway) {
    gateway.health().await.expect("health");
    gateway.status().await.expect("status");
    let agents = gateway.agents().await.expect("agents");
    assert!(agents.agents.iter().any(|agent| agent.id == agents.default_id), "{agents:?}");

    let session = gateway.ensure_session("Compat-Methods", Some("compat")).await.expect("a session");
    assert_eq!(session.key, "agent:main:compat-methods");
    assert_eq!(code(gateway.ensure_session("compat-other", Some("compat")).await), LABEL_TAKEN);

    assert_eq!(code(gateway.file("main", "../secret").await), UNSUPPORTED_FILE);
    assert_eq!(code(gateway.file("ghost", "SOUL.md").await), UNKNOWN_AGENT);
    gateway.set_file("main", "SOUL.md", "be kind", None).await.expect("written");
    let soul = gateway.file("main", "SOUL.md").await.expect("read");
    assert_eq!(soul.content.as_deref(), Some("be kind"));
    gateway.set_file("main", "SOUL.md", "be brief", soul.hash.as_deref()).await.expect("over that one");
    assert_eq!(code(gateway.set_file("main", "SOUL.md", "x", soul.hash.as_deref()).await), FILE_CHANGED);
    assert!(gateway.files("main").await.expect("listed").iter().any(|file| file.name == "SOUL.md"));
    assert_eq!(code(gateway.delete_file("main", "SOUL.md").await), UNKNOWN_METHOD);

    let config = gateway.config().await.expect("read");
    assert!(config.config.is_object() && config.hash.is_some());
    let stale = gateway.patch_config(&json!({"ui": {}}), Some("0".repeat(64).as_str())).await;
    assert_eq!(code(stale), CONFIG_CHANGED);

    let new = NewAgent { name: "Compat Lead", workspace: None };
    let made = gateway.create_agent(&new).await.expect("made");
    assert_eq!(made.agent_id, "compat-lead");
    assert_eq!(code(gateway.create_agent(&new).await), ALREADY_EXISTS);
    wait::until("it can be changed", || async {
        gateway.update_agent(&made.agent_id, &AgentChange { name: Some("Lead"), workspace: None }).await.ok()
    })
    .await;
    // On a loaded machine the gateway's own workers are late, and it says that it is not able to; that is no end.
    wait::until("it is removed", || async {
        match gateway.delete_agent(&made.agent_id, false).await {
            Err(unanswered) if unanswered.failure().may_pass() => None,
            Err(unanswered) => {
                assert_eq!(unanswered.failure().code, UNKNOWN_AGENT);
                Some(())
            }
            Ok(()) => Some(()),
        }
    })
    .await;
    assert_eq!(code(gateway.delete_agent(&made.agent_id, false).await), UNKNOWN_AGENT);
    eprintln!("ok: methods");
}

async fn messages(gateway: &Gateway) {
    let session = "agent:main:compat";
    let turn = gateway.turn(session).await;
    let mut watch = gateway.watch(session, Some("compat-1")).await.expect("a seat");
    assert_eq!(say(&turn, &message("compat-1", "hello")).await, Delivered::Answered);
    let text = loop {
        match wait::bounded("the end of a turn", watch.next()).await.expect("news") {
            ChatNews::Event(event) => match event.state {
                ChatState::Final { text } => break text,
                state => assert!(!state.is_end(), "{state:?}"),
            },
            ChatNews::Gap => {}
        }
    };
    assert_eq!(text.as_deref(), Some("heard you"));
    assert_eq!(finished(gateway, "compat-1").await, RunEndStatus::Ok);
    let page = gateway.history(session, &HistoryRequest { limit: 50, offset: 0, max_chars: None }).await.expect("read");
    assert_eq!(page.answer("compat-1").as_deref(), Some("heard you"));

    assert_eq!(say(&turn, &message("compat-1", "hello")).await, Delivered::Answered, "told again that it has it");
    let doubtful = Message { in_doubt: true, ..message("compat-1", "hello") };
    assert_eq!(say(&turn, &doubtful).await, Delivered::Found);
    assert_eq!(said(gateway, session).await, 1);
    match turn.deliver(&message("compat-1", "another text"), soon()).await {
        Err(why) => assert_eq!(why.failure().code, KEY_REUSED),
        Ok(_) => panic!("the key stands for another message"),
    }
    match gateway.turn("agent:ghost:main").await.deliver(&message("compat-ghost", "hello"), soon()).await {
        Err(why) => assert_eq!(why.failure().code, UNKNOWN_AGENT),
        Ok(_) => panic!("there is no such agent"),
    }
    assert_eq!(say(&turn, &message("compat-2", "/status")).await, Delivered::Answered);
    assert_eq!(finished(gateway, "compat-2").await, RunEndStatus::Ok);
    let page = gateway.history(session, &HistoryRequest { limit: 50, offset: 0, max_chars: None }).await.expect("read");
    assert_eq!(page.answer("compat-2").as_deref(), Some("heard you"), "said to the agent, not to the gateway");
    eprintln!("ok: messages");
}

/// Pages begin with the newest rows, and texts are cut without losing what finds them.
async fn far_back(gateway: &Gateway) {
    let session = "agent:main:compat-pages";
    let turn = gateway.turn(session).await;
    let long = "long ".repeat(2_000);
    for number in 0..3 {
        let key = format!("page-{number}");
        say(&turn, &message(&key, &long)).await;
        finished(gateway, &key).await;
    }
    let page = |offset| HistoryRequest { limit: 2, offset, max_chars: Some(64) };
    let newest = gateway.history(session, &page(0)).await.expect("read");
    assert!(newest.has_message("page-2") && !newest.has_message("page-0") && newest.has_more, "{newest:?}");
    let oldest = gateway.history(session, &page(4)).await.expect("read");
    assert!(oldest.has_message("page-0") && !oldest.has_message("page-2") && !oldest.has_more, "{oldest:?}");
    eprintln!("ok: pages");
}

/// The gateway takes the message, and the connection is cut before it can say so.
async fn cut_after_acceptance(real: &RealGateway, devices: &Arc<DevicesInMemory>) {
    let address = real.url().trim_start_matches("ws://").parse().expect("an address");
    let proxy = Proxy::start(address).await.expect("a proxy");
    let pool = pool(devices);
    let gateway = pool.gateway(&target(&format!("ws://{}", proxy.address()), Some(TOKEN))).expect("room");
    let session = "agent:main:compat-cut";
    gateway.status().await.expect("connected");
    let turn = gateway.turn(session).await;
    proxy.set(proxy::Mode::BlackHole(proxy::Direction::Down));
    let cut = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        proxy.set(proxy::Mode::Cut);
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.set(proxy::Mode::Pass);
    };
    let cut_message = message("cut-1", "hello");
    let (delivered, ()) = tokio::join!(say(&turn, &cut_message), cut);
    assert_eq!(delivered, Delivered::Found);
    finished(&gateway, "cut-1").await;
    assert_eq!(said(&gateway, session).await, 1);
    eprintln!("ok: cut after acceptance");
}

/// What was said before the gateway ended is neither lost nor said again.
async fn restarts(real: &RealGateway, gateway: &Gateway) {
    let (_, first_boot) = gateway.identity().await.expect("connected");
    real.restart().await;
    let (_, second_boot) = wait::until("it is back", || async { gateway.identity().await.ok() }).await;
    assert_ne!(first_boot, second_boot);
    let session = "agent:main:compat";
    let before = said(gateway, session).await;
    let turn = gateway.turn(session).await;
    let doubtful = Message { in_doubt: true, ..message("compat-1", "hello") };
    assert_eq!(say(&turn, &doubtful).await, Delivered::Found, "it has forgotten the key, not the message");
    assert_eq!(said(gateway, session).await, before);

    let crash = message("crash-1", "hello");
    let sent = async {
        say(&turn, &crash).await;
    };
    let killed = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        real.crash().await;
    };
    tokio::join!(sent, killed);
    let again = Message { in_doubt: true, ..crash };
    say(&turn, &again).await;
    finished(gateway, "crash-1").await;
    assert_eq!(said(gateway, session).await, before + 1);
    eprintln!("ok: restarts");
    drop(turn);
    for key in ["cut-off-1", "cut-off-2", "cut-off-3"] {
        cut_off(real, gateway, session, key).await;
    }
}

/// Kills the gateway as soon as it has the message: it may have taken it without having said it.
async fn cut_off(real: &RealGateway, gateway: &Gateway, session: &str, key: &str) {
    let before = said(gateway, session).await;
    let turn = gateway.turn(session).await;
    let request = HistoryRequest { limit: 20, offset: 0, max_chars: None };
    let killed = async {
        while !gateway.history(session, &request).await.is_ok_and(|page| page.has_message(key)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        real.crash().await;
    };
    let first = message(key, key);
    let (sent, ()) = tokio::join!(turn.deliver(&first, soon()), killed);
    wait::until("it is back", || async { gateway.identity().await.ok() }).await;
    let page = gateway.history(session, &request).await.expect("a history");
    let was_heard = !page.has_interrupted(key);
    let again = turn.deliver(&Message { in_doubt: true, ..first }, soon()).await;
    eprintln!("{key}: {sent:?}, heard: {was_heard}, then {again:?}");
    let last = match again {
        Ok(_) => key.to_owned(),
        Err(Undelivered::NewOrdinal(_)) => {
            let other = format!("{key}:2");
            say(&turn, &Message { key: &other, ..first }).await;
            other
        }
        Err(why) => panic!("{why:?}"),
    };
    finished(gateway, &last).await;
    assert_eq!(said(gateway, session).await, before + 1, "{key}");
    eprintln!("ok: {key}: one message");
}
