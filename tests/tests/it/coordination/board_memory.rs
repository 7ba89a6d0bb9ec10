//! What is left on boards: notes, answers, chat, and who is told of it.

use errand_tests::{both_modes, sse::Sse};
use serde_json::{Value, json};

use super::{PUBLIC_URL, World, accepted, finish, ok, patch, post_once, start, text};

/// What agents were sent because of the chat: whom, and what.
async fn notices(errand: &errand_tests::Errand) -> Vec<(String, Value)> {
    let jobs = errand.client().get("/jobs?kind=notice").await;
    let mut notices: Vec<_> =
        jobs.items().iter().map(|job| (text(&job["payload"]["agent_id"]).to_owned(), job["payload"].clone())).collect();
    notices.sort_by(|one, other| one.0.cmp(&other.0));
    notices
}

both_modes! {
    async fn a_note_is_kept_and_listed_and_nobody_is_told(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let note = ok(world.worker.client.post(&world.memory(), &json!({"content": " done \n", "tags": ["log"], "colour": 1})).await);
        assert_eq!((&note["content"], &note["is_chat"], &note["source"]), (&json!("done"), &json!(false), &Value::Null));
        assert_eq!((&note["agent_id"], note.get("reply")), (&json!(world.worker.id), None));
        let by_user = ok(admin.post(&format!("/boards/{}/memory", world.board), &json!({"content": "second"})).await);
        assert_eq!(by_user["agent_id"], Value::Null);
        let listed = world.lead.client.get(&world.memory()).await;
        assert_eq!(listed.items(), [by_user.clone(), note.clone()], "newest first");
        assert_eq!((&listed.body["total"], &listed.body["limit"], &listed.body["offset"]), (&json!(2), &json!(200), &json!(0)));
        let page = admin.get(&format!("/boards/{}/memory?limit=1&offset=1", world.board)).await;
        assert_eq!((page.items(), &page.body["total"]), (&[note][..], &json!(2)));
        assert_eq!(world.main.client.get(&world.memory()).await.status, 200, "the gateway's own agent reads its boards");
        assert!(notices(&errand).await.is_empty());
        for body in [json!({"content": " "}), json!({"content": "x", "question_id": "y"}), json!({"content": "x", "tags": ["a".repeat(257)]})] {
            assert_eq!(world.lead.client.post(&world.memory(), &body).await.status, 422, "{body}");
        }
        let again = post_once(&world.lead.client, &world.memory(), "k", &json!({"content": "once"})).await;
        let repeated = post_once(&world.lead.client, &world.memory(), "k", &json!({"content": "once"})).await;
        assert_eq!((ok(again), repeated.header("idempotency-replayed")), (repeated.body.clone(), "true"));
        assert_eq!(world.lead.client.get(&world.memory()).await.body["total"], 3);
        finish(errand).await;
    }

    async fn a_reply_answers_the_question_it_is_meant_for(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let ask = async |body: Value| accepted(world.lead.client.post(&world.ask_user(), &body).await)["question_id"].clone();
        let reply = async |body: Value| ok(world.main.client.post(&world.memory(), &body).await);
        let usual = |content: &str| json!({"content": content, "tags": ["user_reply", "gateway_main"], "source": "user_via_gateway_main"});
        let (first, second) = (ask(json!({"content": "1?", "correlation_id": "one"})).await, ask(json!({"content": "2?"})).await);

        let either = reply(usual("which of both?")).await;
        assert_eq!((&either["question_id"], either.get("reply")), (&Value::Null, None), "two are as likely: none is answered");
        let named = reply(json!({"content": "yes", "correlation_id": "one"})).await;
        assert_eq!((&named["question_id"], &named["reply"]["accepted"]), (&first, &json!(true)), "{named:#}");
        let late = reply(json!({"content": "no", "question_id": first})).await;
        assert_eq!((&late["reply"]["accepted"], &late["reply"]["state"]), (&json!(false), &json!("answered")), "{late:#}");
        assert!(text(&late["reply"]["answered_by"]).contains(&world.main.id), "{late:#}");
        let by_tags = reply(usual("blue")).await;
        assert_eq!(by_tags["question_id"], second, "the only one left");

        let strict = ask(json!({"content": "n?", "answer_schema": {"type": "integer"}})).await;
        let unfit = reply(json!({"content": "many", "tags": [strict]})).await;
        assert_eq!((&unfit["question_id"], &unfit["reply"]["accepted"]), (&Value::Null, &json!(false)), "{unfit:#}");
        for body in [json!({"content": "no", "question_id": first}), json!({"content": "many", "question_id": strict})] {
            let key = text(&body["content"]);
            let told = ok(post_once(&world.main.client, &world.memory(), key, &body).await);
            let again = post_once(&world.main.client, &world.memory(), key, &body).await;
            assert_eq!(again.header("idempotency-replayed"), "true");
            assert_eq!((&again.body, &told["reply"]["accepted"]), (&told, &json!(false)), "repeated, it says the same");
        }
        let fit = reply(json!({"content": "7", "tags": [strict]})).await;
        assert_eq!(fit["question_id"], strict);
        let shown = ok(admin.get(&format!("/questions/{}", text(&strict))).await);
        assert_eq!((&shown["answer"], &shown["memory_id"]), (&json!(7), &fit["id"]));
        assert_eq!(world.lead.client.get(&world.memory()).await.body["total"], 8, "all of them are kept");
        finish(errand).await;
    }

    async fn chat_is_brought_to_the_lead_and_to_whom_it_mentions(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let said = ok(admin.post(&format!("/boards/{}/memory", world.board), &json!({"content": "hi @ada", "tags": ["chat"]})).await);
        assert_eq!((&said["is_chat"], &said["source"]), (&json!(true), &json!("Operator")));
        let mut expected = vec![
            (world.lead.id.clone(), "BOARD CHAT"),
            (world.worker.id.clone(), "BOARD CHAT MENTION"),
        ];
        expected.sort();
        let told = notices(&errand).await;
        assert_eq!(told.len(), 2);
        for ((agent, payload), (wanted, header)) in told.iter().zip(&expected) {
            let message = format!(
                "{header}\nBoard: Ops\nBoard ID: {board}\nFrom: Operator\n\nhi @ada\n\nReply in the board's chat:\n\
                 POST {PUBLIC_URL}/api/v1/agent/boards/{board}/memory\nBody: {{\"content\":\"...\",\"tags\":[\"chat\"]}}",
                board = world.board
            );
            assert_eq!((agent, text(&payload["message"]), &payload["deliver"]), (wanted, message.as_str(), &json!(false)));
        }
        ok(world.lead.client.post(&world.memory(), &json!({"content": "I said so", "tags": ["chat"]})).await);
        assert_eq!(notices(&errand).await.len(), 2, "the lead is not told what it said itself");
        finish(errand).await;
    }

    async fn a_command_goes_to_all_agents_and_the_board_is_paused(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        // Those that are there: bound to a session of the gateway.
        for agent in [&world.lead, &world.worker] {
            let body = json!({"openclaw_session_id": format!("agent:there-{}:main", agent.id)});
            assert_eq!(patch(admin, &format!("/agents/{}", agent.id), &body).await.body["is_bound"], true);
        }
        ok(world.lead.client.post(&world.memory(), &json!({"content": " /Pause", "tags": ["chat"]})).await);
        let told = notices(&errand).await;
        assert_eq!(told.len(), 1, "all but who said it");
        assert_eq!((told[0].0.as_str(), &told[0].1["message"], &told[0].1["deliver"]), (world.worker.id.as_str(), &json!("/pause"), &json!(true)));
        let board = format!("/boards/{}", world.board);
        assert_eq!(ok(admin.get(&board).await)["paused"], true);
        ok(admin.post(&format!("{board}/memory"), &json!({"content": "/resume", "tags": ["chat"]})).await);
        assert_eq!(ok(admin.get(&board).await)["paused"], false);
        assert_eq!(notices(&errand).await.len(), 3);
        finish(errand).await;
    }

    async fn watchers_see_a_board_from_its_beginning_and_live(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let post = async |content: &str| ok(world.worker.client.post(&world.memory(), &json!({"content": content})).await);
        let first = post("first").await;
        let stream = format!("{}/stream", world.memory());
        let mut by_agent = Sse::open(&world.lead.client, &stream, &[]).await;
        let mut by_user = Sse::open(admin, &format!("/boards/{}/events", world.board), &[]).await;
        let seen = by_agent.next().await.expect("the past");
        assert_eq!((seen.kind(), &seen.data["id"], &seen.data["content"]), ("memory", &first["id"], &json!("first")));
        assert_eq!(by_user.next().await.expect("the past").seq(), 1);
        accepted(world.lead.client.post(&world.ask_user(), &json!({"content": "?"})).await);
        assert_eq!(by_user.next().await.expect("live").kind(), "question_opened");
        post("second").await;
        let seen = by_agent.next().await.expect("live");
        assert_eq!((&seen.data["content"], &seen.data["prev"], seen.seq()), (&json!("second"), &json!(1), 3));
        let mut socket = errand_tests::socket::Socket::open(admin).await;
        let name = format!("board:{}", world.board);
        socket.send(&json!({"type": "subscribe", "id": 1, "stream": name, "after": 2})).await;
        let begun = socket.frame().await;
        assert_eq!((&begun["recovered"], &begun["tail_seq"]), (&json!(true), &json!(3)), "{begun}");
        assert_eq!(socket.frame().await["content"], "second");
        let mut anew = Sse::open(admin, &format!("/boards/{}/events?after=99", world.board), &[]).await;
        let snapshot = anew.next().await.expect("a snapshot");
        assert_eq!((snapshot.kind(), &snapshot.data["board"]["slug"]), ("snapshot", &json!("ops")));
        drop((by_agent, by_user, anew, socket));
        finish(errand).await;
    }
}
