//! Who may call back, and for what.

use errand_tests::{
    both_modes,
    bridge::{Plan, done},
    wait,
};
use serde_json::{Value, json};

use super::{World, turn};

fn code(heard: &Option<(u16, Value)>) -> (u16, &str) {
    let (status, body) = heard.as_ref().expect("an answer");
    (*status, body["code"].as_str().unwrap_or_default())
}

both_modes! {
    async fn a_token_that_was_changed_is_refused_and_changes_nothing(setup: Setup) {
        let setup = setup.section("auth", "failures_per_minute = 1000");
        let world = World::new(setup, |_, _| Plan::silent()).await;
        let task = world.ask("secret").await;
        let prompt = world.parked(&task).await;
        let before = world.client().job(&task.id).await;
        let url = world.bridge.url_of(&prompt);
        let (place, token) = url.split_once("token=").expect("a token");
        let mut forged = vec![place.trim_end_matches("?").to_owned(), format!("{place}token="), format!("{place}token=x.y.z.w")];
        let end = token.len() - 1;
        for at in [0, 2, token.len() / 2, end - 1, end] {
            let mut bytes = token.as_bytes().to_vec();
            bytes[at] ^= 1;
            forged.push(format!("{place}token={}", String::from_utf8(bytes).expect("ASCII")));
        }
        for url in &forged {
            let heard = world.bridge.post_raw(url, &done("mine")).await;
            let (status, code) = code(&heard);
            assert!(matches!((status, code), (401, "unauthenticated") | (400, "invalid_request")), "{url}: {heard:?}");
        }
        let after = world.client().job(&task.id).await;
        assert_eq!((&after["version"], &after["stream"]), (&before["version"], &before["stream"]));
        assert_eq!(world.bridge.call_back(&prompt, done("yours")).await.expect("an answer").0, 200);
        assert_eq!(world.said(&task).await, turn("secret", "yours"));
        world.finish().await;
    }

    async fn a_bridge_can_t_answer_for_another(setup: Setup) {
        let world = World::new(setup, |_, _| Plan::silent()).await;
        let (mine, other) = (world.ask("mine").await, world.ask("other").await);
        let (prompt, theirs) = (world.parked(&mine).await, world.parked(&other).await);
        let mut said = done("not for you");
        said["callbackData"] = theirs.callback_data.clone();
        assert_eq!(code(&world.bridge.call_back(&prompt, said).await), (404, "not_found"));
        for task in [&mine, &other] {
            assert_eq!(world.client().job(&task.id).await["state"], "awaiting_callback");
        }
        for (prompt, wrong) in [(&prompt, json!({})), (&prompt, json!({"ok": "yes"})), (&prompt, json!({"partial": "x", "seq": 0}))] {
            assert_eq!(code(&world.bridge.call_back(prompt, wrong).await).0, 400);
        }
        for prompt in [&prompt, &theirs] {
            assert_eq!(world.bridge.call_back(prompt, done("ok")).await.expect("an answer").0, 200);
        }
        world.finish().await;
    }

    async fn a_cancelled_task_stays_cancelled(setup: Setup) {
        let world = World::new(setup, |_, _| Plan::silent()).await;
        let task = world.ask("stop").await;
        let prompt = world.parked(&task).await;
        let answer = world.client().delete(&format!("/agent/tasks/{}", task.id)).await;
        assert_eq!(answer.body["message"], "Task cancelled");
        for _ in 0..3 {
            assert_eq!(code(&world.bridge.call_back(&prompt, done("anyway")).await), (410, "too_late"));
        }
        assert_eq!(world.client().job(&task.id).await["state"], "cancelled");
        assert_eq!(world.said(&task).await.len(), 1);
        let kinds = world.kinds(&task).await;
        assert_eq!(kinds[kinds.len() - 2..], ["cancelled", "late_callback"]);
        world.finish().await;
    }

    async fn fifty_at_once_are_one(setup: Setup) {
        let world = World::new(setup, |_, _| Plan::silent()).await;
        let task = world.ask("all of you").await;
        let prompt = world.parked(&task).await;
        let calls = (0..50).map(|_| world.bridge.call_back(&prompt, done("we")));
        for heard in futures::future::join_all(calls).await {
            assert_eq!(heard, Some((200, json!({"received": true}))));
        }
        let others = (0..50).map(|number| world.bridge.call_back(&prompt, done(&format!("I, {number}"))));
        for heard in futures::future::join_all(others).await {
            assert_eq!(code(&heard), (410, "too_late"));
        }
        assert_eq!(world.said(&task).await, turn("all of you", "we"));
        let kinds = world.kinds(&task).await;
        let count = |kind: &str| kinds.iter().filter(|seen| *seen == kind).count();
        assert_eq!((count("completed"), count("late_callback")), (1, 1));
        world.finish().await;
    }

    async fn an_instance_with_a_secret_wants_its_callbacks_signed(setup: Setup) {
        let mut world = World::new(setup, |_, _| Plan::silent()).await;
        let secret = "sixteen characters or more";
        world.instance = world.register(&json!({"callbackSecret": secret})).await;
        let shown = world.client().get(&format!("/agent/instances/{}", world.instance)).await;
        assert_eq!(shown.body["hasCallbackSecret"], true);
        assert!(!shown.text.contains(secret), "{}", shown.text);
        let task = world.ask("signed").await;
        let prompt = world.parked(&task).await;
        for wrong in [None, Some("another secret of some length")] {
            world.bridge.sign_with(wrong);
            assert_eq!(code(&world.bridge.call_back(&prompt, done("x")).await), (401, "unauthenticated"));
        }
        world.bridge.sign_with(Some(secret));
        assert_eq!(world.bridge.call_back(&prompt, done("signed")).await.expect("an answer").0, 200);
        world.client().wait_for_completion(&task.id).await;
        world.finish().await;
    }

    async fn a_bridge_that_was_left_is_superseded(setup: Setup) {
        // The first one takes the prompt and never says so.
        let world = World::new(setup, |_, _| Plan { hangs_up: true, ..Plan::silent() }).await;
        let task = world.ask("move").await;
        let old = world.taken(&task).await;
        let elsewhere = errand_tests::bridge::Bridge::start(|_, _| Plan::silent()).await;
        elsewhere.call_back_to(world.errand.url());
        let path = format!("/agent/instances/{}", world.instance);
        let moved = json!({"hostPort": elsewhere.address().port()});
        let request = world.client().request(reqwest::Method::PATCH, &path).json(&moved);
        assert_eq!(world.client().send(request).await.status, 200);
        let key = format!("{}:2", task.id);
        let new = wait::until("the other has it", || async { elsewhere.taken().get(&key).cloned() }).await;
        assert_eq!(code(&world.bridge.call_back(&old, done("old")).await), (409, "superseded"));
        assert_eq!(elsewhere.call_back(&new, done("new")).await.expect("an answer").0, 200);
        world.client().wait_for_completion(&task.id).await;
        assert_eq!(world.said(&task).await, turn("move", "new"));
        world.finish().await;
    }

    async fn a_bridge_is_asked_for_what_it_does_not_say(setup: Setup) {
        let mut world = World::new(setup, |_, _| Plan::silent()).await;
        world.instance = world.register(&json!({"pollSeconds": 5})).await;
        let (task, lost) = (world.ask("ask me").await, world.ask("lose me").await);
        world.parked(&task).await;
        world.parked(&lost).await;
        world.bridge.know(&task.id, done("you only had to ask"));
        world.bridge.forget(&lost.id);
        world.client().wait_for_completion(&task.id).await;
        assert_eq!(world.said(&task).await, turn("ask me", "you only had to ask"));
        let job = world.client().wait_for_end(&lost.id).await;
        assert_eq!(job["failure"]["code"], "BRIDGE_LOST_IT");
        wait::until("the questions are over", || async {
            let polls = world.client().get("/jobs?kind=instance_poll&state=live").await;
            polls.items().is_empty().then_some(())
        })
        .await;
        world.finish().await;
    }
}
