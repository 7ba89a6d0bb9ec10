//! Agents are made in their gateway once, whatever stands in the way.

use std::time::Duration;

use errand_common::{
    domain::{
        JobId,
        coordination::{Agent, AgentRole, AgentStatus, agent},
    },
    port::store::coordination::{AgentChange, NewAgent},
    vault::Purpose,
    wire::{
        coordination::{PROVISION, ProvisionPayload},
        credential::{generate_agent_token, hash_key},
    },
};
use errand_tests::{
    fake_gateway::{Fault, Options},
    wait,
};
use serde_json::{Value, json};

use super::{Place, World, everywhere, world};

const ALL_FILES: [&str; 8] =
    ["AGENTS.md", "BOOTSTRAP.md", "HEARTBEAT.md", "IDENTITY.md", "MEMORY.md", "SOUL.md", "TOOLS.md", "USER.md"];

impl World {
    async fn provision(&self, agent: &Agent) -> JobId {
        let payload = ProvisionPayload { agent_id: agent.id, overwrite: false, if_needed: false };
        self.submit(world::job(PROVISION, &payload, None)).await
    }

    /// The files that were written, in order.
    fn written(&self) -> Vec<String> {
        let name = |params: &Value| params["name"].as_str().unwrap_or_default().to_owned();
        self.fake.requests("agents.files.set").iter().map(name).collect()
    }

    fn content(&self, name: &str) -> String {
        let requests = self.fake.requests("agents.files.set");
        let written = requests.iter().rfind(|params| params["name"] == name).expect("it was written");
        written["content"].as_str().expect("text").to_owned()
    }
}

