//! A message is said once, whatever goes wrong on the way.

use std::time::Duration;

use errand_common::{config::Resend, domain::FailureClass};
use errand_tests::{
    fake_gateway::{Fault, Options, Turn},
    run::run,
};
use errand_worker::gateway::{
    Delivered, Gateway, Message, Undelivered,
    failure::code::{KEY_REUSED, UNKNOWN_AGENT},
};
use futures::future::join_all;
use rand::seq::IndexedRandom;
use serde_json::json;

use super::{LIMIT, World, soon};

const SESSION: &str = "agent:main:probe";

fn message<'a>(key: &'a str, text: &'a str) -> Message<'a> {
    Message { text, key, deliver: true, timeout: None, commands: false, in_doubt: false }
}

async fn deliver(gateway: &Gateway, message: &Message<'_>, seconds: u64) -> Result<Delivered, Undelivered> {
    gateway.turn(SESSION).await.deliver(message, soon(seconds)).await
}

/// All that can go wrong with one request.
fn faults() -> Vec<Fault> {
    let limit = Duration::from_secs(LIMIT);
    vec![
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::CutInFrame,
        Fault::Hang,
        Fault::HangAfter,
        Fault::Twice,
        Fault::Late(limit * 3 / 2),
        Fault::DoneLate(limit * 3 / 2),
        Fault::Huge(2 << 20),
        Fault::Garbage,
        Fault::Close(1012, "service restart"),
        Fault::Restart,
    ]
}

#[test]
fn it_is_said_once_whatever_goes_wrong() {
    run(async {
        let cases = faults().into_iter().map(|fault| async move {
            let world = World::with(Options::default(), |gateways| gateways.frame_limit_kib = 1_024).await;
            world.fake.fail("chat.send", [fault.clone()]);
            deliver(&world.gateway(), &message("key-1", "hello"), 20)
                .await
                .unwrap_or_else(|why| panic!("{fault:?}: {why:?}"));
            // What is done late is done by now.
            tokio::time::sleep(Duration::from_secs(LIMIT)).await;
            assert_eq!(world.fake.said(SESSION), [("key-1".into(), "hello".into())], "{fault:?}");
            assert_eq!(world.fake.turns_begun(), 1, "the agent hears it once: {fault:?}");
        });
        join_all(cases).await;
    });
}

#[test]
fn it_is_said_once_although_the_history_can_t_be_asked_at_first() {
    run(async {
        let world = World::new().await;
        world.fake.fail("chat.send", [Fault::CutAfter]);
        world.fake.fail("chat.history", [Fault::CutBefore, Fault::busy(), Fault::Hang]);
        let delivered = deliver(&world.gateway(), &message("key-1", "hello"), 30).await;
        assert_eq!(delivered, Ok(Delivered::Found));
        assert_eq!((world.fake.said(SESSION).len(), world.fake.requests("chat.send").len()), (1, 1));
    });
}

#[test]
fn a_gateway_that_does_not_tell_repeats_gets_none() {
    run(async {
        let cases = faults().into_iter().map(|fault| async move {
            let options = Options { deduplicates: false, ..Options::default() };
            let world = World::with(options, |gateways| {
                gateways.frame_limit_kib = 1_024;
                gateways.resend = Resend::Never;
            })
            .await;
            world.fake.fail("chat.send", [fault.clone()]);
            let ended = deliver(&world.gateway(), &message("key-1", "hello"), 10).await;
            tokio::time::sleep(Duration::from_secs(LIMIT)).await;
            let said = world.fake.said(SESSION).len();
            assert_eq!(world.fake.requests("chat.send").len(), 1, "never sent again: {fault:?}");
            match ended {
                Ok(_) => assert_eq!(said, 1, "{fault:?}"),
                // Nothing was said, and nobody could know that.
                Err(Undelivered::Ambiguous(_)) => assert_eq!(said, 0, "{fault:?}"),
                other => panic!("{fault:?}: {other:?}"),
            }
            u32::from(said == 0)
        });
        let lost = join_all(cases).await.into_iter().sum::<u32>();
        assert_eq!(lost, 3, "cut before, hung, and closed before it was done");
    });
}

