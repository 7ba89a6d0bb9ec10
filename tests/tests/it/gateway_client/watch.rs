//! What agents say is heard, and what may have been missed is told.

use std::time::Duration;

use errand_tests::{
    fake_gateway::{Options, Turn},
    run::run,
    wait,
};
use errand_worker::gateway::{
    ChatNews, ChatState, Gateway, HistoryRequest, Message, RunEndStatus, Watch, failure::code::SUPERSEDED,
};
use tokio::time::{Instant, timeout};

use super::{World, soon};

const SESSION: &str = "agent:main:probe";

fn message<'a>(key: &'a str, text: &'a str) -> Message<'a> {
    Message { text, key, deliver: false, timeout: None, commands: false, in_doubt: false }
}

/// All news up to the end of a run; gaps are counted.
async fn to_the_end(watch: &mut Watch) -> (Vec<ChatState>, usize) {
    let (mut states, mut gaps) = (Vec::new(), 0);
    loop {
        match wait::bounded("news", watch.next()).await.expect("news") {
            ChatNews::Gap => gaps += 1,
            ChatNews::Event(event) => {
                let over = event.state.is_end();
                states.push(event.state);
                if over {
                    return (states, gaps);
                }
            }
        }
    }
}

async fn nothing_more(watch: &mut Watch) {
    let more = timeout(Duration::from_millis(300), watch.next()).await;
    assert!(more.is_err(), "{more:?}");
}

async fn say(gateway: &Gateway, key: &str, text: &str) {
    gateway.turn(SESSION).await.deliver(&message(key, text), soon(5)).await.expect("delivered");
}

#[test]
fn a_run_is_heard_from_its_beginning_to_its_end() {
    run(async {
        let world = World::new().await;
        let gateway = world.gateway();
        let mut watch = gateway.watch(SESSION, Some("key-1")).await.expect("a seat");
        let mut other = gateway.watch("agent:main:other", None).await.expect("a seat");
        say(&gateway, "key-1", "hello").await;
        let (states, gaps) = to_the_end(&mut watch).await;
        assert_eq!(gaps, 0);
        assert!(states.iter().any(|state| matches!(state, ChatState::Delta { text, .. } if text == "heard: hello")));
        assert_eq!(states.last(), Some(&ChatState::Final { text: Some("heard: hello".into()) }));
        nothing_more(&mut other).await;
        let page = gateway.history(SESSION, &HistoryRequest { limit: 10, offset: 0, max_chars: None }).await;
        assert_eq!(page.expect("read").answer("key-1").as_deref(), Some("heard: hello"));
        let end = gateway.wait_for_run("key-1", Duration::from_secs(1)).await.expect("answered");
        assert_eq!(end.status, RunEndStatus::Ok);
    });
}

#[test]
fn a_failed_run_ends_once() {
    run(async {
        let world = World::new().await;
        let gateway = world.gateway();
        world.fake.turns([Turn::Fail("prepared model runtime plugin generation was superseded".into())]);
        let mut watch = gateway.watch(SESSION, Some("key-1")).await.expect("a seat");
        say(&gateway, "key-1", "hello").await;
        let (states, _) = to_the_end(&mut watch).await;
        assert!(
            matches!(states.last(), Some(ChatState::Error { failure, .. }) if failure.code == SUPERSEDED),
            "{states:?}"
        );
        nothing_more(&mut watch).await;
    });
}

#[test]
fn a_run_goes_on_over_a_new_connection_and_the_gap_is_told() {
    run(async {
        let world = World::with(Options { turn: Duration::from_secs(5), ..Options::default() }, |_| {}).await;
        let gateway = world.gateway();
        let mut watch = gateway.watch(SESSION, Some("key-1")).await.expect("a seat");
        say(&gateway, "key-1", "hello").await;
        world.fake.cut();
        let (states, gaps) = to_the_end(&mut watch).await;
        assert!(gaps >= 1, "a gap is told");
        assert_eq!(states.last(), Some(&ChatState::Final { text: Some("heard: hello".into()) }));
        assert_eq!(world.fake.connections(), 2);
    });
}

