//! Gateways, boards and agents as clients and agents see them. Nothing is delivered here: the queue is paused, so that jobs stay as
//! they were made.

mod activity;
mod agents;
mod board_memory;
mod kinds;
mod matrix;
mod places;
mod questions;
mod tenants;
mod texts;

use errand_tests::{Answer, Client, Errand, Setup};
use reqwest::Method;
use serde_json::{Value, json};

/// A key of another tenant, with all scopes.
const ABROAD: &str = "errand_the-key-of-another-tenant-0123456789";
/// Where agents are told to reply.
const PUBLIC_URL: &str = "https://errand.example.com";

/// An agent with its token.
#[derive(Clone, Debug)]
struct Agent {
    id: String,
    client: Client,
}

/// A gateway with its own agent, and a board with a lead and a worker.
#[derive(Debug)]
struct World {
    gateway: String,
    board: String,
    main: Agent,
    lead: Agent,
    worker: Agent,
}

/// An Errand whose jobs stay where they are, and that knows two tenants.
async fn start(setup: Setup) -> Errand {
    let errand = setup
        .section("auth", &format!("bootstrap_key = {ABROAD:?}"))
        .section("server", &format!("public_url = \"{PUBLIC_URL}/\""))
        .start()
        .await;
    let abroad = errand.client().with_key(ABROAD);
    for client in [errand.client(), &abroad] {
        assert_eq!(client.post("/queues/default/pause", &json!({})).await.status, 200);
    }
    errand
}

/// Withdraws what was made, and ends the test.
async fn finish(errand: Errand) {
    let client = errand.client();
    loop {
        let live = client.get("/jobs?state=live&limit=200").await;
        if live.items().is_empty() {
            break;
        }
        for job in live.items() {
            let cancelled = client.post(&format!("/jobs/{}/cancel", text(&job["id"])), &json!({})).await;
            assert!([200, 409].contains(&cancelled.status), "{cancelled:?}");
        }
    }
    errand.finish().await;
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("text: {value}"))
}

/// The body of a 200.
fn ok(answer: Answer) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

/// The body of a 202.
fn accepted(answer: Answer) -> Value {
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.body.get("ok"), None, "{answer:?}");
    answer.body
}

impl World {
    async fn make(client: &Client) -> Self {
        let gateway = ok(client.post("/gateways", &json!({"name": "Home", "url": "wss://gateway.example.com"})).await);
        let main = Agent {
            id: text(&gateway["main_agent_id"]).to_owned(),
            client: client.with_key(text(&gateway["main_agent_token"])),
        };
        let gateway = text(&gateway["id"]).to_owned();
        let board = Self::board(client, "Ops", Some(&gateway)).await;
        let lead = Self::agent(client, "Grace Hopper", &gateway, Some(&board), true).await;
        let worker = Self::agent(client, "Ada Lovelace", &gateway, Some(&board), false).await;
        Self { gateway, board, main, lead, worker }
    }

    async fn board(client: &Client, name: &str, gateway: Option<&str>) -> String {
        let board = ok(client.post("/boards", &json!({"name": name, "gateway_id": gateway})).await);
        text(&board["id"]).to_owned()
    }

    async fn agent(client: &Client, name: &str, gateway: &str, board: Option<&str>, leads: bool) -> Agent {
        let body = json!({"name": name, "gateway_id": gateway, "board_id": board, "is_board_lead": leads});
        let made = ok(client.post("/agents", &body).await);
        Agent { id: text(&made["id"]).to_owned(), client: client.with_key(text(&made["token"])) }
    }

    fn nudge(&self, agent: &str) -> String {
        format!("/agent/boards/{}/agents/{agent}/nudge", self.board)
    }

    fn soul(&self, agent: &str) -> String {
        format!("/agent/boards/{}/agents/{agent}/soul", self.board)
    }

    fn ask_user(&self) -> String {
        format!("/agent/boards/{}/gateway/main/ask-user", self.board)
    }

    fn memory(&self) -> String {
        format!("/agent/boards/{}/memory", self.board)
    }
}

/// `PUT` below `/api/v1`.
async fn put(client: &Client, path: &str, body: &Value) -> Answer {
    client.send(client.request(Method::PUT, path).json(body)).await
}

/// `PATCH` below `/api/v1`.
async fn patch(client: &Client, path: &str, body: &Value) -> Answer {
    client.send(client.request(Method::PATCH, path).json(body)).await
}

/// `POST` with `Prefer: wait=N`.
async fn post_and_wait(client: &Client, path: &str, seconds: u32, body: &Value) -> Answer {
    let request = client.request(Method::POST, path).header("prefer", format!("wait={seconds}"));
    client.send(request.json(body)).await
}

/// `POST` under a key.
async fn post_once(client: &Client, path: &str, key: &str, body: &Value) -> Answer {
    client.send(client.request(Method::POST, path).header("idempotency-key", key).json(body)).await
}