everywhere! {
    async fn a_lead_is_made_in_the_order_that_gateways_know(place: Place) {
        let world = World::new(place).await;
        let board = world.board("Ops").await;
        let worker = world.worker();
        let result = world.done(world.submit(world::lead_message(world.gateway, board, "how far?")).await).await;
        assert_eq!(result["lead_created"], true);
        let mut expected = vec!["agents.create", "agents.update", "config.get", "config.patch", "agents.files.list"];
        expected.extend(ALL_FILES.map(|_| "agents.files.set"));
        expected.extend(["sessions.patch", "chat.send", "sessions.patch", "chat.send"]);
        assert_eq!(world.fake.calls(), expected);
        assert_eq!(world.written(), ALL_FILES);
        let key = format!("lead-{board}");
        let workspace = format!("~/.openclaw/workspace-{key}");
        assert_eq!(world.fake.requests("agents.create"), [json!({"name": key, "workspace": workspace})]);
        let update = json!({"agentId": key, "name": "Lead Agent", "workspace": workspace});
        assert_eq!(world.fake.requests("agents.update"), [update]);
        let sends = world.fake.requests("chat.send");
        assert_eq!((&sends[0]["deliver"], &sends[1]["deliver"]), (&json!(true), &json!(false)));
        // Its token is in its hands now, and nowhere else in clear.
        let tools = world.content("TOOLS.md");
        let token = tools.split_whitespace().find(|word| word.starts_with("errand_agent_")).expect("a token");
        let known = world.backend.store.agent_by_token(&hash_key(token)).await.expect("a store").expect("an agent");
        assert_eq!((known.role, known.status), (AgentRole::Lead, AgentStatus::Online));
        assert!(known.soul_hash.is_some());
        // Again: what the agent changes itself stays, and its token too.
        let before = world.written().len();
        world.done(world.provision(&known).await).await;
        assert_eq!(world.written()[before..], ["AGENTS.md", "HEARTBEAT.md", "IDENTITY.md", "SOUL.md"]);
        assert_eq!(world.count("config.patch"), 1, "what is right stays as it is");
        worker.stop().await;
    }

    async fn where_there_is_no_file_for_tools_an_agent_finds_its_token_elsewhere(place: Place) {
        let world = World::with(place, Options { few_files: true, ..Options::default() }, |_| {}).await;
        let board = world.board("Ops").await;
        let worker = world.worker();
        world.done(world.submit(world::lead_message(world.gateway, board, "how far?")).await).await;
        let files = ["AGENTS.md", "BOOTSTRAP.md", "IDENTITY.md", "MEMORY.md", "SOUL.md", "USER.md"];
        assert_eq!(world.written(), files);
        let agents = world.content("AGENTS.md");
        let token = agents.split_whitespace().find(|word| word.starts_with("errand_agent_")).expect("a token");
        let known = world.backend.store.agent_by_token(&hash_key(token)).await.expect("a store").expect("an agent");
        assert_eq!((known.role, known.status), (AgentRole::Lead, AgentStatus::Online));
        // Again: what holds the token stays.
        world.done(world.provision(&known).await).await;
        assert_eq!(world.written()[files.len()..], ["IDENTITY.md", "SOUL.md"]);
        worker.stop().await;
    }

    async fn an_agent_is_made_in_an_older_gateway_too(place: Place) {
        let world = World::with(place, Options { old_config: true, ..Options::default() }, |_| {}).await;
        let ada = world.unknown_agent(world.board("Ops").await, "Ada").await;
        let worker = world.worker();
        world.done(world.nudge(&ada, "hello").await).await;
        assert_eq!((world.count("config.patch"), world.fake.said(&ada.session_key).len()), (1, 2));
        worker.stop().await;
    }

    async fn a_gateway_that_does_not_know_yet_whom_it_made_is_asked_again(place: Place) {
        let world = World::new(place).await;
        let ada = world.unknown_agent(world.board("Ops").await, "Ada").await;
        let unknown = Fault::Refuse(json!({"code": "INVALID_REQUEST", "message": format!("agent \"mc-{}\" not found", ada.id)}));
        world.fake.fail("agents.update", [unknown.clone(), unknown.clone(), unknown.clone()]);
        let worker = world.worker();
        let id = world.provision(&ada).await;
        world.done(id).await;
        assert_eq!((world.count("agents.create"), world.count("agents.update"), world.job(id).await.attempt), (1, 4, 1));
        // Of one that was there before it is an answer.
        world.fake.fail("agents.update", [unknown]);
        let failure = world.failed(world.provision(&world.look(ada.id).await).await).await;
        assert!(failure.message.contains("not found"), "{}", failure.message);
        worker.stop().await;
    }

    async fn a_gateway_that_restarts_over_its_configuration_is_waited_for(place: Place) {
        let options = Options { config_restarts: true, ..Options::default() };
        let world = World::with(place, options, |_| {}).await;
        let ada = world.unknown_agent(world.board("Ops").await, "Ada").await;
        let worker = world.worker();
        let id = world.nudge(&ada, "hello").await;
        world.done(id).await;
        assert_eq!((world.count("agents.create"), world.count("config.patch")), (1, 1));
        assert_eq!(world.fake.said(&ada.session_key).len(), 2, "woken, and nudged");
        assert_eq!(world.look(ada.id).await.status, AgentStatus::Online);
        worker.stop().await;
    }

    async fn limits_of_writes_cost_time_and_no_attempt(place: Place) {
        let world = World::new(place).await;
        let ada = world.unknown_agent(world.board("Ops").await, "Ada").await;
        for method in ["agents.create", "config.patch"] {
            world.fake.fail(method, [Fault::rate_limit(method, Duration::from_secs(1))]);
        }
        let worker = world.worker();
        let id = world.provision(&ada).await;
        world.done(id).await;
        assert_eq!(world.job(id).await.attempt, 1);
        assert_eq!((world.count("agents.create"), world.count("config.patch")), (2, 2));
        worker.stop().await;
    }

    async fn a_worker_may_die_in_any_step(place: Place) {
        for method in ["agents.create", "agents.update", "config.patch", "agents.files.set", "chat.send"] {
            let world = World::new(place).await;
            let ada = world.unknown_agent(world.board("Ops").await, "Ada").await;
            // Done, and never answered.
            world.fake.fail(method, [Fault::HangAfter]);
            let id = world.provision(&ada).await;
            let worker = world.worker();
            wait::until(format!("{method} is asked for"), || async { (world.count(method) > 0).then_some(()) }).await;
            worker.kill().await;
            let worker = world.worker();
            world.done(id).await;
            assert_eq!(world.look(ada.id).await.status, AgentStatus::Online, "{method}");
            let woken = world.fake.said(&ada.session_key);
            assert_eq!(woken.len(), 1, "woken once: {woken:?} after {method}");
            assert!(world.count("agents.create") <= 2 && world.fake.turns_begun() == 1, "{method}");
            worker.stop().await;
        }
    }

    async fn a_token_that_is_changed_under_way_reaches_the_agent(place: Place) {
        let world = World::new(place).await;
        let ada = world.unknown_agent(world.board("Ops").await, "Ada").await;
        // All files are written; whoever did it dies before the end.
        world.fake.fail("chat.send", [Fault::HangAfter]);
        let id = world.provision(&ada).await;
        let worker = world.worker();
        wait::until("it is woken", || async { (world.count("chat.send") > 0).then_some(()) }).await;
        worker.kill().await;
        let token = generate_agent_token();
        let sealed = world.backend.vault.seal(Purpose::AgentToken(ada.id), &token);
        let change = AgentChange { token: Some((hash_key(&token), sealed)), ..AgentChange::default() };
        let now = world.backend.clock.now();
        world.backend.store.change_agent(world::TENANT, ada.id, change, now).await.expect("a store").expect("changed");
        let worker = world.worker();
        world.done(id).await;
        assert_eq!(world.look(ada.id).await.status, AgentStatus::Online);
        assert!(world.content("TOOLS.md").contains(&token), "the token that it is known by");
        let keys: Vec<_> = world.fake.said(&ada.session_key).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [format!("{id}:1040"), format!("{id}:2040")], "woken for each");
        worker.stop().await;
    }

    async fn what_failed_once_is_tried_again_by_the_next_message(place: Place) {
        let world = World::new(place).await;
        let board = world.board("Ops").await;
        world.fake.fail("agents.create", [Fault::Refuse(json!({"code": "INVALID_REQUEST", "message": "no room"}))]);
        let worker = world.worker();
        let failure = world.failed(world.submit(world::lead_message(world.gateway, board, "one")).await).await;
        assert_eq!((failure.code.as_str(), failure.message.as_str()), ("GATEWAY_PROVISION_FAILED", "Gateway provision failed: no room"));
        let result = world.done(world.submit(world::lead_message(world.gateway, board, "two")).await).await;
        assert_eq!(result["lead_created"], false, "it was made for the first");
        let said = world.fake.said(&agent::lead_session(board));
        assert_eq!(said.last().map(|(_, text)| text.as_str()), Some("two"));
        worker.stop().await;
    }

    async fn a_lead_that_has_a_name_keeps_it(place: Place) {
        let world = World::new(place).await;
        let board = world.board("Ops").await;
        let made = world.unknown_agent(board, "Boss Lead").await;
        // As an operator makes one.
        let new = NewAgent {
            id: errand_common::domain::AgentId::new(),
            tenant: world::TENANT.to_owned(),
            gateway_id: world.gateway,
            board_id: Some(board),
            name: "Boss Lead".to_owned(),
            role: AgentRole::Lead,
            session_key: "agent:main:boss".to_owned(),
            bound: true,
            token_hash: None,
            token_sealed: None,
        };
        let id = new.id;
        let now = world.backend.clock.now();
        world.backend.store.create_agent(new, None, now).await.expect("a store").expect("made");
        let worker = world.worker();
        let result = world.done(world.submit(world::lead_message(world.gateway, board, "hi")).await).await;
        assert_eq!((&result["lead_agent_id"], &result["lead_agent_name"]), (&json!(id), &json!("Boss Lead")));
        assert_eq!((world.count("agents.create"), made.status), (0, AgentStatus::New), "bound, and never provisioned");
        worker.stop().await;
    }
}
