//! The engine `openclaw`: a task runs on an agent of a gateway.

use std::{sync::Arc, time::Duration};

use errand_common::{
    config::{Engine, OpenClawEngine},
    domain::{EventType, JobId, JobState, RetryPolicy, Stream},
    port::store::{CancelRequest, NewJob},
};
use errand_tests::{
    fake_gateway::{Options, Turn},
    wait,
};
use serde_json::json;

use super::{
    Place, World, everywhere,
    world::{self, TENANT},
};

impl World {
    /// With an engine that is the gateway's agent `main`.
    async fn with_engine(place: Place, turn: Duration) -> Self {
        let mut world = Self::with(place, Options { turn, ..Options::default() }, |_| {}).await;
        let agent = OpenClawEngine {
            gateway: world.gateway.to_string(),
            agent: "main".to_owned(),
            queue: "default".to_owned(),
            max_concurrency: None,
            per_tenant_concurrency: None,
        };
        let mut config = (*world.config).clone();
        config.engines.table.insert("agent".to_owned(), Engine::Openclaw(agent));
        world.config = Arc::new(config);
        world
    }

    async fn task(&self, prompt: &str) -> JobId {
        let payload = json!({"prompt": prompt, "engineType": "agent"});
        let retry = RetryPolicy { base_ms: 1, ..RetryPolicy::TASK };
        self.submit(NewJob { retry, coordination: None, ..world::job("task", &payload, None) }).await
    }

    /// What the agent heard of a task.
    fn heard(&self, id: JobId) -> Vec<(String, String)> {
        self.fake.said(&format!("agent:main:errand-{id}"))
    }

    async fn shown(&self, id: JobId) -> String {
        let events = self.backend.store.events(Stream::Job(id), 0, 1_000).await.expect("a store");
        let mut text = String::new();
        for event in events {
            match event.kind {
                EventType::Text => text.push_str(event.data["content"].as_str().unwrap_or_default()),
                EventType::TextRetracted => text.clear(),
                _ => {}
            }
        }
        text
    }
}

everywhere! {
    async fn a_prompt_is_answered_by_the_agent(place: Place) {
        let world = World::with_engine(place, Duration::from_millis(50)).await;
        let worker = world.worker();
        let id = world.task("what now?").await;
        assert_eq!(world.done(id).await["summary"], "heard: what now?");
        assert_eq!(world.shown(id).await, "heard: what now?");
        assert_eq!(world.heard(id), [(id.to_string(), "what now?".to_owned())]);
        worker.stop().await;
    }

    async fn a_run_that_takes_over_listens_and_says_nothing_again(place: Place) {
        let world = World::with_engine(place, Duration::from_secs(8)).await;
        let worker = world.worker();
        let id = world.task("take your time").await;
        wait::until("the agent has heard it", || async { (!world.heard(id).is_empty()).then_some(()) }).await;
        worker.kill().await;
        let worker = world.worker();
        assert_eq!(world.done(id).await["summary"], "heard: take your time");
        assert_eq!((world.heard(id).len(), world.fake.turns_begun()), (1, 1));
        assert_eq!(world.shown(id).await, "heard: take your time");
        worker.stop().await;
    }

    async fn a_cancelled_task_stops_its_agent(place: Place) {
        let world = World::with_engine(place, Duration::from_secs(60)).await;
        let worker = world.worker();
        let id = world.task("for ever").await;
        wait::until("the agent has heard it", || async { (!world.heard(id).is_empty()).then_some(()) }).await;
        let request = CancelRequest {
            tenant: TENANT.to_owned(),
            id,
            code: "USER_CANCEL".to_owned(),
            message: "cancelled".to_owned(),
            now: world.backend.clock.now(),
        };
        let (_, consequences) = world.backend.store.cancel(request).await.expect("a store").expect("a job");
        world.backend.dispatch(consequences).await;
        wait::until("the agent is stopped", || async { (world.count("chat.abort") > 0).then_some(()) }).await;
        assert_eq!(world.job(id).await.state, JobState::Cancelled);
        worker.stop().await;
    }

    async fn a_turn_that_failed_is_asked_again_under_another_key(place: Place) {
        let world = World::with_engine(place, Duration::from_millis(50)).await;
        world.fake.turns([Turn::Fail("prepared model runtime plugin generation was superseded".to_owned())]);
        let worker = world.worker();
        let id = world.task("again").await;
        assert_eq!(world.done(id).await["summary"], "heard: again");
        assert_eq!(world.job(id).await.attempt, 2);
        let keys: Vec<_> = world.heard(id).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [id.to_string(), format!("{id}:2")]);
        worker.stop().await;
    }

    async fn a_gateway_that_crashes_in_mid_turn_is_asked_again(place: Place) {
        let world = World::with_engine(place, Duration::from_secs(2)).await;
        let worker = world.worker();
        let id = world.task("hold on").await;
        wait::until("the agent has heard it", || async { (!world.heard(id).is_empty()).then_some(()) }).await;
        world.fake.crash();
        assert_eq!(world.done(id).await["summary"], "heard: hold on");
        worker.stop().await;
    }

    async fn another_tenants_task_reaches_no_gateway(place: Place) {
        let world = World::with_engine(place, Duration::from_millis(50)).await;
        let worker = world.worker();
        let payload = json!({"prompt": "let me in", "engineType": "agent"});
        let job = NewJob { tenant: "other".to_owned(), coordination: None, ..world::job("task", &payload, None) };
        let id = world.submit(job).await;
        let ended = wait::until("the end", || async {
            let job = world.backend.store.job("other", id).await.expect("a store").expect("a job");
            job.state.is_terminal().then_some(job)
        })
        .await;
        assert_eq!(ended.failure.map(|failure| failure.code).as_deref(), Some("ENGINE_UNAVAILABLE"));
        assert_eq!(world.fake.connections(), 0);
        worker.stop().await;
    }
}
