//! The table of bridges: each behaviour, the outcome, and the exact history.

use std::time::Duration;

use errand_tests::{
    both_modes,
    bridge::{Plan, done},
};
use serde_json::{Value, json};

use super::{World, prompt_echo, turn};

const QUIET: &[&str] = &["session_info", "task_info", "queued", "started", "queued"];

fn told(tail: &[&str]) -> Vec<String> {
    [QUIET, tail].concat().into_iter().map(str::to_owned).collect()
}

fn failure(job: &Value) -> (&str, &str, &str) {
    let text = |field: &str| job["failure"][field].as_str().unwrap_or_default();
    (text("class"), text("code"), text("message"))
}

both_modes! {
    async fn one_that_answers_at_once_is_heard_however_early(setup: Setup) {
        // The answer is there before the prompt is acknowledged.
        let world = World::new(setup, |_, _| Plan { first: vec![done("fast")], ..Plan::silent() }).await;
        let task = world.ask("quick").await;
        let job = world.client().wait_for_completion(&task.id).await;
        assert_eq!((&job["result"]["summary"], &job["attempt"]), (&json!("fast"), &json!(1)));
        assert_eq!(world.bridge.heard(), [(200, json!({"received": true}))]);
        assert_eq!(world.said(&task).await, turn("quick", "fast"));
        let kinds = world.kinds(&task).await;
        assert_eq!(kinds[..4], told(&[])[..4]);
        assert_eq!(kinds[kinds.len() - 2..], ["text", "completed"]);
        world.finish().await;
    }

    async fn one_that_answers_late_is_waited_for(setup: Setup) {
        let world = World::new(setup, |_, _| Plan::later([(Duration::from_millis(400), done("at last"))])).await;
        let task = world.ask("slow").await;
        let prompt = world.parked(&task).await;
        let (sent, bytes) = &world.bridge.came()[0];
        assert_eq!(sent.session_key, format!("it0:{}", task.session_id));
        assert_eq!(sent.idempotency_key, task.id);
        assert_eq!(prompt.callback_data, json!({"sessionId": task.session_id, "taskId": task.id}));
        assert!(sent.callback_url.contains("/api/v1/agent/instances/openclaw-app-callback?token=1."), "{sent:?}");
        let fields: Value = serde_json::from_slice(bytes).expect("JSON");
        assert_eq!(fields.as_object().expect("an object").len(), 5);
        let job = world.client().wait_for_completion(&task.id).await;
        assert_eq!(job["result"]["tokensUsed"], 0);
        assert_eq!(world.said(&task).await, turn("slow", "at last"));
        assert_eq!(world.kinds(&task).await, told(&["text", "completed"]));
        assert!(!world.errand.log().contains("token=1."), "the token is in the log");
        world.finish().await;
    }

    async fn one_that_answers_twice_is_heard_once(setup: Setup) {
        let said = [done("one"), done("one"), done("two"), json!({"ok": false, "error": "no"})];
        let world = World::new(setup, move |_, _| Plan::says(said.clone())).await;
        let task = world.ask("twice").await;
        world.client().wait_for_completion(&task.id).await;
        errand_tests::wait::until("all was said", || async { (world.bridge.heard().len() == 4).then_some(()) }).await;
        let heard = world.bridge.heard();
        assert_eq!(heard.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [200, 200, 410, 410]);
        assert_eq!(heard[2].1["code"], "too_late");
        assert_eq!(world.said(&task).await, turn("twice", "one"));
        let kinds = world.kinds(&task).await;
        let count = |kind: &str| kinds.iter().filter(|seen| *seen == kind).count();
        assert_eq!((count("completed"), count("text"), count("late_callback"), count("error")), (1, 1, 1, 0));
        world.finish().await;
    }

    async fn one_that_never_answers_times_out(setup: Setup) {
        let world = World::new(setup, |_, _| Plan::silent()).await;
        let task = world.ask_with(&json!({"prompt": "hello?", "callbackSeconds": 1})).await;
        let prompt = world.taken(&task).await;
        let job = world.client().wait_for_end(&task.id).await;
        let told_so = "The agent did not respond in time; please try again";
        assert_eq!((job["state"].as_str(), failure(&job)), (Some("failed"), ("timeout", "TIMEOUT", told_so)));
        assert_eq!(world.bridge.came().len(), 1);
        let late = world.bridge.call_back(&prompt, done("oh")).await.expect("an answer");
        assert_eq!((late.0, &late.1["code"]), (410, &json!("too_late")));
        assert_eq!(world.said(&task).await.len(), 1);
        assert_eq!(world.kinds(&task).await, told(&["error", "late_callback"]));
        world.finish().await;
    }

    async fn one_that_fails_says_why(setup: Setup) {
        let setup = setup.section("texts", "locale = \"zh\"");
        let world = World::new(setup, |prompt, _| {
            Plan::says([match prompt.prompt.as_str() {
                "why" => json!({"ok": false, "error": "the model is gone"}),
                "slow" => json!({"ok": false, "error": "x", "isTimeout": true}),
                _ => json!({"ok": false}),
            }])
        })
        .await;
        for (prompt, class, code, message) in [
            ("why", "fatal", "EXECUTION_ERROR", "the model is gone"),
            ("slow", "timeout", "TIMEOUT", "智能体响应超时,请重试"),
            ("silent", "fatal", "EXECUTION_ERROR", "智能体发生错误"),
        ] {
            let task = world.ask(prompt).await;
            let job = world.client().wait_for_end(&task.id).await;
            assert_eq!((job["state"].as_str(), failure(&job)), (Some("failed"), (class, code, message)));
            assert_eq!(world.said(&task).await.len(), 1);
            let shown = world.client().get(&format!("/agent/tasks/{}", task.id)).await;
            assert_eq!((&shown.body["status"], &shown.body["result"]), (&json!("failed"), &json!(message)));
        }
        world.finish().await;
    }

    async fn one_that_has_nothing_to_say_succeeds(setup: Setup) {
        let world = World::new(setup, |_, _| Plan::says([json!({"ok": true})])).await;
        let task = world.ask("anything?").await;
        let job = world.client().wait_for_completion(&task.id).await;
        assert_eq!(job["result"]["summary"], "");
        assert_eq!(world.said(&task).await.len(), 1);
        world.finish().await;
    }

    async fn one_that_speaks_in_pieces_is_heard_as_it_speaks(setup: Setup) {
        let world = World::new(setup, |_, _| Plan::silent()).await;
        let task = world.ask("tell me").await;
        let prompt = world.parked(&task).await;
        for (seq, piece) in [(1, "one "), (1, "one "), (2, "two ")] {
            let heard = world.bridge.call_back(&prompt, json!({"partial": piece, "seq": seq})).await;
            assert_eq!(heard, Some((200, json!({"received": true}))));
        }
        world.client().wait_for_text(&task.id, "one two ").await;
        let usage = json!({"inputTokens": 5, "outputTokens": 2, "costUsd": 0.25, "model": "m"});
        let end = json!({"ok": true, "result": "one two three", "usage": usage});
        assert_eq!(world.bridge.call_back(&prompt, end).await.expect("an answer").0, 200);
        let job = world.client().wait_for_completion(&task.id).await;
        let result = &job["result"];
        assert_eq!((&result["tokensUsed"], &result["costUsd"], &result["model"]), (&json!(7), &json!(0.25), &json!("m")));
        assert_eq!(world.said(&task).await, turn("tell me", "one two three"));
        assert_eq!(world.kinds(&task).await, told(&["text", "text", "text", "usage", "completed"]));
        world.finish().await;
    }

    async fn one_that_refuses_is_asked_again_under_the_same_key_or_not_at_all(setup: Setup) {
        let world = World::new(setup, |prompt, before| match (prompt.prompt.as_str(), before) {
            ("busy", 0) => Plan { headers: vec![("retry-after".into(), "1".into())], ..Plan::refuses(429) },
            ("down", 0 | 1) => Plan::refuses(503),
            ("hang", 0) => Plan { hangs_up: true, ..Plan::says([done("HANG")]) },
            ("no", _) => Plan::refuses(422),
            _ => prompt_echo(prompt, before),
        })
        .await;
        for (prompt, came) in [("busy", 2), ("down", 3)] {
            let task = world.ask(prompt).await;
            world.client().wait_for_completion(&task.id).await;
            let sent: Vec<_> =
                world.bridge.came().into_iter().filter(|(sent, _)| sent.idempotency_key == task.id).collect();
            assert_eq!(sent.len(), came, "{prompt}");
            assert!(sent.iter().all(|(_, bytes)| *bytes == sent[0].1), "each of them byte by byte the same");
            assert_eq!(world.said(&task).await, turn(prompt, &prompt.to_uppercase()));
        }
        // It took the prompt and never said so; its answer comes all the same.
        let task = world.ask("hang").await;
        world.client().wait_for_completion(&task.id).await;
        assert_eq!(world.said(&task).await, turn("hang", "HANG"));

        let task = world.ask("no").await;
        let job = world.client().wait_for_end(&task.id).await;
        let (class, code, message) = failure(&job);
        assert_eq!((class, code), ("invalid", "REFUSED"));
        assert!(message.starts_with("Could not reach the agent: ") && message.contains("422"), "{message}");
        assert_eq!(job["attempt"], 1);
        world.finish().await;
    }
}
