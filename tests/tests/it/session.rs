//! Conversations: who joins which, what is said in them, and what a busy one does.

use errand_tests::{Client, Task, both_modes, process, program, program::Programs};
use serde_json::{Value, json};

const BOOTSTRAP: &str = "errand_the-key-of-another-tenant-0123456789";

async fn join(client: &Client, session: &str, prompt: &str, on_busy: &str) -> Task {
    client.submit_task(&json!({"prompt": prompt, "sessionId": session, "onBusy": on_busy})).await
}

async fn started_at(client: &Client, task: &Task) -> String {
    client.wait_for_completion(&task.id).await["started_at"].as_str().expect("started").to_owned()
}

both_modes! {
    async fn tasks_of_one_session_share_a_history_in_order(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let first = client.submit_task(&json!({"prompt": "one"})).await;
        client.wait_for_completion(&first.id).await;
        let second = join(client, &first.session_id, "two", "enqueue").await;
        assert_eq!(second.session_id, first.session_id);
        client.wait_for_completion(&second.id).await;

        let said: Vec<(Value, Value)> = client
            .messages(&first.session_id)
            .await
            .into_iter()
            .map(|message| (message["role"].clone(), message["content"].clone()))
            .collect();
        let wanted = [("user", "one"), ("assistant", "one"), ("user", "two"), ("assistant", "two")];
        assert_eq!(said, wanted.map(|(role, content)| (json!(role), json!(content))));

        let sessions = client.get("/agent/sessions").await;
        assert_eq!(sessions.items().len(), 1);
        assert_eq!(sessions.items()[0]["id"], first.session_id);
        let tasks = client.get(&format!("/agent/sessions/{}/tasks", first.session_id)).await;
        let mut ids: Vec<&str> = tasks.items().iter().filter_map(|task| task["id"].as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, [first.id.as_str(), second.id.as_str()]);
        errand.finish().await;
    }

    async fn a_session_shows_what_it_was_opened_with_and_keeps_it(setup: Setup) {
        let errand = setup.engine("second", "type = \"echo\"\nword_delay_ms = 0").start().await;
        let client = errand.client();
        let prompt = "  a first prompt that goes on for longer than forty characters";
        // As clients send what they have nothing for.
        let body = json!({"prompt": prompt, "sessionId": "", "engineType": "", "systemPrompt": "Be brief.", "attachments": null});
        let first = client.submit_task(&body).await;
        client.wait_for_completion(&first.id).await;
        let shown = async || client.get(&format!("/agent/sessions/{}", first.session_id)).await.body;
        let opened = shown().await;
        let metadata = json!({"title": "a first prompt that goes on for longer", "titleSet": true, "voiceMode": false});
        assert_eq!((&opened["metadata"], &opened["status"]), (&metadata, &json!("active")), "{opened:#}");
        assert_eq!((&opened["engineType"], &opened["systemPrompt"]), (&json!("echo"), &json!("Be brief.")));
        let other = json!({"prompt": "other", "sessionId": first.session_id, "engineType": "second", "systemPrompt": "Be long."});
        let second = client.submit_task(&other).await;
        assert_eq!(client.wait_for_completion(&second.id).await["payload"]["engineType"], "second", "this task's own");
        let later = shown().await;
        for field in ["metadata", "status", "engineType", "systemPrompt", "createdAt"] {
            assert_eq!(later[field], opened[field], "{field}");
        }
        assert!(later["updatedAt"].as_str() > opened["updatedAt"].as_str(), "{later:#}");
        errand.finish().await;
    }

    async fn an_unknown_session_in_a_body_opens_a_new_one_and_in_a_path_is_not_found(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let unknown = uuid::Uuid::now_v7().to_string();
        let task = join(client, &unknown, "hello", "interrupt").await;
        assert_ne!(task.session_id, unknown);
        client.wait_for_completion(&task.id).await;
        for path in ["", "/messages", "/tasks", "/events"] {
            assert_eq!(client.get(&format!("/agent/sessions/{unknown}{path}")).await.status, 404, "{path}");
            assert_eq!(client.get(&format!("/agent/sessions/no-id{path}")).await.status, 400, "{path}");
        }
        errand.finish().await;
    }

    async fn another_tenants_session_is_as_good_as_unknown(setup: Setup) {
        let errand = setup.section("auth", &format!("bootstrap_key = {BOOTSTRAP:?}")).start().await;
        let ours = errand.client();
        let theirs = ours.with_key(BOOTSTRAP);
        let secret = ours.submit_task(&json!({"prompt": "between us"})).await;
        ours.wait_for_completion(&secret.id).await;
        let intruder = join(&theirs, &secret.session_id, "let me in", "interrupt").await;
        assert_ne!(intruder.session_id, secret.session_id);
        theirs.wait_for_completion(&intruder.id).await;
        for path in [
            format!("/agent/tasks/{}", secret.id),
            format!("/jobs/{}", secret.id),
            format!("/jobs/{}/events", secret.id),
            format!("/jobs/{}/timeline", secret.id),
            format!("/agent/sessions/{}", secret.session_id),
            format!("/agent/sessions/{}/messages", secret.session_id),
            format!("/agent/sessions/{}/events", secret.session_id),
        ] {
            assert_eq!(theirs.get(&path).await.status, 404, "{path}");
        }
        assert_eq!(theirs.delete(&format!("/agent/tasks/{}", secret.id)).await.status, 404);
        assert_eq!(theirs.delete(&format!("/agent/sessions/{}", secret.session_id)).await.status, 404);
        assert_eq!(theirs.get("/jobs").await.items().len(), 1);
        assert_eq!(ours.messages(&secret.session_id).await.len(), 2);
        errand.finish().await;
    }

    async fn a_new_task_interrupts_the_active_one_unless_told_otherwise(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "so far", "never")).start().await;
        let client = errand.client();
        let first = client.submit_task(&json!({"prompt": "long", "engineType": "gated"})).await;
        client.wait_for_text(&first.id, "so far").await;
        let second = client.submit_task(&json!({"prompt": "short", "sessionId": first.session_id})).await;
        client.wait_for_completion(&second.id).await;
        assert_eq!(client.job(&first.id).await["state"], "cancelled");
        assert_eq!(process::of_task(&first.id), []);
        let said: Vec<Value> =
            client.messages(&first.session_id).await.iter().map(|message| message["content"].clone()).collect();
        assert_eq!(said, ["long", "so far\n\n[interrupted]", "short", "short"].map(|text| json!(text)));
        errand.finish().await;
    }

    async fn enqueued_tasks_wait_their_turn_in_order(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "a", "b")).start().await;
        let client = errand.client();
        let first = client.submit_task(&json!({"prompt": "long", "engineType": "gated"})).await;
        client.wait_for_text(&first.id, "a").await;
        let mut line = Vec::new();
        for prompt in ["second", "third", "fourth"] {
            let task = join(client, &first.session_id, prompt, "enqueue").await;
            assert_eq!(client.job(&task.id).await["state"], "blocked");
            line.push(task);
        }
        programs.open_gate("gated");
        let mut starts = vec![started_at(client, &first).await];
        for task in &line {
            starts.push(started_at(client, task).await);
        }
        assert!(starts.is_sorted(), "{starts:?}");
        let said: Vec<Value> =
            client.messages(&first.session_id).await.iter().map(|message| message["content"].clone()).collect();
        let wanted = ["long", "a\nb\n", "second", "second", "third", "third", "fourth", "fourth"];
        assert_eq!(said, wanted.map(|text| json!(text)));
        errand.finish().await;
    }

    async fn a_busy_session_refuses_whoever_asked_for_that(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "a", "b")).start().await;
        let client = errand.client();
        let first = client.submit_task(&json!({"prompt": "long", "engineType": "gated"})).await;
        let body = json!({"prompt": "me too", "sessionId": first.session_id, "onBusy": "reject"});
        let refused = client.post("/agent/tasks", &body).await;
        assert_eq!((refused.status, &refused.body["code"]), (409, &json!("session_busy")), "{refused:?}");
        assert_eq!(client.get("/jobs").await.items().len(), 1, "nothing is stored of it");
        programs.open_gate("gated");
        client.wait_for_completion(&first.id).await;
        errand.finish().await;
    }

    async fn a_closed_session_stops_its_work_and_takes_no_more(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("hang", &programs.engine("hang", program::HANGING)).start().await;
        let client = errand.client();
        let first = client.submit_task(&json!({"prompt": "long", "engineType": "hang"})).await;
        client.wait_for_state(&first.id, "running").await;
        let waiting = join(client, &first.session_id, "next", "enqueue").await;
        assert_eq!(client.delete(&format!("/agent/sessions/{}", first.session_id)).await.status, 200);
        for task in [&first, &waiting] {
            assert_eq!(client.wait_for_end(&task.id).await["state"], "cancelled");
        }
        let later = join(client, &first.session_id, "anyone there?", "interrupt").await;
        assert_ne!(later.session_id, first.session_id);
        client.wait_for_completion(&later.id).await;
        assert_eq!(client.messages(&first.session_id).await[0]["content"], "long", "its history stays");
        errand.finish().await;
    }
}
