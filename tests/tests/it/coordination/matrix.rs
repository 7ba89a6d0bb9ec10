//! Which agent may do what: every row of the matrix of callers, operations and statuses.

use errand_tests::{Answer, Client, both_modes};
use reqwest::Method;
use serde_json::json;

use super::{Agent, World, finish, patch, put, start};

/// What each operation answers: nudge, soul GET, soul PUT, ask user, lead message, broadcast.
async fn statuses(client: &Client, board: &str, target: &str) -> [u16; 6] {
    let on = |rest: &str| format!("/agent/boards/{board}{rest}");
    let soul = on(&format!("/agents/{target}/soul"));
    let content = json!({"content": "hello"});
    let read = client.request(Method::GET, &soul).header("prefer", "wait=1");
    let lead = format!("/agent/gateway/boards/{board}/lead/message");
    [
        client.post(&on(&format!("/agents/{target}/nudge")), &json!({"message": "hello"})).await.status,
        client.send(read).await.status,
        put(client, &soul, &content).await.status,
        client.post(&on("/gateway/main/ask-user"), &content).await.status,
        client.post(&lead, &content).await.status,
        client.post("/agent/gateway/leads/broadcast", &content).await.status,
    ]
}

/// A soul that nobody reads in time.
const LATE: u16 = 504;

