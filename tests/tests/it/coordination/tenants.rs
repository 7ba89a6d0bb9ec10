//! Another tenant's gateways, boards, agents and questions are not there: 404 on every route of the OpenAPI document, and nothing
//! is written.

use errand_tests::{Answer, both_modes, sse::Sse};
use reqwest::Method;
use serde_json::{Value, json};

use super::{ABROAD, World, accepted, finish, ok, start, text};

/// Beginnings of the routes that coordination has, below `/api/v1`.
const ROUTES: [&str; 8] = [
    "/activity",
    "/agent/boards/",
    "/agent/gateway/",
    "/agent/heartbeat",
    "/agents",
    "/boards",
    "/gateways",
    "/questions",
];

/// How a route is tried from another tenant.
enum Attempt {
    /// What its path names is not there: 404, whatever else is asked.
    Path(Value),
    /// Its list holds nothing of theirs, by whatever it is narrowed.
    List,
    /// Its body names something that is not there: this status.
    Body(Value, u16),
    /// It names nothing, or is tried on its own below.
    Own,
}

/// A route without a case fails the test: it needs one here.
fn attempt(method: &Method, path: &str, theirs: &World) -> Option<Attempt> {
    let said = json!({"message": "x", "content": "x"});
    Some(match (method.as_str(), path) {
        ("GET", "/gateways" | "/boards" | "/agents" | "/questions" | "/activity") => Attempt::List,
        ("POST", "/boards") => Attempt::Body(json!({"name": "x", "gateway_id": theirs.gateway}), 422),
        ("POST", "/agents") => Attempt::Body(json!({"name": "x", "gateway_id": theirs.gateway}), 422),
        ("POST", "/gateways" | "/agent/heartbeat" | "/agent/gateway/leads/broadcast") | ("GET", "/activity/stream") => {
            Attempt::Own
        }
        ("GET" | "DELETE", path) if path.contains('{') => Attempt::Path(Value::Null),
        ("PATCH", "/gateways/{id}" | "/boards/{id}" | "/agents/{id}") => Attempt::Path(json!({"name": "mine now"})),
        ("POST", "/agents/{id}/token" | "/agents/{id}/provision") => Attempt::Path(json!({})),
        ("POST", "/questions/{id}/answer") => Attempt::Path(json!({"answer": "x"})),
        (
            "POST",
            "/boards/{id}/memory"
            | "/agent/boards/{board_id}/memory"
            | "/agent/boards/{board_id}/agents/{agent_id}/nudge"
            | "/agent/boards/{board_id}/gateway/main/ask-user"
            | "/agent/gateway/boards/{board_id}/lead/message",
        )
        | ("PUT", "/agent/boards/{board_id}/agents/{agent_id}/soul") => Attempt::Path(said),
        _ => return None,
    })
}

/// Coordination's routes, as the document has them.
fn routes() -> Vec<(Method, String)> {
    let document = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/openapi.json");
    let document: Value = serde_json::from_slice(&std::fs::read(document).expect("the document")).expect("JSON");
    let mut routes = Vec::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        let Some(path) = path.strip_prefix("/api/v1") else { continue };
        if ROUTES.iter().any(|beginning| path.starts_with(beginning)) {
            for method in operations.as_object().expect("operations").keys() {
                routes.push((method.to_uppercase().parse().expect("a method"), path.to_owned()));
            }
        }
    }
    assert!(routes.len() > 35, "{routes:?}");
    routes
}

/// All that a tenant has.
async fn all(client: &errand_tests::Client) -> Vec<Value> {
    let mut all = Vec::new();
    for path in ["/gateways", "/boards", "/agents", "/questions", "/activity", "/jobs"] {
        let mut list = ok(client.get(path).await);
        if path == "/jobs" {
            // Where they are is the workers' doing.
            list = list["items"].as_array().expect("jobs").iter().map(|job| job["id"].clone()).collect();
        }
        if path == "/boards" {
            for board in list["items"].as_array().expect("boards").clone() {
                let memory = client.get(&format!("/boards/{}/memory", text(&board["id"]))).await;
                all.push(ok(memory));
            }
        }
        all.push(list);
    }
    all
}

async fn try_path(by: &errand_tests::Client, method: &Method, path: &str, body: &Value) -> Answer {
    let request = by.request(method.clone(), path);
    by.send(if body.is_null() { request } else { request.json(body) }).await
}

