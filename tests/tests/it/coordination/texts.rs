//! What agents are sent, byte for byte as the job stores it, and what is kept beside it.

use errand_tests::both_modes;
use futures::future::join_all;
use serde_json::{Value, json};

use super::{PUBLIC_URL, World, accepted, finish, post_once, put, start, text};

/// A text as the page of coordination shows it, with what differs filled in.
fn on_the_page(name: &str, filled: &[(&str, &str)]) -> String {
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/coordination.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let (_, block) = page.split_once(&format!("```text {name}\n")).expect("the text");
    let (block, _) = block.split_once("\n```").expect("its end");
    filled.iter().fold(block.to_owned(), |text, (what, with)| text.replace(&format!("{{{what}}}"), with))
}

both_modes! {
    async fn a_nudge_is_its_text_and_nothing_else(setup: Setup) {
        let errand = start(setup).await;
        let world = World::make(errand.client()).await;
        let body = json!({"message": "  look at this\n", "colour": "ignored"});
        let taken = accepted(world.lead.client.post(&world.nudge(&world.worker.id), &body).await);
        assert_eq!((&taken["state"], &taken["agent_id"]), (&json!("queued"), &json!(world.worker.id)));
        let job = errand.client().job(text(&taken["job_id"])).await;
        assert_eq!(job["kind"], "nudge");
        let trace = format!("nudge:{}:{}", world.board, world.worker.id);
        assert_eq!(
            job["payload"],
            json!({
                "to": "agent", "agent_id": world.worker.id, "board_id": world.board, "message": "look at this",
                "deliver": true, "trace_id": trace, "actor_id": world.lead.id,
            })
        );
        finish(errand).await;
    }

    async fn a_question_for_a_person_says_where_its_answer_goes(setup: Setup) {
        let errand = start(setup).await;
        let world = World::make(errand.client()).await;
        let body = json!({"content": " which one? ", "correlation_id": " c-1 ", "preferred_channel": "slack"});
        let taken = accepted(world.lead.client.post(&world.ask_user(), &body).await);
        let job = errand.client().job(text(&taken["job_id"])).await;
        let expected = format!(
            "LEAD REQUEST: ASK USER\nBoard: Ops\nBoard ID: {board}\nFrom lead: Grace Hopper\nCorrelation ID: c-1\n\
             Preferred channel: slack\n\nwhich one?\n\n\
             Please reach the user via your configured OpenClaw channel(s) (Slack/SMS/etc).\n\
             If you cannot reach them there, post the question in Mission Control board chat as a fallback.\n\n\
             When you receive the answer, reply in Mission Control by writing a NON-chat memory item on this board:\n\
             POST {PUBLIC_URL}/api/v1/agent/boards/{board}/memory\n\
             Body: {{\"content\":\"<answer>\",\"tags\":[\"gateway_main\", \"user_reply\"],\"source\":\"user_via_gateway_main\"}}\n\
             Do NOT reply in OpenClaw chat.",
            board = world.board,
        );
        assert_eq!(text(&job["payload"]["message"]), expected);
        assert_eq!(
            (&job["payload"]["to"], &job["payload"]["gateway_id"], &job["payload"]["deliver"]),
            (&json!("main"), &json!(world.gateway), &json!(true))
        );
        assert_eq!((&job["payload"]["question_id"], &job["payload"]["trace_id"]), (&taken["question_id"], &json!("c-1")));
        finish(errand).await;
    }

    async fn a_message_to_a_lead_names_its_kind_its_sender_and_the_way_to_reply(setup: Setup) {
        let errand = start(setup).await;
        let world = World::make(errand.client()).await;
        let path = format!("/agent/gateway/boards/{}/lead/message", world.board);
        let send = async |body: Value| {
            let taken = accepted(world.main.client.post(&path, &body).await);
            errand.client().job(text(&taken["job_id"])).await["payload"].clone()
        };
        let asked = send(json!({"content": "how far?", "reply_tags": ["a", "é"], "reply_source": "s", "correlation_id": "c"})).await;
        let expected = format!(
            "GATEWAY MAIN QUESTION\nBoard: Ops\nBoard ID: {board}\nFrom agent: Home Gateway Agent\nCorrelation ID: c\n\n\
             how far?\n\nReply to the gateway agent by writing a NON-chat memory item on this board:\n\
             POST {PUBLIC_URL}/api/v1/agent/boards/{board}/memory\n\
             Body: {{\"content\":\"...\",\"tags\":[\"a\", \"\\u00e9\"],\"source\":\"s\"}}\n\
             Do NOT reply in OpenClaw chat.",
            board = world.board,
        );
        assert_eq!(text(&asked["message"]), expected);
        assert_eq!((&asked["deliver"], &asked["to"]), (&json!(false), &json!("lead")));
        let handed = send(json!({"content": "yours", "kind": "handoff", "reply_tags": [], "reply_source": ""})).await;
        let message = text(&handed["message"]);
        assert!(message.starts_with("GATEWAY MAIN HANDOFF\n") && !message.contains("Correlation ID"), "{message}");
        let usual = "\"tags\":[\"gateway_main\", \"lead_reply\"],\"source\":\"lead_to_gateway_main\"";
        assert!(message.contains(usual), "{message}");
        finish(errand).await;
    }

    async fn the_page_shows_what_agents_read(setup: Setup) {
        let errand = start(setup).await;
        let world = World::make(errand.client()).await;
        let lead = format!("/agent/gateway/boards/{}/lead/message", world.board);
        let common = [("base", PUBLIC_URL), ("name", "Ops"), ("board", &world.board), ("content", "which one?"), ("correlation", "c-1")];
        for (by, path, name, own) in [
            (&world.main, lead, "lead", [("QUESTION", "HANDOFF"), ("actor", "Home Gateway Agent")]),
            (&world.lead, world.ask_user(), "user", [("channel", "slack"), ("actor", "Grace Hopper")]),
        ] {
            let body = json!({"content": "which one?", "kind": "handoff", "preferred_channel": "slack", "correlation_id": "c-1"});
            let taken = accepted(by.client.post(&path, &body).await);
            let job = errand.client().job(text(&taken["job_id"])).await;
            assert_eq!(text(&job["payload"]["message"]), on_the_page(name, &[&common[..], &own].concat()));
        }
        finish(errand).await;
    }

    async fn a_broadcast_is_a_job_for_each_board_of_the_gateway_newest_first(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let elsewhere = World::make(admin).await;
        let second = World::board(admin, "Second", Some(&world.gateway)).await;
        let third = World::board(admin, "Third", Some(&world.gateway)).await;
        let broadcast = async |body: Value| {
            let taken = accepted(world.main.client.post("/agent/gateway/leads/broadcast", &body).await);
            assert_eq!(taken["state"], "awaiting_children", "{taken}");
            let listed = admin.get(&format!("/jobs?parent_id={}", text(&taken["job_id"]))).await;
            // Listed newest first: the first that was made is the last.
            let boards: Vec<_> = listed.items().iter().rev().map(|job| text(&job["payload"]["board_id"]).to_owned()).collect();
            (boards, listed.items()[0].clone())
        };
        let (boards, child) = broadcast(json!({"content": "hear me", "board_ids": []})).await;
        assert_eq!(boards, [third.clone(), second.clone(), world.board.clone()]);
        assert_eq!(child["kind"], "lead_message");
        assert!(text(&child["payload"]["message"]).starts_with("GATEWAY MAIN QUESTION\nBoard: Ops\n"), "{child:#}");
        let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
        let chosen = json!({"content": "x", "board_ids": [second, elsewhere.board, unknown, second]});
        assert_eq!(broadcast(chosen).await.0, [second]);
        finish(errand).await;
    }

    async fn a_broadcast_to_more_than_a_thousand_boards_is_refused_and_nothing_is_made(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let names: Vec<_> = (0..1_000).map(|number| format!("Board {number}")).collect();
        for names in names.chunks(50) {
            join_all(names.iter().map(|name| World::board(admin, name, Some(&world.gateway)))).await;
        }
        let path = "/agent/gateway/leads/broadcast";
        let refused = post_once(&world.main.client, path, "k", &json!({"content": "x"})).await;
        assert_eq!((refused.status, &refused.body["code"]), (422, &json!("too_many_boards")), "{refused:?}");
        assert!(text(&refused.body["detail"]).starts_with("1001 boards are more than 1000"), "{refused:?}");
        let ids = vec![&world.board; 1_001];
        let listed = world.main.client.post(path, &json!({"content": "x", "board_ids": ids})).await;
        assert_eq!((listed.status, listed.pointers()), (422, vec!["/board_ids"]));
        assert!(admin.get("/jobs").await.items().is_empty());
        let chosen = json!({"content": "x", "board_ids": [world.board]});
        let sent = post_once(&world.main.client, path, "k", &chosen).await;
        assert_eq!(sent.status, 202, "a refusal leaves the key free: {sent:?}");
        finish(errand).await;
    }

    async fn what_is_written_of_a_soul_is_what_was_sent_without_the_space_around_it(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let hash = "0".repeat(64);
        let body = json!({"content": "\n# Ada\n {{ not a template }}\n", "reason": " why ", "expected_hash": hash});
        let taken = accepted(put(&world.lead.client, &world.soul(&world.worker.id), &body).await);
        let payload = admin.job(text(&taken["job_id"])).await["payload"].clone();
        assert_eq!((&payload["content"], &payload["expected_hash"]), (&json!("# Ada\n {{ not a template }}"), &json!(hash)));
        assert_eq!(payload["trace_id"], format!("soul.write:{}:{}", world.board, world.worker.id));
        let wrong = put(&world.lead.client, &world.soul(&world.worker.id), &json!({"content": "x", "expected_hash": "7"})).await;
        assert_eq!((wrong.status, wrong.pointers()), (422, vec!["/expected_hash"]));
        finish(errand).await;
    }

    async fn one_key_is_one_message_and_another_body_is_refused(setup: Setup) {
        let errand = start(setup).await;
        let world = World::make(errand.client()).await;
        let (lead, path) = (&world.lead.client, world.ask_user());
        let first = post_once(lead, &path, "k", &json!({"content": "x"})).await;
        let second = post_once(lead, &path, "k", &json!({"content": "x"})).await;
        assert_eq!((second.status, second.header("idempotency-replayed")), (202, "true"));
        assert_eq!(accepted(first), second.body, "with the same question");
        assert_eq!(post_once(lead, &path, "k", &json!({"content": "y"})).await.body["code"], "idempotency_mismatch");
        let other = post_once(&world.worker.client, &world.memory(), "k", &json!({"content": "x"})).await;
        assert_eq!(other.status, 200, "another agent's key is another key: {other:?}");
        assert_eq!(errand.client().get("/jobs").await.items().len(), 1);
        assert_eq!(errand.client().get("/questions").await.items().len(), 1);
        finish(errand).await;
    }
}