both_modes! {
    async fn each_caller_may_do_what_its_role_and_its_board_allow(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let other = World::board(admin, "Other", Some(&world.gateway)).await;
        let elsewhere = World::make(admin).await;
        let without = World::agent(admin, "Nobody's", &world.gateway, None, false).await;
        let of = async |agent: &Agent, board: &str, target: &str| statuses(&agent.client, board, target).await;
        let (board, worker) = (world.board.as_str(), world.worker.id.as_str());

        assert_eq!(of(&world.lead, board, worker).await, [202, LATE, 202, 202, 403, 403], "its lead");
        assert_eq!(of(&world.lead, board, &world.lead.id).await[1..3], [LATE, 202], "its lead, its own soul");
        assert_eq!(of(&world.worker, board, &world.lead.id).await, [403; 6], "a worker");
        assert_eq!(of(&world.worker, board, worker).await, [403, LATE, 403, 403, 403, 403], "a worker, its own soul");
        assert_eq!(of(&elsewhere.lead, board, worker).await, [403; 6], "another board's lead");
        assert_eq!(of(&world.lead, &other, worker).await, [403; 6], "a lead on another board");
        assert_eq!(of(&world.main, board, worker).await, [403, 403, 403, 403, 202, 202], "the gateway's own agent");
        assert_eq!(of(&world.main, board, &world.main.id).await[..3], [403, LATE, 403], "its own soul");
        assert_eq!(of(&elsewhere.main, board, worker).await[..5], [403; 5], "another gateway's agent");
        assert_eq!(of(&without, board, worker).await, [403; 6], "an agent without a board");
        assert_eq!(of(&without, board, &without.id).await[1], LATE, "its own soul");

        let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
        assert_eq!(of(&world.lead, unknown, worker).await[..4], [404; 4], "no such board");
        assert_eq!(of(&world.main, unknown, worker).await[4], 404, "no such board");
        assert_eq!(of(&world.lead, board, unknown).await[..3], [404; 3], "no such agent");
        assert_eq!(of(&world.lead, board, &elsewhere.worker.id).await[..3], [404; 3], "another board's agent");
        assert_eq!(of(&world.lead, board, &world.main.id).await[..3], [404; 3], "the gateway's own agent is on no board");
        assert_eq!(of(&world.lead, board, "not-an-id").await[..3], [404; 3], "malformed");
        for (by, path, sentence) in [
            (&world.worker, world.ask_user(), "Only board leads can perform this action"),
            (&without, "/agent/gateway/leads/broadcast".to_owned(), "Only the dedicated gateway agent may call this endpoint."),
            (&world.lead, format!("/agent/gateway/boards/{board}/lead/message"), "Only the dedicated gateway agent may call this endpoint."),
            (&world.main, format!("/agent/gateway/boards/{unknown}/lead/message"), "Board not found"),
            (&world.lead, world.nudge(unknown), "Agent not found"),
        ] {
            assert_eq!(by.client.post(&path, &json!({"content": "x", "message": "x"})).await.body["detail"], sentence, "{path}");
        }
        assert_eq!(of(&world.lead, "not-an-id", worker).await[..5], [422; 5], "malformed");
        let upper = world.worker.id.to_uppercase();
        assert_eq!(of(&world.worker, board, &upper).await[1], LATE, "an id is an id, however it is written");
        finish(errand).await;
    }

    async fn nobody_comes_in_without_a_token_and_a_key_is_none(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let (board, worker) = (world.board.as_str(), world.worker.id.as_str());
        assert_eq!(statuses(admin, board, worker).await, [401; 6], "an API key is no agent's token");
        let path = format!("/api/v1{}", world.nudge(worker));
        let answer = admin.send(admin.anonymous(Method::POST, &path).json(&json!({"message": "x"}))).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        // The header of agents wins over the other.
        let with = |key: &str, token: &str| admin.with_key(key).request(Method::POST, &world.nudge(worker))
            .header("x-agent-token", token.to_owned()).json(&json!({"message": "x"}));
        let lead = world.lead.client.key().to_owned();
        assert_eq!(admin.send(with(admin.key(), &lead)).await.status, 202);
        assert_eq!(admin.send(with(&lead, "errand_agent_nonsense")).await.status, 401);
        // An agent's token opens nothing else.
        for path in ["/jobs", "/gateways", "/boards", "/agents", "/keys"] {
            assert_eq!(world.lead.client.get(path).await.status, 401, "{path}");
        }
        finish(errand).await;
    }

    async fn who_guesses_tokens_is_slowed_down_and_agents_are_not(setup: Setup) {
        let errand = setup.section("auth", "failures_per_minute = 12").start().await;
        let admin = errand.client();
        assert_eq!(admin.post("/queues/default/pause", &json!({})).await.status, 200);
        let world = World::make(admin).await;
        let (board, worker) = (world.board.as_str(), world.worker.id.as_str());
        for token in ["", "errand_agent_nonsense"] {
            assert_eq!(statuses(&admin.with_key(token), board, worker).await, [401; 6], "{token:?}");
        }
        assert_eq!(statuses(&admin.with_key("errand_agent_nonsense"), board, worker).await, [429; 6]);
        // From the same address.
        assert_eq!(statuses(&world.lead.client, board, worker).await, [202, LATE, 202, 202, 403, 403]);
        finish(errand).await;
    }

    async fn a_board_without_a_gateway_and_a_blank_text_are_refused_with_their_sentence(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let sentence = |answer: &Answer| answer.body["detail"].as_str().unwrap_or_default().to_owned();
        for (path, body, pointer) in [
            (world.nudge(&world.worker.id), json!({"message": " \n"}), "/message"),
            (world.nudge(&world.worker.id), json!({}), "/message"),
            (world.ask_user(), json!({"content": " "}), "/content"),
            (world.ask_user(), json!({"content": "x", "reply_tags": null}), "/reply_tags"),
            (world.ask_user(), json!({"content": "x", "answer_schema": {"type": "nonsense"}}), "/answer_schema"),
            (world.ask_user(), json!({"content": "x", "question_expires_at": "2020-01-01T00:00:00Z"}), "/question_expires_at"),
            (world.nudge(&world.lead.id), json!({"message": "to myself"}), "path:agent_id"),
        ] {
            let answer = world.lead.client.post(&path, &body).await;
            assert_eq!((answer.status, answer.pointers()), (422, vec![pointer]), "{body}: {answer:?}");
        }
        let blank = put(&world.lead.client, &world.soul(&world.worker.id), &json!({"content": " "})).await;
        assert_eq!((blank.status, sentence(&blank).as_str()), (422, "content is required"), "{blank:?}");
        let message = format!("/agent/gateway/boards/{}/lead/message", world.board);
        for body in [json!({"content": ""}), json!({"content": "x", "kind": "gossip"})] {
            assert_eq!(world.main.client.post(&message, &body).await.status, 422, "{body}");
        }
        for body in [json!({"content": " "}), json!({"content": "x", "board_ids": ["not-an-id"]})] {
            let answer = world.main.client.post("/agent/gateway/leads/broadcast", &body).await;
            assert_eq!(answer.status, 422, "{body}: {answer:?}");
        }
        let refused = world.lead.client.request(Method::POST, &world.ask_user()).header("prefer", "wait=99");
        let refused = admin.send(refused.json(&json!({"content": "x"}))).await;
        assert_eq!((refused.status, refused.pointers()), (400, vec!["header:Prefer"]), "{refused:?}");

        let taken = patch(admin, &format!("/boards/{}", world.board), &json!({"gateway_id": null})).await;
        assert_eq!(taken.body["gateway_id"], json!(null), "{taken:?}");
        for path in [world.nudge(&world.worker.id), world.ask_user()] {
            let answer = world.lead.client.post(&path, &json!({"message": "x", "content": "x"})).await;
            assert_eq!((answer.status, sentence(&answer).as_str()), (422, "Board gateway_id is required"), "{answer:?}");
        }
        let soul = world.soul(&world.worker.id);
        let written = put(&world.lead.client, &soul, &json!({"content": "x"})).await;
        for answer in [world.lead.client.get(&soul).await, written] {
            assert_eq!((answer.status, sentence(&answer).as_str()), (422, "Board gateway_id is required"), "{answer:?}");
        }
        assert_eq!(admin.get("/jobs").await.items().len(), 0, "nothing of all that was made");
        finish(errand).await;
    }
}
