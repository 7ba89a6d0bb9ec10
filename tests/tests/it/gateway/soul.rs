//! Souls: the database and the gateway agree.

use std::time::{Duration, Instant};

use errand_common::{
    domain::{FailureClass, JobState, coordination::Agent},
    port::store::NewJob,
    wire::coordination::{SOUL_READ, SOUL_WRITE, SoulPayload},
};
use errand_tests::fake_gateway::Fault;
use serde_json::json;

use super::{Place, World, everywhere, world};

fn soul(kind: &str, agent: &Agent, content: Option<&str>, expected_hash: Option<String>) -> NewJob {
    let payload = SoulPayload {
        agent_id: agent.id,
        board_id: agent.board_id.expect("on a board"),
        content: content.map(str::to_owned),
        expected_hash,
        trace_id: "trace".to_owned(),
        actor_id: None,
    };
    world::job(kind, &payload, None)
}

impl World {
    async fn write_soul(&self, agent: &Agent, content: &str) -> errand_common::domain::JobId {
        self.submit(soul(SOUL_WRITE, agent, Some(content), None)).await
    }

    async fn read_soul(&self, agent: &Agent) -> serde_json::Value {
        self.done(self.submit(soul(SOUL_READ, agent, None, None)).await).await["content"].clone()
    }
}

everywhere! {
    async fn what_is_written_is_in_both_places(place: Place) {
        let world = World::new(place).await;
        let ada = world.agent(world.board("Ops").await, "Ada").await;
        let worker = world.worker();
        let id = world.submit(soul(SOUL_READ, &ada, None, None)).await;
        let failure = world.failed(id).await;
        assert_eq!((failure.code.as_str(), failure.message.as_str()), ("SOUL_MISSING", "the agent has no SOUL.md"));
        let id = world.write_soul(&ada, "be kind").await;
        assert_eq!(world.done(id).await, json!({"ok": true}));
        assert_eq!(world.read_soul(&ada).await, "be kind");
        let kept = world.look(ada.id).await;
        assert_eq!(kept.soul.as_deref(), Some("be kind"));
        let hash = kept.soul_hash.expect("known");
        let wrong = world.submit(soul(SOUL_WRITE, &ada, Some("be bold"), Some("0".repeat(64)))).await;
        let failure = world.failed(wrong).await;
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Invalid, "GATEWAY_FILE_CHANGED"));
        assert_eq!(world.look(ada.id).await.soul.as_deref(), Some("be kind"), "as in the gateway");
        world.done(world.submit(soul(SOUL_WRITE, &ada, Some("be bold"), Some(hash))).await).await;
        assert_eq!(world.read_soul(&ada).await, "be bold");
        worker.stop().await;
    }

    async fn a_gateway_that_wants_fewer_requests_is_left_alone_by_all(place: Place) {
        let world = World::new(place).await;
        let ada = world.agent(world.board("Ops").await, "Ada").await;
        let worker = world.worker();
        world.done(world.write_soul(&ada, "be kind").await).await;
        let pause = Duration::from_secs(3);
        world.fake.fail("agents.files.get", [Fault::rate_limit("agents.files.get", pause)]);
        let read = world.submit(soul(SOUL_READ, &ada, None, None)).await;
        world.until(read, "a pause", |job| job.state == JobState::Scheduled).await;
        let started = Instant::now();
        world.done(world.nudge(&ada, "hi").await).await;
        assert!(started.elapsed() > pause / 2, "not before the pause is over: {:?}", started.elapsed());
        assert_eq!(world.done(read).await["content"], "be kind");
        assert_eq!(world.job(read).await.attempt, 1);
        worker.stop().await;
    }

    async fn a_writing_whose_answer_is_lost_is_found_out(place: Place) {
        let world = World::new(place).await;
        let ada = world.agent(world.board("Ops").await, "Ada").await;
        let worker = world.worker();
        for fault in [Fault::CutAfter, Fault::CutBefore, Fault::HangAfter, Fault::Restart] {
            world.fake.fail("agents.files.set", [fault.clone()]);
            let content = format!("after {fault:?}");
            world.done(world.write_soul(&ada, &content).await).await;
            assert_eq!(world.look(ada.id).await.soul.as_deref(), Some(content.as_str()));
            assert_eq!(world.read_soul(&ada).await, content.as_str());
        }
        worker.stop().await;
    }

    async fn of_many_written_at_once_the_last_is_in_both_places(place: Place) {
        let world = World::new(place).await;
        let ada = world.agent(world.board("Ops").await, "Ada").await;
        let workers = [world.worker(), world.worker()];
        let mut writing = Vec::new();
        for number in 0..12 {
            if number % 4 == 1 {
                world.fake.fail("agents.files.set", [Fault::CutAfter]);
            }
            writing.push(world.write_soul(&ada, &format!("soul {number}")).await);
        }
        for id in writing {
            world.done(id).await;
        }
        let kept = world.look(ada.id).await.soul;
        assert_eq!(world.read_soul(&ada).await.as_str(), kept.as_deref(), "the database says what the gateway has");
        for worker in workers {
            worker.stop().await;
        }
    }
}
