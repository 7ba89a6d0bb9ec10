//! The six operations as agents use them: over the API, by a worker, at a gateway, with the answer that is waited for.

use std::time::Duration;

use errand_tests::{
    Answer, Client, Errand, Setup, both_modes,
    fake_gateway::{FakeGateway, Fault, Options},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

/// An agent with its token.
pub(super) struct Agent {
    pub(super) id: String,
    pub(super) session: String,
    pub(super) client: Client,
}

/// A board with its lead and one more, all of whom the gateway meets when they are first spoken to.
pub(super) struct World {
    pub(super) fake: FakeGateway,
    pub(super) errand: Errand,
    pub(super) gateway: String,
    pub(super) main: Agent,
    pub(super) board: String,
    pub(super) lead: Agent,
    pub(super) ada: Agent,
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("text: {value}")).to_owned()
}

pub(super) fn ok(answer: Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// Sends it, and waits for the answer of the operation itself.
pub(super) async fn send(client: &Client, method: Method, path: &str, body: &Value) -> Answer {
    let request = client.request(method, path).header("prefer", "wait=60").json(body);
    Client::try_send_within(Duration::from_secs(90), request).await.expect("an answer")
}

impl World {
    pub(super) async fn start(setup: Setup) -> Self {
        Self::with(setup, "").await
    }

    /// With more lines of the section of gateways.
    pub(super) async fn with(setup: Setup, gateways: &str) -> Self {
        let fake = FakeGateway::start().await;
        let errand = setup
            .section("outbound", "allow = [\"127.0.0.0/8\"]")
            .section("gateways", &format!("request_timeout_seconds = 2\nreconnect_max_ms = 100\n{gateways}"))
            .start()
            .await;
        let client = errand.client();
        let gateway = json!({"name": "Home", "url": fake.url(), "token": Options::default().token});
        let gateway = ok(client.post("/gateways", &gateway).await);
        let id = text(&gateway["id"]);
        let main = Agent {
            id: text(&gateway["main_agent_id"]),
            session: format!("agent:mc-gateway-{id}:main"),
            client: client.with_key(&text(&gateway["main_agent_token"])),
        };
        let board = text(&ok(client.post("/boards", &json!({"name": "Ops", "gateway_id": id})).await)["id"]);
        let lead = Self::agent(client, "Grace", &id, &board, true).await;
        let ada = Self::agent(client, "Ada", &id, &board, false).await;
        Self { fake, errand, gateway: id, main, board, lead, ada }
    }

    pub(super) async fn agent(client: &Client, name: &str, gateway: &str, board: &str, leads: bool) -> Agent {
        let body = json!({"name": name, "gateway_id": gateway, "board_id": board, "is_board_lead": leads});
        let made = ok(client.post("/agents", &body).await);
        let id = text(&made["id"]);
        let session = if leads { format!("agent:lead-{board}:main") } else { format!("agent:mc-{id}:main") };
        Agent { id, session, client: client.with_key(&text(&made["token"])) }
    }

    /// The last message that an agent has heard.
    pub(super) fn heard(&self, agent: &Agent) -> String {
        self.fake.said(&agent.session).pop().unwrap_or_default().1
    }
}

both_modes! {
    async fn all_six_reach_their_agents_and_answer_as_agents_know_it(setup: Setup) {
        let world = World::start(setup).await;
        let World { board, lead, main, ada, .. } = &world;

        let path = format!("/agent/boards/{board}/agents/{}/nudge", ada.id);
        assert_eq!(ok(send(&lead.client, Method::POST, &path, &json!({"message": "look here"})).await), json!({"ok": true}));
        assert_eq!(world.heard(ada), "look here");

        let path = format!("/agent/boards/{board}/agents/{}/soul", ada.id);
        let soul = json!({"content": "be kind"});
        assert_eq!(ok(send(&lead.client, Method::PUT, &path, &soul).await), json!({"ok": true}));
        assert_eq!(ok(lead.client.get(&path).await), json!("be kind"));

        let path = format!("/agent/boards/{board}/gateway/main/ask-user");
        let asked = ok(send(&lead.client, Method::POST, &path, &json!({"content": "which one?"})).await);
        assert_eq!((&asked["ok"], &asked["board_id"], &asked["main_agent_id"]), (&json!(true), &json!(board), &json!(main.id)));
        assert!(world.heard(main).starts_with("LEAD REQUEST: ASK USER\nBoard: Ops\n"), "{}", world.heard(main));
        let answer = json!({"content": "the blue one", "tags": ["gateway_main", "user_reply"], "source": "user_via_gateway_main"});
        ok(main.client.post(&format!("/agent/boards/{board}/memory"), &answer).await);
        wait::until("the lead is told", || async { world.heard(lead).ends_with("\n\nthe blue one").then_some(()) }).await;

        let path = format!("/agent/gateway/boards/{board}/lead/message");
        let said = ok(send(&main.client, Method::POST, &path, &json!({"content": "how far?"})).await);
        let expected = json!({
            "ok": true, "board_id": board, "lead_agent_id": lead.id, "lead_agent_name": "Grace", "lead_created": false,
        });
        assert_eq!(said, expected);
        assert!(world.heard(lead).starts_with("GATEWAY MAIN QUESTION\nBoard: Ops\n"), "{}", world.heard(lead));

        let path = "/agent/gateway/leads/broadcast";
        let said = ok(send(&main.client, Method::POST, path, &json!({"kind": "handoff", "content": "yours"})).await);
        assert_eq!((&said["ok"], &said["sent"], &said["failed"]), (&json!(true), &json!(1), &json!(0)));
        assert_eq!(said["results"][0]["lead_agent_name"], "Grace");
        assert!(world.heard(lead).starts_with("GATEWAY MAIN HANDOFF\n"), "{}", world.heard(lead));
        world.errand.finish().await;
    }

    async fn a_refusal_is_told_in_the_operations_own_words_and_a_broadcast_repeats_what_failed(setup: Setup) {
        let world = World::start(setup).await;
        let World { board, lead, main, ada, .. } = &world;
        let path = format!("/agent/boards/{board}/agents/{}/nudge", ada.id);
        ok(send(&lead.client, Method::POST, &path, &json!({"message": "wake up"})).await);
        let refusal = Fault::Refuse(json!({"code": "INVALID_REQUEST", "message": "not today"}));
        world.fake.fail_session(&ada.session, Some(refusal.clone()));
        let answer = send(&lead.client, Method::POST, &path, &json!({"message": "look here"})).await;
        assert_eq!((answer.status, &answer.body["detail"]), (502, &json!("Gateway nudge failed: not today")));

        let path = format!("/agent/gateway/boards/{board}/lead/message");
        ok(send(&main.client, Method::POST, &path, &json!({"content": "good morning"})).await);
        world.fake.fail_session(&lead.session, Some(refusal));
        let sent = main.client.post("/agent/gateway/leads/broadcast", &json!({"content": "listen"})).await;
        assert_eq!(sent.status, 202, "{sent:?}");
        let id = text(&sent.body["job_id"]);
        let client = world.errand.client();
        let failed = wait::until("the end", || async {
            let job = client.get(&format!("/jobs/{id}?wait=5")).await.body;
            (job["state"] == "failed").then_some(job)
        })
        .await;
        let error = &failed["result"]["results"][0]["error"];
        assert_eq!(error, "Gateway lead broadcast dispatch failed: not today");
        world.fake.fail_session(&lead.session, None);
        let before = world.fake.said_in_all();
        let repeated = client.post(&format!("/jobs/{id}/retry"), &json!({})).await;
        assert_eq!(repeated.status, 202, "{repeated:?}");
        let id = text(&repeated.body["job_id"]);
        client.wait_for_completion(&id).await;
        assert_eq!(world.fake.said_in_all(), before + 1);
        assert!(world.heard(lead).contains("\n\nlisten\n\n"), "{}", world.heard(lead));
        world.errand.finish().await;
    }
}