#[test]
fn whoever_comes_after_a_crash_asks_first() {
    run(async {
        let world = World::new().await;
        let gateway = world.gateway();
        deliver(&gateway, &message("key-1", "hello"), 5).await.expect("delivered");
        // The gateway has forgotten the key, but not the message.
        world.fake.restart();
        let another = world.another_worker(|_| {});
        let token = Options::default().token;
        let gateway = another.gateway(&world.target(token.as_deref(), super::Access::Device)).expect("room");
        let again = Message { in_doubt: true, ..message("key-1", "hello") };
        assert_eq!(deliver(&gateway, &again, 5).await, Ok(Delivered::Found));
        assert_eq!((world.fake.said(SESSION).len(), world.fake.turns_begun()), (1, 1));
        assert!(gateway.look_up(SESSION, "key-1").await.expect("asked"));
        assert!(!gateway.look_up(SESSION, "key-2").await.expect("asked"));
        let new = Message { in_doubt: true, ..message("key-2", "hello again") };
        assert_eq!(deliver(&gateway, &new, 5).await, Ok(Delivered::Answered));
    });
}

/// What was sent may be there: that it is refused now says nothing of the first time.
#[test]
fn a_refusal_after_a_doubt_that_can_t_be_cleared_up_is_ambiguous() {
    run(async {
        let world = World::new().await;
        let forbidden = Fault::Refuse(json!({"code": "FORBIDDEN", "message": "missing scope: operator.read"}));
        let refused = Fault::Refuse(json!({"code": "INVALID_REQUEST", "message": "not now"}));
        world.fake.fail("chat.send", [Fault::CutAfter, refused.clone()]);
        world.fake.fail("chat.history", [forbidden]);
        let ended = deliver(&world.gateway(), &message("key-1", "hello"), 10).await;
        assert!(matches!(ended, Err(Undelivered::Ambiguous(_))), "{ended:?}");
        // Where it was asked, and was not there, a refusal is one.
        world.fake.fail("chat.send", [Fault::CutBefore, refused]);
        let ended = deliver(&world.gateway(), &message("key-2", "hello"), 10).await;
        assert!(matches!(ended, Err(Undelivered::Refused(_))), "{ended:?}");
        assert_eq!(world.fake.said(SESSION).len(), 1);
    });
}

#[test]
fn a_message_far_back_in_the_history_is_found() {
    run(async {
        let world = World::with(Options::default(), |gateways| gateways.history_limit = 500).await;
        let gateway = world.gateway();
        for number in 0..240 {
            let key = format!("key-{number}");
            deliver(&gateway, &message(&key, "hello"), 5).await.expect("delivered");
        }
        assert!(gateway.look_up(SESSION, "key-1").await.expect("asked"), "on the second or third page");
        assert!(world.fake.requests("chat.history").len() > 1);
    });
}

#[test]
fn a_failure_kept_under_the_key_needs_a_new_one() {
    run(async {
        // The answer is lost, the turn fails before the message is written, and the gateway keeps that under the key.
        let world = World::new().await;
        let gateway = world.gateway();
        world.fake.turns([Turn::FailBefore("prepared model runtime was lost".into())]);
        world.fake.fail("chat.send", [Fault::CutAfter]);
        let Err(Undelivered::NewOrdinal(failure)) = deliver(&gateway, &message("key-1", "hello"), 5).await else {
            panic!("a new key is needed");
        };
        assert_eq!(failure.class, FailureClass::Transient);
        assert_eq!(deliver(&gateway, &message("key-1:2", "hello"), 5).await, Ok(Delivered::Answered));
        assert_eq!(world.fake.said(SESSION).len(), 1);

        // The same, but the message was written: it was said, whatever became of the turn.
        let world = World::new().await;
        world.fake.turns([Turn::Fail("the model said no".into())]);
        world.fake.fail("chat.send", [Fault::Late(Duration::from_secs(LIMIT) * 3 / 2)]);
        assert_eq!(deliver(&world.gateway(), &message("key-1", "hello"), 10).await, Ok(Delivered::Found));
        assert_eq!(world.fake.said(SESSION).len(), 1);
    });
}

