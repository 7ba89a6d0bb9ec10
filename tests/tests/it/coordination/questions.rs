//! Questions to people: who may answer, what counts, and who is told.

use errand_tests::{Client, both_modes, wait};
use futures::future::join_all;
use serde_json::{Value, json};

use super::{World, accepted, finish, ok, post_and_wait, post_once, start, text};

async fn ask(world: &World, body: &Value) -> Value {
    accepted(world.lead.client.post(&world.ask_user(), body).await)
}

fn answer_path(asked: &Value) -> String {
    format!("/questions/{}/answer", text(&asked["question_id"]))
}

/// The nudge that tells the asking agent.
async fn told(admin: &Client) -> Vec<Value> {
    let jobs = admin.get("/jobs?kind=nudge").await;
    jobs.items().iter().map(|job| job["payload"].clone()).collect()
}

both_modes! {
    async fn the_first_answer_counts_the_asker_is_told_and_the_next_is_told_so(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let asked = ask(&world, &json!({"content": "which?", "correlation_id": "c"})).await;
        let shown = ok(admin.get(&format!("/questions/{}", text(&asked["question_id"]))).await);
        assert_eq!((&shown["state"], &shown["agent_id"], &shown["job_id"]), (&json!("open"), &json!(world.lead.id), &asked["job_id"]));
        let own = format!("/questions/{}", text(&asked["question_id"]));
        for agent in [&world.lead, &world.worker, &world.main] {
            assert_eq!(agent.client.get(&own).await.body["id"], asked["question_id"], "agents see those of their boards");
        }
        let elsewhere = World::make(admin).await;
        assert_eq!(elsewhere.lead.client.get(&own).await.status, 404);
        assert_eq!(elsewhere.lead.client.get(&format!("/questions?board_id={}", world.board)).await.status, 403);
        assert_eq!((world.lead.client.get("/questions").await.items().len(), elsewhere.lead.client.get("/questions").await.items().len()), (1, 0));
        assert_eq!(world.main.client.get("/questions").await.pointers(), ["query:board_id"]);
        let path = answer_path(&asked);
        for body in [json!({"answer": " "}), json!({"answer": null}), json!({})] {
            assert_eq!(admin.post(&path, &body).await.status, 422, "{body}");
        }
        let won = ok(admin.post(&path, &json!({"answer": "blue"})).await);
        assert_eq!((&won["state"], &won["answer"]), (&json!("answered"), &json!("blue")));
        let late = admin.post(&path, &json!({"answer": "red"})).await;
        assert_eq!((late.status, &late.body["code"]), (409, &json!("already_answered")), "{late:?}");
        assert!(text(&late.body["detail"]).contains(text(&won["answered_by"])), "it names who answered: {late:?}");
        let job = admin.job(text(&asked["job_id"])).await;
        assert_eq!((&job["state"], &job["result"]["answer"]), (&json!("completed"), &json!("blue")));
        let told = told(admin).await;
        assert_eq!(told.len(), 1);
        assert_eq!(told[0]["agent_id"], world.lead.id);
        let expected = format!(
            "USER ANSWER\nBoard: Ops\nBoard ID: {}\nQuestion ID: {}\nCorrelation ID: c\n\nblue",
            world.board, text(&asked["question_id"])
        );
        assert_eq!(text(&told[0]["message"]), expected);
        finish(errand).await;
    }

    async fn an_answer_has_to_follow_the_schema(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
        let path = answer_path(&ask(&world, &json!({"content": "how many?", "answer_schema": schema})).await);
        let unfit = admin.post(&path, &json!({"answer": {"n": "seven"}})).await;
        assert_eq!((unfit.status, unfit.pointers()), (422, vec!["/answer/n"]), "{unfit:?}");
        assert_eq!(unfit.body["code"], "unfit_answer");
        let won = ok(admin.post(&path, &json!({"answer": "{\"n\": 7}"})).await);
        assert_eq!(won["answer"], json!({"n": 7}), "a text that is the JSON that is asked for");
        finish(errand).await;
    }

    async fn of_many_answers_at_once_one_wins_and_a_repeated_request_is_the_same_answer(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let path = answer_path(&ask(&world, &json!({"content": "which?"})).await);
        let bodies: Vec<_> = (0..10).map(|number| json!({"answer": format!("answer {number}")})).collect();
        let answers = join_all(bodies.iter().map(|body| admin.post(&path, body))).await;
        let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [&[200][..], &[409; 9]].concat());
        assert_eq!(told(admin).await.len(), 1);
        let path = answer_path(&ask(&world, &json!({"content": "and now?"})).await);
        let first = post_once(admin, &path, "k", &json!({"answer": "x"})).await;
        let again = post_once(admin, &path, "k", &json!({"answer": "x"})).await;
        assert_eq!((ok(first), again.header("idempotency-replayed")), (again.body.clone(), "true"));
        finish(errand).await;
    }

    async fn who_waits_is_answered_when_the_job_goes_on_or_fails(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let path = world.ask_user();
        let open = async || {
            wait::until("a question is open", || async {
                admin.get("/questions?state=open").await.items().first().cloned()
            }).await
        };
        let body = json!({"content": "x"});
        let asking = post_and_wait(&world.lead.client, &path, 60, &body);
        let answering = async {
            let question = open().await;
            ok(admin.post(&format!("/questions/{}/answer", text(&question["id"])), &json!({"answer": "y"})).await);
            question
        };
        let (asked, question) = tokio::join!(asking, answering);
        assert_eq!(asked.header("preference-applied"), "wait");
        assert_eq!(
            ok(asked),
            json!({
                "ok": true, "board_id": world.board, "main_agent_id": world.main.id,
                "main_agent_name": "Home Gateway Agent", "question_id": question["id"],
            })
        );
        let asking = post_and_wait(&world.lead.client, &path, 60, &body);
        let withdrawing = async {
            let question = open().await;
            ok(admin.post(&format!("/jobs/{}/cancel", text(&question["job_id"])), &json!({})).await);
            question
        };
        let (asked, question) = tokio::join!(asking, withdrawing);
        assert_eq!((asked.status, &asked.body["retryable"]), (502, &json!(false)), "{asked:?}");
        assert!(text(&asked.body["detail"]).starts_with("Gateway ask-user dispatch failed: "), "{asked:?}");
        let withdrawn = admin.post(&format!("/questions/{}/answer", text(&question["id"])), &json!({"answer": "z"})).await;
        assert_eq!((withdrawn.status, &withdrawn.body["code"]), (409, &json!("question_cancelled")));
        let late = post_and_wait(&world.lead.client, &path, 1, &body).await;
        assert_eq!(late.status, 202, "time ran out: {late:?}");
        finish(errand).await;
    }

    async fn a_broadcast_to_nobody_is_done_at_once(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let gateway = ok(admin.post("/gateways", &json!({"name": "Empty", "url": "wss://gateway.example.com"})).await);
        let main = admin.with_key(text(&gateway["main_agent_token"]));
        let done = post_and_wait(&main, "/agent/gateway/leads/broadcast", 30, &json!({"content": "anyone?"})).await;
        assert_eq!(ok(done), json!({"ok": true, "sent": 0, "failed": 0, "results": []}));
        let told = admin.get("/activity").await;
        assert_eq!(told.items()[0]["message"], "Broadcast question to 0 board leads (failed: 0).", "{told:?}");
        assert_eq!(told.items()[0]["event_type"], "gateway.main.lead_broadcast.sent");
        finish(errand).await;
    }
}