both_modes! {
    async fn every_route_answers_as_if_it_were_not_there(setup: Setup) {
        let errand = start(setup).await;
        let ours = errand.client();
        let abroad = ours.with_key(ABROAD);
        let (world, theirs) = (World::make(ours).await, World::make(&abroad).await);
        let asked = accepted(theirs.lead.client.post(&theirs.ask_user(), &json!({"content": "?"})).await);
        let question = text(&asked["question_id"]);
        let (before_theirs, before_ours) = (all(&abroad).await, all(ours).await);
        let (board, agent, gateway) = (theirs.board.as_str(), theirs.worker.id.as_str(), theirs.gateway.as_str());
        let mut cases = 0;
        for (method, route) in routes() {
            let case = attempt(&method, &route, &theirs).unwrap_or_else(|| panic!("{method} {route} has no case here"));
            let by = match route.as_str() {
                route if route.starts_with("/agent/gateway/") => &world.main.client,
                route if route.starts_with("/agent/") => &world.lead.client,
                _ => ours,
            };
            match case {
                Attempt::Path(body) => {
                    let id = match route.split('/').nth(1) {
                        Some("gateways") => gateway,
                        Some("agents") => agent,
                        Some("questions") => question,
                        _ => board,
                    };
                    let filled = |board: &str, agent: &str| {
                        route.replace("{board_id}", board).replace("{agent_id}", agent).replace("{id}", id)
                    };
                    let mut paths = vec![filled(board, agent), filled(board, &world.worker.id)];
                    if route.contains("{agent_id}") {
                        paths.extend([filled(&world.board, agent), filled(&world.board, &theirs.main.id)]);
                    }
                    for path in paths {
                        let answer = try_path(by, &method, &path, &body).await;
                        assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
                        cases += 1;
                    }
                }
                Attempt::List => {
                    let narrowed = format!("{route}?board_id={board}");
                    for path in [route.as_str(), &narrowed] {
                        for by in [ours, &world.lead.client] {
                            let answer = by.get(path).await;
                            let holds_theirs = [board, agent, gateway, question].iter().any(|id| answer.text.contains(id));
                            assert!(answer.status != 200 || !holds_theirs, "GET {path}: {answer:?}");
                            cases += 1;
                        }
                    }
                }
                Attempt::Body(body, status) => {
                    let answer = try_path(by, &method, &route, &body).await;
                    assert_eq!(answer.status, status, "{method} {route} {body}: {answer:?}");
                    cases += 1;
                }
                Attempt::Own => {}
            }
        }
        assert!(cases > 50, "{cases}");

        // By an agent, and as kinds of jobs.
        for path in [format!("/questions/{question}"), format!("/questions?board_id={board}")] {
            assert_eq!(world.lead.client.get(&path).await.status, 404, "{path}");
        }
        for rest in ["/memory", "/memory/stream"] {
            assert_eq!(world.main.client.get(&format!("/agent/boards/{board}{rest}")).await.status, 404, "{rest}");
        }
        for (kind, payload) in [
            ("nudge", json!({"board_id": board, "agent_id": agent, "message": "x"})),
            ("nudge", json!({"board_id": world.board, "agent_id": agent, "message": "x"})),
            ("soul_read", json!({"board_id": board, "agent_id": agent})),
            ("soul_write", json!({"board_id": board, "agent_id": agent, "content": "x"})),
            ("ask_user", json!({"board_id": board, "content": "x"})),
            ("lead_message", json!({"board_id": board, "content": "x"})),
            ("lead_message", json!({"board_id": world.board, "content": "x", "actor_id": theirs.main.id})),
            ("broadcast", json!({"gateway_id": gateway, "content": "x"})),
        ] {
            let answer = ours.post("/jobs", &json!({"kind": kind, "payload": payload})).await;
            assert_eq!(answer.status, 404, "{kind} {payload}: {answer:?}");
        }
        let elsewhere = json!({"name": "x", "gateway_id": world.gateway, "board_id": board});
        assert_eq!(ours.post("/agents", &elsewhere).await.status, 422);
        let broadcast = json!({"content": "x", "board_ids": [board]});
        let sent = accepted(world.main.client.post("/agent/gateway/leads/broadcast", &broadcast).await);
        assert_eq!(ours.job(text(&sent["job_id"])).await["children"]["total"], 0, "what is foreign is left out");

        // Streams tell of one's own alone.
        let mut socket = errand_tests::socket::Socket::open(ours).await;
        socket.send(&json!({"type": "subscribe", "id": 1, "stream": format!("board:{board}")})).await;
        assert_eq!(socket.frame().await["code"], "not_found");
        drop(socket);
        assert_eq!(all(&abroad).await, before_theirs, "nothing was written there");
        let after_ours = all(ours).await;
        for (before, after) in before_ours.iter().zip(&after_ours).take(3) {
            assert_eq!(before, after, "nor here");
        }
        let mut stream = Sse::open(ours, "/activity/stream", &[]).await;
        for agent in [&theirs.lead, &world.lead] {
            assert_eq!(agent.client.post("/agent/heartbeat", &Value::Null).await.status, 200);
        }
        assert_eq!(stream.next().await.expect("a line").data["agent_id"], world.lead.id, "not theirs, which came before");
        drop(stream);

        ok(abroad.post(&format!("/jobs/{}/cancel", text(&asked["job_id"])), &json!({})).await);
        finish(errand).await;
    }
}
