//! Every request ends as answered, refused or in doubt, whatever goes wrong.

use std::time::Duration;

use errand_common::domain::FailureClass;
use errand_tests::{
    fake_gateway::{Fault, Options},
    run::run,
    wait,
};
use errand_worker::gateway::{
    AgentChange, Gateway, NewAgent, RunEndStatus, Unanswered,
    failure::code::{
        ALREADY_EXISTS, BAD_ANSWER, BUSY, CLOSED, CONFIG_CHANGED, FILE_CHANGED, LABEL_TAKEN, RATE_LIMITED, REFUSED,
        RESTARTING, TIMEOUT, TOO_LARGE, UNKNOWN_AGENT, UNKNOWN_METHOD, UNSUPPORTED_FILE, WORKER_BUSY,
    },
};
use serde_json::json;

use super::{LIMIT, World};

/// What became of a request, and how often it was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    Answered,
    Refused(&'static str),
    Doubt(&'static str),
}

async fn make_session(gateway: &Gateway) -> Ended {
    match gateway.ensure_session("agent:main:probe", Some("Probe")).await {
        Ok(_) => Ended::Answered,
        Err(Unanswered::Refused(failure)) => Ended::Refused(failure.code),
        Err(Unanswered::Doubt(failure)) => Ended::Doubt(failure.code),
    }
}

#[test]
fn each_fault_lands_where_it_belongs() {
    run(async {
        let limit = Duration::from_secs(LIMIT);
        let broken = Fault::Refuse(json!({"code": "INVALID_REQUEST", "message": "no"}));
        for (fault, expected) in [
            (Fault::CutBefore, Ended::Doubt(CLOSED)),
            (Fault::CutAfter, Ended::Doubt(CLOSED)),
            (Fault::CutInFrame, Ended::Doubt(CLOSED)),
            (Fault::Hang, Ended::Doubt(TIMEOUT)),
            (Fault::HangAfter, Ended::Doubt(TIMEOUT)),
            (Fault::Twice, Ended::Answered),
            (Fault::Late(limit / 8), Ended::Answered),
            (Fault::Late(limit * 2), Ended::Doubt(TIMEOUT)),
            (Fault::DoneLate(limit * 2), Ended::Doubt(TIMEOUT)),
            (broken, Ended::Refused(REFUSED)),
            (Fault::busy(), Ended::Refused(BUSY)),
            (Fault::rate_limit("sessions.patch", limit * 7), Ended::Refused(RATE_LIMITED)),
            (Fault::Huge(2 << 20), Ended::Doubt(TOO_LARGE)),
            (Fault::Garbage, Ended::Doubt(TIMEOUT)),
            (Fault::Answer(json!(["no", "session"])), Ended::Doubt(BAD_ANSWER)),
            (Fault::Close(1012, "service restart"), Ended::Doubt(RESTARTING)),
            (Fault::Restart, Ended::Doubt(RESTARTING)),
        ] {
            let world = World::with(Options::default(), |gateways| gateways.frame_limit_kib = 1_024).await;
            let gateway = world.gateway();
            world.fake.fail("sessions.patch", [fault.clone()]);
            assert_eq!(make_session(&gateway).await, expected, "{fault:?}");
            assert_eq!(world.fake.requests("sessions.patch").len(), 1, "nothing is sent again by itself: {fault:?}");
            // And whatever it was, the next request is none the worse.
            wait::until(format!("it works again after {fault:?}"), || async {
                (make_session(&gateway).await == Ended::Answered).then_some(())
            })
            .await;
        }
    });
}

#[test]
fn a_delay_that_the_gateway_asks_for_is_told() {
    run(async {
        let world = World::new().await;
        let pause = Duration::from_secs(48);
        world.fake.fail("status", [Fault::rate_limit("status", pause)]);
        match world.gateway().status().await {
            Err(Unanswered::Refused(failure)) => {
                assert_eq!((failure.class, failure.retry_after), (FailureClass::RateLimited, Some(pause)));
            }
            other => panic!("refused: {other:?}"),
        }
    });
}

#[test]
fn late_and_doubled_replies_disturb_nobody() {
    run(async {
        let world = World::new().await;
        let gateway = world.gateway();
        let late = Fault::Late(Duration::from_secs(LIMIT) * 5 / 4);
        world.fake.fail("status", [late, Fault::Twice, Fault::Twice]);
        assert!(matches!(gateway.status().await, Err(Unanswered::Doubt(_))));
        for _ in 0..50 {
            gateway.status().await.expect("its own answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(world.fake.connections(), 1);
    });
}

#[test]
fn what_waits_for_its_turn_in_vain_was_never_sent() {
    run(async {
        let world = World::with(Options::default(), |gateways| gateways.max_in_flight = 1).await;
        let gateway = world.gateway();
        let long = gateway.wait_for_run("nobody", Duration::from_secs(LIMIT * 2));
        let second = async {
            wait::until("the first is on its way", || async {
                (world.fake.requests("agent.wait").len() == 1).then_some(())
            })
            .await;
            gateway.status().await
        };
        let (first, second) = tokio::join!(long, second);
        assert_eq!(first.expect("answered").status, RunEndStatus::Unknown);
        match second {
            Err(Unanswered::Refused(failure)) => assert_eq!(failure.code, WORKER_BUSY),
            other => panic!("refused: {other:?}"),
        }
        assert!(world.fake.requests("status").is_empty());
    });
}

#[test]
fn a_frame_that_the_gateway_would_not_take_is_not_sent() {
    run(async {
        let world = World::with(Options::default(), |gateways| gateways.frame_limit_kib = 64).await;
        let gateway = world.gateway();
        match gateway.set_file("main", "SOUL.md", &"x".repeat(70_000), None).await {
            Err(Unanswered::Refused(failure)) => {
                assert_eq!((failure.class, failure.code), (FailureClass::Invalid, TOO_LARGE));
            }
            other => panic!("refused: {other:?}"),
        }
        gateway.status().await.expect("the connection is none the worse");
        assert_eq!(world.fake.connections(), 1);
    });
}

#[test]
fn a_run_of_requests_that_is_dropped_leaves_nothing_behind() {
    run(async {
        let world = World::with(Options::default(), |gateways| gateways.max_in_flight = 2).await;
        let gateway = world.gateway();
        gateway.status().await.expect("connected");
        world.fake.fail("status", vec![Fault::Hang; 20]);
        for _ in 0..20 {
            let dropped = tokio::time::timeout(Duration::from_millis(10), gateway.status()).await;
            assert!(dropped.is_err());
        }
        gateway.health().await.expect("there is room");
    });
}

fn code(outcome: Result<(), Unanswered>) -> &'static str {
    match outcome {
        Err(Unanswered::Refused(failure)) => failure.code,
        other => panic!("refused: {other:?}"),
    }
}

#[test]
fn agents_and_their_files() {
    run(async {
        let world = World::new().await;
        let gateway = world.gateway();
        let lead = NewAgent { name: "lead-1", workspace: Some("/boards/lead-1") };
        let id = gateway.create_agent(&lead).await.expect("made").agent_id;
        assert_eq!(code(gateway.create_agent(&lead).await.map(drop)), ALREADY_EXISTS);
        let change = AgentChange { name: Some("Lead"), workspace: None };
        gateway.update_agent(&id, &change).await.expect("changed");
        assert_eq!(code(gateway.update_agent("ghost", &change).await), UNKNOWN_AGENT);
        let agents = gateway.agents().await.expect("listed").agents;
        let lead = agents.iter().find(|agent| agent.id == id).expect("listed");
        assert_eq!((lead.name.as_deref(), lead.workspace.as_deref()), (Some("Lead"), Some("/boards/lead-1")));

        assert!(gateway.file(&id, "SOUL.md").await.expect("read").missing);
        gateway.set_file(&id, "SOUL.md", "be kind", None).await.expect("written");
        let soul = gateway.file(&id, "SOUL.md").await.expect("read");
        assert_eq!(soul.content.as_deref(), Some("be kind"));
        gateway.set_file(&id, "SOUL.md", "be brief", soul.hash.as_deref()).await.expect("over that one");
        assert_eq!(code(gateway.set_file(&id, "SOUL.md", "x", soul.hash.as_deref()).await), FILE_CHANGED);
        assert_eq!(code(gateway.file(&id, "../secret").await.map(drop)), UNSUPPORTED_FILE);
        let present: Vec<String> = gateway
            .files(&id)
            .await
            .expect("listed")
            .into_iter()
            .filter(|file| file.missing == Some(false))
            .map(|file| file.name)
            .collect();
        assert_eq!(present, ["SOUL.md"]);
        assert_eq!(code(gateway.delete_file(&id, "SOUL.md").await), UNKNOWN_METHOD);
        gateway.delete_agent(&id, true).await.expect("removed");
        assert_eq!(code(gateway.delete_agent(&id, true).await), UNKNOWN_AGENT);
    });
}

#[test]
fn sessions_and_configuration() {
    run(async {
        let world = World::with(Options { config_restarts: true, ..Options::default() }, |_| {}).await;
        let gateway = world.gateway();
        let session = gateway.ensure_session("Probe", Some(" Probe ")).await.expect("made");
        assert_eq!(session.key, "agent:main:probe");
        assert_eq!(code(gateway.ensure_session("other", Some("Probe")).await.map(drop)), LABEL_TAKEN);
        gateway.reset_session("probe").await.expect("emptied");
        assert_eq!(gateway.sessions(10).await.expect("listed")["sessions"].as_array().map(Vec::len), Some(1));
        gateway.delete_session("probe").await.expect("removed");

        let before = gateway.config().await.expect("read");
        let boot_id = world.fake.boot_id();
        let patch = json!({"tools": {"exec": {"host": "gateway"}}});
        gateway.patch_config(&patch, before.hash.as_deref()).await.expect("merged");
        wait::until("the gateway has restarted", || async { (world.fake.boot_id() != boot_id).then_some(()) }).await;
        let after = wait::until("it is back", || async { gateway.config().await.ok() }).await;
        assert_eq!(after.config["tools"]["exec"]["host"], "gateway");
        assert_eq!(code(gateway.patch_config(&patch, before.hash.as_deref()).await), CONFIG_CHANGED);
        let (_, met) = gateway.identity().await.expect("connected");
        assert_eq!(met, world.fake.boot_id());
    });
}

#[test]
fn the_gateways_own_limit_of_writes_is_told_with_its_delay() {
    run(async {
        let world = World::with(Options { writes_per_minute: 3, ..Options::default() }, |_| {}).await;
        let gateway = world.gateway();
        for number in 0..3 {
            let name = format!("agent-{number}");
            gateway.create_agent(&NewAgent { name: &name, workspace: None }).await.expect("made");
        }
        match gateway.create_agent(&NewAgent { name: "one-more", workspace: None }).await {
            Err(Unanswered::Refused(failure)) => {
                assert_eq!(
                    (failure.class, failure.retry_after),
                    (FailureClass::RateLimited, Some(Duration::from_secs(60)))
                );
            }
            other => panic!("refused: {other:?}"),
        }
    });
}