#[test]
fn a_refusal_is_a_refusal() {
    run(async {
        let world = World::new().await;
        let gateway = world.gateway();
        let turn = gateway.turn("agent:ghost:main").await;
        match turn.deliver(&message("key-1", "hello"), soon(5)).await {
            Err(Undelivered::Refused(failure)) => assert_eq!(failure.code, UNKNOWN_AGENT),
            other => panic!("refused: {other:?}"),
        }
        world.fake.fail("chat.send", [Fault::rate_limit("chat.send", Duration::from_secs(9))]);
        match deliver(&gateway, &message("key-1", "hello"), 5).await {
            Err(Undelivered::Refused(failure)) => assert_eq!(failure.retry_after, Some(Duration::from_secs(9))),
            other => panic!("refused: {other:?}"),
        }
        assert_eq!(world.fake.said_in_all(), 0);
        deliver(&gateway, &message("key-1", "hello"), 5).await.expect("delivered");
        match deliver(&gateway, &message("key-1", "another text"), 5).await {
            Err(Undelivered::Refused(failure)) => assert_eq!(failure.code, KEY_REUSED),
            other => panic!("refused: {other:?}"),
        }
        world.fake.set_away(true);
        world.fake.cut();
        let away = wait_for_refusal(&gateway).await;
        assert!(matches!(away, Undelivered::Refused(ref failure) if failure.may_pass()), "never sent: {away:?}");
        let doubtful = Message { in_doubt: true, ..message("key-9", "hello") };
        let away = deliver(&gateway, &doubtful, LIMIT).await;
        assert!(matches!(away, Err(Undelivered::Doubt(_))), "it may have been sent before: {away:?}");
    });
}

/// The connection takes a moment to be seen as cut.
async fn wait_for_refusal(gateway: &Gateway) -> Undelivered {
    errand_tests::wait::until("it is seen as away", || async {
        deliver(gateway, &message("key-8", "hello"), 1).await.err().filter(|why| matches!(why, Undelivered::Refused(_)))
    })
    .await
}

#[test]
fn a_text_that_looks_like_an_order_is_said() {
    run(async {
        let world = World::with(Options { turn: Duration::from_secs(30), ..Options::default() }, |_| {}).await;
        let gateway = world.gateway();
        deliver(&gateway, &message("key-1", "hello"), 5).await.expect("delivered");
        deliver(&gateway, &message("key-2", "/stop"), 5).await.expect("delivered");
        assert_eq!(world.fake.said(SESSION).len(), 2);
        let order = Message { commands: true, ..message("key-3", "/stop") };
        deliver(&gateway, &order, 5).await.expect("delivered");
        assert_eq!(world.fake.said(SESSION).len(), 2, "that one was an order");
        let sent = world.fake.requests("chat.send");
        assert_eq!(
            sent[0],
            json!({"sessionKey": SESSION, "message": "hello", "deliver": true, "idempotencyKey": "key-1"})
        );
    });
}

/// Four hundred messages to forty sessions over one connection that is cut, hung and restarted under them.
#[test]
fn a_wave_of_messages_through_a_storm_of_faults() {
    run(async {
        const SESSIONS: usize = 40;
        const MESSAGES: usize = 10;
        let world = World::with(Options::default(), |gateways| gateways.frame_limit_kib = 1_024).await;
        let gateway = world.gateway();
        let kinds = faults();
        let storm: Vec<Fault> = (0..SESSIONS * MESSAGES / 8)
            .flat_map(|_| {
                let one = kinds.choose(&mut rand::rng()).expect("one").clone();
                std::iter::repeat_n(Fault::Twice, 5).chain([one])
            })
            .collect();
        world.fake.fail("chat.send", storm);
        let of_session = |session: usize| {
            let gateway = gateway.clone();
            async move {
                let session_key = format!("agent:main:s{session}");
                for number in 0..MESSAGES {
                    let key = format!("{session}-{number}");
                    let turn = gateway.turn(&session_key).await;
                    let mut in_doubt = false;
                    loop {
                        let message = Message { in_doubt, ..message(&key, "hello") };
                        match turn.deliver(&message, soon(10)).await {
                            Ok(_) => break,
                            Err(Undelivered::Refused(failure)) if failure.may_pass() => {
                                tokio::time::sleep(Duration::from_millis(50)).await;
                            }
                            Err(Undelivered::Doubt(_)) => in_doubt = true,
                            Err(other) => panic!("{key}: {other:?}"),
                        }
                    }
                }
            }
        };
        join_all((0..SESSIONS).map(of_session)).await;
        tokio::time::sleep(Duration::from_secs(LIMIT)).await;
        for session in 0..SESSIONS {
            let said = world.fake.said(&format!("agent:main:s{session}"));
            let keys: Vec<_> = said.iter().map(|(key, _)| key.clone()).collect();
            let expected: Vec<_> = (0..MESSAGES).map(|number| format!("{session}-{number}")).collect();
            assert_eq!(keys, expected, "each once, and in order");
        }
    });
}