#[test]
fn dropped_news_are_told_as_a_gap() {
    run(async {
        let world = World::with(Options { turn: Duration::from_millis(300), ..Options::default() }, |_| {}).await;
        let gateway = world.gateway();
        let mut watch = gateway.watch(SESSION, Some("key-1")).await.expect("a seat");
        say(&gateway, "key-1", "hello").await;
        wait::bounded("the first news", watch.next()).await.expect("news");
        world.fake.lose_events(1);
        let (states, gaps) = to_the_end(&mut watch).await;
        assert!(gaps >= 1, "{states:?}");
        assert!(!states.iter().any(|state| matches!(state, ChatState::Delta { .. })), "it was lost: {states:?}");
    });
}

#[test]
fn an_abort_is_an_end() {
    run(async {
        let world = World::with(Options { turn: Duration::from_secs(60), ..Options::default() }, |_| {}).await;
        let gateway = world.gateway();
        let mut watch = gateway.watch(SESSION, Some("key-1")).await.expect("a seat");
        say(&gateway, "key-1", "hello").await;
        let aborted = gateway.abort(SESSION, Some("key-1")).await.expect("answered");
        assert_eq!((aborted.aborted, aborted.run_ids), (true, vec!["key-1".to_owned()]));
        let (states, _) = to_the_end(&mut watch).await;
        assert!(matches!(states.last(), Some(ChatState::Aborted { stop_reason, .. }) if stop_reason == "rpc"));
        assert!(!gateway.abort(SESSION, Some("key-1")).await.expect("answered").aborted, "no error");
    });
}

/// A worker that holds its turn to the end gets an answer for each message; one that does not gets them merged.
#[test]
fn turns_that_are_held_keep_answers_apart() {
    run(async {
        let world = World::with(Options { turn: Duration::from_millis(100), ..Options::default() }, |_| {}).await;
        let gateway = world.gateway();
        let whole_turn = |key: &'static str, text: &'static str| {
            let gateway = gateway.clone();
            async move {
                let mut watch = gateway.watch(SESSION, Some(key)).await.expect("a seat");
                let turn = gateway.turn(SESSION).await;
                turn.deliver(&message(key, text), soon(5)).await.expect("delivered");
                let (states, _) = to_the_end(&mut watch).await;
                drop(turn);
                states.last().cloned()
            }
        };
        let (first, second) = tokio::join!(whole_turn("key-1", "one"), whole_turn("key-2", "two"));
        let answer = |text: &str| Some(ChatState::Final { text: Some(text.to_owned()) });
        assert_eq!((first, second), (answer("heard: one"), answer("heard: two")));

        let mut watch = gateway.watch(SESSION, Some("key-4")).await.expect("a seat");
        say(&gateway, "key-3", "three").await;
        say(&gateway, "key-4", "four").await;
        assert_eq!(to_the_end(&mut watch).await.0.last(), Some(&ChatState::Final { text: None }), "merged");
    });
}

#[test]
fn a_watch_that_is_dropped_is_told_to_the_gateway() {
    run(async {
        let world = World::new().await;
        let gateway = world.gateway();
        let (first, second) = (gateway.watch(SESSION, None).await, gateway.watch(SESSION, Some("x")).await);
        drop(first);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(world.fake.requests("sessions.messages.unsubscribe").is_empty(), "somebody watches it still");
        drop(second);
        wait::until("the gateway is told", || async {
            (world.fake.requests("sessions.messages.unsubscribe").len() == 1).then_some(())
        })
        .await;
    });
}

#[test]
fn a_watch_waits_for_a_gateway_that_restarts() {
    run(async {
        let world = World::new().await;
        let gateway = world.gateway();
        let mut watch = gateway.watch(SESSION, None).await.expect("a seat");
        world.fake.set_away(true);
        world.fake.restart();
        let started = Instant::now();
        let back = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            world.fake.set_away(false);
        };
        let (news, ()) = tokio::join!(wait::bounded("news", watch.next()), back);
        assert_eq!(news, Ok(ChatNews::Gap));
        assert!(started.elapsed() >= Duration::from_millis(500));
        say(&gateway, "key-1", "hello").await;
        let (states, _) = to_the_end(&mut watch).await;
        assert!(matches!(states.last(), Some(ChatState::Final { .. })));
    });
}
