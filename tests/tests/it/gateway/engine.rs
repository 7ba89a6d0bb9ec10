//! The engine `openclaw`: a task runs on an agent of a gateway.

use std::{sync::Arc, time::Duration};

use errand_common::{
    config::{Config, Engine, OpenClawEngine, Resend},
    domain::{EventType, JobId, JobState, RetryPolicy, Stream},
    port::store::{CancelRequest, NewJob},
};
use errand_tests::{
    fake_gateway::{Fault, Options, Turn},
    wait,
};
use serde_json::json;

use super::{
    Place, World, everywhere,
    world::{self, TENANT},
};

/// It has three attempts.
fn new_task(prompt: &str) -> NewJob {
    let payload = json!({"prompt": prompt, "engineType": "agent"});
    let retry = RetryPolicy { base_ms: 1, ..RetryPolicy::TASK };
    NewJob { retry, coordination: None, ..world::job("task", &payload, None) }
}

fn session_of(id: JobId) -> String {
    format!("agent:main:errand-{id}")
}

/// What a gateway says of a turn that it keeps as failed.
fn kept_failure(why: &str) -> Fault {
    Fault::Refuse(json!({"code": "UNAVAILABLE", "message": why}))
}

impl World {
    /// With an engine that is the gateway's agent `main`.
    async fn with_engine(place: Place, turn: Duration) -> Self {
        Self::with_engine_at(place, Options { turn, ..Options::default() }, |_| {}).await
    }

    async fn with_engine_at(place: Place, options: Options, change: impl FnOnce(&mut Config)) -> Self {
        let mut world = Self::with(place, options, change).await;
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
        self.submit(new_task(prompt)).await
    }

    async fn until_heard(&self, id: JobId) {
        wait::until("the agent has heard it", || async { (!self.heard(id).is_empty()).then_some(()) }).await;
    }

    /// What the agent heard of a task.
    fn heard(&self, id: JobId) -> Vec<(String, String)> {
        self.fake.said(&session_of(id))
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
        world.until_heard(id).await;
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
        world.until_heard(id).await;
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
        world.until_heard(id).await;
        world.fake.crash();
        assert_eq!(world.done(id).await["summary"], "heard: hold on");
        worker.stop().await;
    }

    async fn what_is_said_on_the_way_is_no_answer(place: Place) {
        let world = World::with_engine(place, Duration::from_secs(3)).await;
        let answer = format!("It is {}.", "long ".repeat(4_000));
        world.fake.turns([Turn::Work { first: "Let me look.".to_owned(), answer: answer.clone() }]);
        let worker = world.worker();
        let id = world.task("look").await;
        world.until_heard(id).await;
        // News are lost with the connection, so the history is read; and while it can't be, that is waited for.
        world.fake.fail("chat.history", [Fault::CutBefore, Fault::busy()]);
        world.fake.cut();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        world.fake.set_away(true);
        world.fake.cut();
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.fake.set_away(false);
        assert_eq!(world.done(id).await["summary"], answer, "whole, although read from the history");
        assert_eq!((world.heard(id).len(), world.job(id).await.attempt), (1, 1));
        worker.stop().await;
    }

    async fn a_prompt_that_waits_for_another_turn_is_not_lost(place: Place) {
        let options = Options { queues: true, turn: Duration::from_secs(4), ..Options::default() };
        let world = World::with_engine_at(place, options, |_| {}).await;
        let task = new_task("my turn?");
        let session = session_of(task.id);
        world.fake.overhear(&session, "me first");
        let worker = world.worker();
        let id = world.submit(task).await;
        wait::until("it is sent", || async { (world.count("chat.send") > 0).then_some(()) }).await;
        world.fake.cut();
        assert_eq!(world.done(id).await["summary"], "heard: my turn?");
        let keys: Vec<_> = world.heard(id).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["of-somebody-else".to_owned(), id.to_string()]);
        worker.stop().await;
    }

    async fn a_gateway_that_does_not_tell_repeats_hears_a_prompt_once(place: Place) {
        let options = Options { deduplicates: false, turn: Duration::from_secs(3), ..Options::default() };
        let never = |config: &mut Config| config.gateways.resend = Resend::Never;
        let world = World::with_engine_at(place, options, never).await;
        let worker = world.worker();
        let id = world.task("only once").await;
        world.until_heard(id).await;
        worker.kill().await;
        // What was refused is known not to be there, and is said again.
        let second = new_task("not yet");
        world.fake.fail_session(&session_of(second.id), Some(Fault::busy()));
        let worker = world.worker();
        assert_eq!(world.done(id).await["summary"], "heard: only once");
        assert_eq!(world.heard(id).len(), 1);
        let id = world.submit(second).await;
        world.until(id, "a failed attempt", |job| job.attempt > 1).await;
        world.fake.fail_session(&session_of(id), None);
        assert_eq!(world.done(id).await["summary"], "heard: not yet");
        assert_eq!(world.heard(id).len(), 1);
        worker.stop().await;
    }

    async fn a_failure_that_the_gateway_keeps_costs_one_key_an_attempt_and_is_told(place: Place) {
        let world = World::with_engine(place, Duration::from_millis(50)).await;
        let task = new_task("hello?");
        world.fake.fail_session(&session_of(task.id), Some(kept_failure("the model's quota is used up")));
        let worker = world.worker();
        let id = world.submit(task).await;
        let failure = world.failed(id).await;
        assert!(failure.message.contains("the model's quota is used up"), "{}", failure.message);
        let mut keys: Vec<_> = world.fake.requests("chat.send").iter().map(|sent| sent["idempotencyKey"].clone()).collect();
        keys.dedup();
        keys.sort_by_key(ToString::to_string);
        keys.dedup();
        assert_eq!(keys.len(), usize::try_from(world.job(id).await.attempt).expect("few"), "{keys:?}");
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
