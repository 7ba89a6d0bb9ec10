//! Nudges and messages to leads, from the job to the agent.

use std::time::Duration;

use errand_common::domain::{FailureClass, coordination::agent};
use errand_tests::fake_gateway::Fault;
use serde_json::json;

use super::{Place, World, everywhere, world};

everywhere! {
    async fn a_nudge_is_said_under_its_jobs_key_and_told(place: Place) {
        let world = World::new(place).await;
        let board = world.board("Ops").await;
        let ada = world.agent(board, "Ada").await;
        let worker = world.worker();
        let id = world.nudge(&ada, "look here").await;
        assert_eq!(world.done(id).await, json!({"ok": true}));
        assert_eq!(world.fake.said(&ada.session_key), [(id.to_string(), "look here".to_owned())]);
        assert_eq!(world.fake.requests("sessions.patch"), [json!({"key": ada.session_key, "label": "Ada"})]);
        let sent = json!({
            "sessionKey": ada.session_key, "message": "look here", "deliver": true, "idempotencyKey": id.to_string(),
        });
        assert_eq!(world.fake.requests("chat.send"), [sent]);
        assert_eq!(world.told(id).await, [("agent.nudge.sent".to_owned(), "Nudge sent to Ada.".to_owned())]);
        // The device was made once and is kept, so another worker is the same to the gateway.
        worker.stop().await;
        let worker = world.worker();
        world.done(world.nudge(&ada, "again").await).await;
        let devices: Vec<_> = world.fake.requests("connect").iter().map(|connect| connect["device"]["id"].clone()).collect();
        assert_eq!(devices.len(), 2);
        assert_eq!(devices[0], devices[1]);
        worker.stop().await;
    }

    async fn a_refusal_fails_at_once_with_the_gateways_words(place: Place) {
        let world = World::new(place).await;
        let ada = world.agent(world.board("Ops").await, "Ada").await;
        world.fake.fail("chat.send", [Fault::Refuse(json!({"code": "INVALID_REQUEST", "message": "no such thing"}))]);
        let worker = world.worker();
        let id = world.nudge(&ada, "hi").await;
        let failure = world.failed(id).await;
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Invalid, "GATEWAY_REFUSED"));
        assert_eq!(failure.message, "no such thing");
        assert_eq!(world.told(id).await, [("agent.nudge.failed".to_owned(), "Nudge failed for Ada: no such thing".to_owned())]);
        worker.stop().await;
    }

    async fn a_gateway_that_is_away_is_tried_until_the_window_is_over(place: Place) {
        let world = World::new(place).await;
        let ada = world.agent(world.board("Ops").await, "Ada").await;
        world.fake.set_away(true);
        let worker = world.worker();
        let id = world.submit(world::within(3, world::nudge(&ada, "hi"))).await;
        let failure = world.failed(id).await;
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Transient, "GATEWAY_UNREACHABLE"));
        let begins = "Gateway unreachable after 3 seconds (gateway coordination timeout). Last error: ";
        assert!(failure.message.starts_with(begins), "{}", failure.message);
        let job = world.job(id).await;
        let took = job.finished_at.expect("it ended").since(job.created_at);
        assert!(job.attempt >= 3 && took >= Duration::from_secs(3), "{} attempts in {took:?}", job.attempt);
        // One that comes back in time is spoken to.
        let id = world.nudge(&ada, "hello again").await;
        world.until(id, "a failed attempt", |job| job.attempt > 1).await;
        world.fake.set_away(false);
        world.done(id).await;
        assert_eq!(world.fake.said(&ada.session_key), [(id.to_string(), "hello again".to_owned())]);
        worker.stop().await;
    }

    async fn who_wants_fewer_requests_gets_them_and_no_attempt_is_spent(place: Place) {
        let world = World::new(place).await;
        let ada = world.agent(world.board("Ops").await, "Ada").await;
        world.fake.fail("chat.send", [Fault::rate_limit("chat.send", Duration::from_secs(2))]);
        let worker = world.worker();
        let id = world.submit(world::within(1, world::nudge(&ada, "hi"))).await;
        world.done(id).await;
        let job = world.job(id).await;
        let took = job.finished_at.expect("it ended").since(job.created_at);
        assert!(job.attempt == 1 && took >= Duration::from_secs(2), "attempt {} after {took:?}", job.attempt);
        worker.stop().await;
    }

    async fn a_failure_that_the_gateway_keeps_under_the_key_is_answered_with_another(place: Place) {
        let world = World::new(place).await;
        let ada = world.agent(world.board("Ops").await, "Ada").await;
        let kept = Fault::Refuse(json!({"code": "UNAVAILABLE", "message": "the model is away"}));
        world.fake.fail("chat.send", [kept.clone(), kept]);
        let worker = world.worker();
        let id = world.nudge(&ada, "hi").await;
        world.done(id).await;
        assert_eq!(world.fake.said(&ada.session_key), [(format!("{id}:3"), "hi".to_owned())]);
        worker.stop().await;
    }

    async fn labels_are_for_people_and_stop_nothing(place: Place) {
        let world = World::new(place).await;
        let board = world.board("Ops").await;
        let (first, second) = (world.agent(board, "Ada").await, world.agent(board, "Ada").await);
        let long = world.agent(board, &"ä".repeat(100)).await;
        let worker = world.worker();
        for agent in [&first, &second, &long] {
            world.done(world.nudge(agent, "hi").await).await;
            assert_eq!(world.fake.said(&agent.session_key).len(), 1);
        }
        let labels: Vec<_> = world.fake.requests("sessions.patch").iter().map(|patch| patch["label"].clone()).collect();
        assert_eq!(labels, [json!("Ada"), json!("Ada"), json!(null), json!("ä".repeat(64))]);
        worker.stop().await;
    }

    async fn one_session_hears_one_message_at_a_time_from_all_workers(place: Place) {
        let world = World::new(place).await;
        let ada = world.agent(world.board("Ops").await, "Ada").await;
        let workers = [world.worker(), world.worker()];
        let jobs: Vec<_> = (0..20).map(|number| world::nudge(&ada, &format!("number {number}"))).collect();
        let ids = world::submit(&world.backend, jobs).await;
        for id in &ids {
            world.done(*id).await;
        }
        let mut said: Vec<_> = world.fake.said(&ada.session_key).into_iter().map(|(key, _)| key).collect();
        let mut expected: Vec<_> = ids.iter().map(ToString::to_string).collect();
        said.sort();
        expected.sort();
        assert_eq!(said, expected);
        for worker in workers {
            worker.stop().await;
        }
    }

    async fn three_messages_at_once_to_a_board_without_a_lead_make_one_lead(place: Place) {
        let world = World::new(place).await;
        let board = world.board("Ops").await;
        let workers = [world.worker(), world.worker()];
        let mut ids = Vec::new();
        for number in 0..3 {
            ids.push(world.submit(world::lead_message(world.gateway, board, &format!("question {number}"))).await);
        }
        let mut results = Vec::new();
        for id in &ids {
            results.push(world.done(*id).await);
        }
        let lead = &results[0]["lead_agent_id"];
        for result in &results {
            assert_eq!((&result["ok"], &result["lead_agent_id"]), (&json!(true), lead));
            assert_eq!((&result["board_id"], &result["lead_agent_name"]), (&json!(board), &json!("Lead Agent")));
        }
        assert_eq!(results.iter().filter(|result| result["lead_created"] == json!(true)).count(), 1);
        assert_eq!(world.count("agents.create"), 1, "provisioned once");
        let session = agent::lead_session(board);
        let texts: Vec<_> = world.fake.said(&session).into_iter().map(|(_, text)| text).collect();
        assert!(texts[0].starts_with("Hello Lead Agent."), "woken first: {texts:?}");
        assert_eq!(texts.len(), 4, "{texts:?}");
        for worker in workers {
            worker.stop().await;
        }
    }
}
