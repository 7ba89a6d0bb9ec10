//! Saying something into a conversation whose task runs, and what a hundred at once do to a session.

use errand_tests::{Client, both_modes, client::task_of, program::Programs};
use futures::future::join_all;
use serde_json::{Value, json};

const AT_ONCE: usize = 100;

async fn contents(client: &Client, session: &str) -> Vec<Value> {
    let mut said = Vec::new();
    let mut path = format!("/agent/sessions/{session}/messages?limit=200");
    loop {
        let page = client.get(&path).await;
        assert_eq!(page.status, 200, "{page:?}");
        said.extend(page.items().iter().map(|message| message["content"].clone()));
        match page.body["next_cursor"].as_str() {
            Some(cursor) => path = format!("/agent/sessions/{session}/messages?limit=200&cursor={cursor}"),
            None => return said,
        }
    }
}

both_modes! {
    async fn an_injected_message_stops_the_task_and_goes_on_with_its_engine_and_history(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "so far", "and on")).start().await;
        let client = errand.client();
        let body = json!({"prompt": "long", "engineType": "gated", "systemPrompt": "be brief", "allowedTools": ["Bash"]});
        let first = client.submit_task(&body).await;
        client.wait_for_text(&first.id, "so far").await;
        let path = format!("/agent/tasks/{}/inject", first.id);
        let answer = client.post(&path, &json!({"message": "do this instead"})).await;
        assert_eq!((answer.status, &answer.body["injected"]), (202, &json!(true)), "{answer:?}");
        let next = task_of(&answer);
        assert_eq!(next.session_id, first.session_id);
        assert_eq!(answer.header("location"), format!("/api/v1/jobs/{}", next.id));
        programs.open_gate("gated");
        let job = client.wait_for_completion(&next.id).await;
        let payload = &job["payload"];
        assert_eq!(payload["engineType"], "gated", "not the default engine");
        assert_eq!((&payload["systemPrompt"], &payload["allowedTools"]), (&json!("be brief"), &json!([])));
        assert_eq!((&payload["maxTurns"], &payload["maxContextMessages"]), (&json!(10), &json!(20)));

        assert_eq!(client.job(&first.id).await["state"], "cancelled");
        let stopped = client.events(&first.id).await;
        let cancelled = stopped.iter().find(|frame| frame.kind() == "cancelled").expect("an event");
        assert_eq!(cancelled.data["code"], "USER_INJECT");
        assert_eq!(cancelled.data["message"], "Interrupted by user injection");
        let events = client.events(&next.id).await;
        let info = events.iter().find(|frame| frame.kind() == "task_info").expect("watchers learn of the new task");
        assert_eq!(info.data["taskId"], next.id);
        let wanted = ["long", "so far\n\n[interrupted]", "do this instead", "so far\nand on\n"];
        assert_eq!(contents(client, &first.session_id).await, wanted.map(|text| json!(text)));
        errand.finish().await;
    }

    async fn an_injection_needs_a_message_and_a_task_of_ones_own(setup: Setup) {
        const STRANGER: &str = "errand_the-key-of-another-tenant-0123456789";
        let errand = setup.section("auth", &format!("bootstrap_key = {STRANGER:?}")).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "hello"})).await;
        client.wait_for_completion(&task.id).await;
        let path = format!("/agent/tasks/{}/inject", task.id);
        for body in [json!({}), json!({"message": " \n"})] {
            let blank = client.post(&path, &body).await;
            assert_eq!((blank.status, &blank.body["detail"]), (400, &json!("Message is required")), "{blank:?}");
        }
        let body = json!({"message": "hi"});
        assert_eq!(client.with_key(STRANGER).post(&path, &body).await.status, 404);
        let unknown = format!("/agent/tasks/{}/inject", uuid::Uuid::now_v7());
        let unknown = client.post(&unknown, &body).await;
        let detail = unknown.body["detail"].as_str().unwrap_or_default();
        assert!(unknown.status == 404 && detail.starts_with("Task ") && detail.ends_with(" not found"), "{unknown:?}");
        assert_eq!(client.get("/jobs").await.items().len(), 1, "nothing is stored of them");

        // The task has ended: the conversation goes on all the same. Twice under one key is once.
        let send = || client.request(reqwest::Method::POST, &path).header("idempotency-key", "once").json(&body);
        let (one, two) = (client.send(send()).await, client.send(send()).await);
        assert_eq!((one.status, &one.body), (202, &two.body), "{two:?}");
        assert_eq!(two.header("idempotency-replayed"), "true");
        client.wait_for_completion(&task_of(&one).id).await;
        assert_eq!(client.job(&task.id).await["state"], "completed", "what has ended stays as it ended");
        assert_eq!(contents(client, &task.session_id).await, ["hello", "hello", "hi", "hi"].map(|text| json!(text)));
        errand.finish().await;
    }

    async fn a_hundred_at_once_in_one_session_leave_one_live_lose_nothing_and_keep_the_order(setup: Setup) {
        let errand = setup.section("worker", "lease_seconds = 30\nconcurrency = 8").start().await;
        let client = errand.client();
        for on_busy in ["enqueue", "interrupt", "steer", "reject"] {
            let first = client.submit_task(&json!({"prompt": "first"})).await;
            client.wait_for_completion(&first.id).await;
            let session = &first.session_id;
            let answers = join_all((0..AT_ONCE).map(|number| async move {
                let body = json!({"prompt": format!("number {number}"), "sessionId": session, "onBusy": on_busy});
                client.post("/agent/tasks", &body).await
            }))
            .await;
            let mut taken = Vec::new();
            for answer in &answers {
                if answer.status == 202 {
                    let task = task_of(answer);
                    assert_eq!(task.session_id, *session);
                    taken.push(task.id);
                } else {
                    assert_eq!((answer.status, on_busy), (409, "reject"), "{answer:?}");
                }
            }
            assert!(!taken.is_empty() && (on_busy == "reject" || taken.len() == AT_ONCE), "{on_busy}: {}", taken.len());
            // When each was live: from its claim to its end.
            let mut lives = Vec::new();
            let mut said = Vec::new();
            for id in &taken {
                let job = client.wait_for_end(id).await;
                let state = job["state"].as_str().expect("a state").to_owned();
                assert!(state == "completed" || (state == "cancelled" && ["interrupt", "steer"].contains(&on_busy)), "{job:#}");
                let prompt = job["payload"]["prompt"].clone();
                if let Some(started) = job["started_at"].as_str() {
                    lives.push((started.to_owned(), job["finished_at"].as_str().expect("ended").to_owned()));
                }
                if state == "completed" {
                    said.push(prompt);
                }
            }
            lives.sort();
            for pair in lives.windows(2) {
                assert!(pair[0].1 <= pair[1].0, "{on_busy}: two were live at once: {pair:?}");
            }
            let history = contents(client, session).await;
            for prompt in &said {
                let answered = history.windows(2).filter(|pair| pair[0] == *prompt && pair[1] == *prompt).count();
                assert_eq!(answered, 1, "{on_busy}: {prompt} is followed by its answer, once: {history:#?}");
            }
            if on_busy == "enqueue" {
                assert_eq!(history.len(), 2 + 2 * AT_ONCE);
            }
        }
        errand.finish().await;
    }
}
