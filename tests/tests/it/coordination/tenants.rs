//! Another tenant's gateways, boards, agents and questions are not there: 404 on every route, and nothing is written.

use errand_tests::both_modes;
use reqwest::Method;
use serde_json::{Value, json};

use super::{ABROAD, World, accepted, finish, ok, start, text};

/// All that a tenant has.
async fn all(client: &errand_tests::Client) -> Vec<Value> {
    let mut all = Vec::new();
    for path in ["/gateways", "/boards", "/agents", "/questions", "/activity", "/jobs"] {
        let mut list = ok(client.get(path).await);
        if path == "/jobs" {
            // Where they are is the workers' doing.
            list = list["items"].as_array().expect("jobs").iter().map(|job| job["id"].clone()).collect();
        }
        all.push(list);
    }
    all
}

both_modes! {
    async fn every_route_answers_as_if_it_were_not_there(setup: Setup) {
        let errand = start(setup).await;
        let ours = errand.client();
        let abroad = ours.with_key(ABROAD);
        let (world, theirs) = (World::make(ours).await, World::make(&abroad).await);
        let asked = accepted(theirs.lead.client.post(&theirs.ask_user(), &json!({"content": "?"})).await);
        let (before_theirs, before_ours) = (all(&abroad).await, all(ours).await);
        let (board, agent, gateway) = (&theirs.board, &theirs.worker.id, &theirs.gateway);
        let question = text(&asked["question_id"]);
        let body = json!({});
        let named = json!({"name": "mine now"});
        let said = json!({"message": "x", "content": "x"});
        let answer = json!({"answer": "x"});
        let by_key: Vec<(Method, String, &Value)> = vec![
            (Method::GET, format!("/gateways/{gateway}"), &body),
            (Method::PATCH, format!("/gateways/{gateway}"), &named),
            (Method::DELETE, format!("/gateways/{gateway}"), &body),
            (Method::GET, format!("/boards/{board}"), &body),
            (Method::PATCH, format!("/boards/{board}"), &named),
            (Method::DELETE, format!("/boards/{board}"), &body),
            (Method::GET, format!("/boards/{board}/memory"), &body),
            (Method::POST, format!("/boards/{board}/memory"), &said),
            (Method::GET, format!("/boards/{board}/memory/stream"), &body),
            (Method::GET, format!("/boards/{board}/events"), &body),
            (Method::GET, format!("/agents/{agent}"), &body),
            (Method::PATCH, format!("/agents/{agent}"), &named),
            (Method::DELETE, format!("/agents/{agent}"), &body),
            (Method::POST, format!("/agents/{agent}/token"), &body),
            (Method::POST, format!("/agents/{agent}/provision"), &body),
            (Method::GET, format!("/questions/{question}"), &body),
            (Method::POST, format!("/questions/{question}/answer"), &answer),
        ];
        for (method, path, body) in by_key {
            let request = ours.request(method.clone(), &path);
            let request = if *body == json!({}) && method != Method::POST { request } else { request.json(body) };
            let answer = ours.send(request).await;
            assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
        }
        for (kind, payload) in [
            ("nudge", json!({"board_id": board, "agent_id": agent, "message": "x"})),
            ("nudge", json!({"board_id": world.board, "agent_id": agent, "message": "x"})),
            ("soul_write", json!({"board_id": board, "agent_id": agent, "content": "x"})),
            ("ask_user", json!({"board_id": board, "content": "x"})),
            ("lead_message", json!({"board_id": world.board, "content": "x", "actor_id": theirs.main.id})),
            ("broadcast", json!({"gateway_id": gateway, "content": "x"})),
        ] {
            let answer = ours.post("/jobs", &json!({"kind": kind, "payload": payload})).await;
            assert_eq!(answer.status, 404, "{kind} {payload}: {answer:?}");
        }
        let on_theirs = |rest: &str| format!("/agent/boards/{board}{rest}");
        let on_ours = |rest: &str| format!("/agent/boards/{}{rest}", world.board);
        let soul = format!("/agents/{agent}/soul");
        let by_agent: Vec<(Method, String)> = vec![
            (Method::POST, on_theirs(&format!("/agents/{agent}/nudge"))),
            (Method::GET, on_theirs(&soul)),
            (Method::PUT, on_theirs(&soul)),
            (Method::POST, on_theirs("/gateway/main/ask-user")),
            (Method::POST, on_theirs("/memory")),
            (Method::GET, on_theirs("/memory")),
            (Method::GET, on_theirs("/memory/stream")),
            (Method::POST, on_ours(&format!("/agents/{agent}/nudge"))),
            (Method::POST, on_ours(&format!("/agents/{}/nudge", theirs.main.id))),
            (Method::PUT, on_ours(&soul)),
            (Method::PUT, on_ours(&format!("/agents/{}/soul", theirs.main.id))),
            (Method::GET, on_ours(&soul)),
        ];
        for (method, path) in by_agent {
            let request = world.lead.client.request(method.clone(), &path);
            let request = if method == Method::GET { request } else { request.json(&said) };
            let answer = ours.send(request).await;
            assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
        }
        for path in [format!("/questions/{question}"), format!("/questions?board_id={board}")] {
            assert_eq!(world.lead.client.get(&path).await.status, 404, "{path}");
        }
        for rest in ["/memory", "/memory/stream"] {
            assert_eq!(world.main.client.get(&on_theirs(rest)).await.status, 404, "{rest}");
        }
        let lead = format!("/agent/gateway/boards/{board}/lead/message");
        assert_eq!(world.main.client.post(&lead, &said).await.status, 404);
        let broadcast = json!({"content": "x", "board_ids": [board]});
        let sent = accepted(world.main.client.post("/agent/gateway/leads/broadcast", &broadcast).await);
        assert_eq!(ours.job(text(&sent["job_id"])).await["children"]["total"], 0, "what is foreign is left out");
        // In a body of ours, their gateway or board is none.
        for (path, body) in [
            ("/boards", json!({"name": "x", "gateway_id": gateway})),
            ("/agents", json!({"name": "x", "gateway_id": gateway})),
            ("/agents", json!({"name": "x", "gateway_id": world.gateway, "board_id": board})),
        ] {
            assert_eq!(ours.post(path, &body).await.status, 422, "{path} {body}");
        }
        let mut socket = errand_tests::socket::Socket::open(ours).await;
        socket.send(&json!({"type": "subscribe", "id": 1, "stream": format!("board:{board}")})).await;
        assert_eq!(socket.frame().await["code"], "not_found");
        drop(socket);

        assert_eq!(all(&abroad).await, before_theirs, "nothing was written there");
        let after_ours = all(ours).await;
        assert_eq!(after_ours[0], before_ours[0]);
        assert_eq!(after_ours[1], before_ours[1]);
        assert_eq!(after_ours[3], before_ours[3], "nor here");
        ok(abroad.post(&format!("/jobs/{}/cancel", text(&asked["job_id"])), &json!({})).await);
        finish(errand).await;
    }
}
