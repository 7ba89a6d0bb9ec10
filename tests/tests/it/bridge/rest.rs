//! The routes of instances: who may do what, and in which words they are refused.

use errand_tests::{
    both_modes,
    bridge::Plan,
    identity::{IdentityProvider, SigningKey, claims},
    wait,
};
use reqwest::Method;
use serde_json::json;

use super::{World, prompt_echo, turn};

both_modes! {
    async fn an_instance_is_registered_changed_and_removed(setup: Setup) {
        let world = World::new(setup, prompt_echo).await;
        let client = world.client();
        let path = format!("/agent/instances/{}", world.instance);
        let shown = client.get(&path).await.body;
        assert_eq!((&shown["name"], &shown["status"], &shown["userId"]), (&json!("near"), &json!("running"), &json!(null)));
        assert_eq!(client.get("/agent/instances").await.items()[0], shown);
        let patch = async |body| client.send(client.request(Method::PATCH, &path).json(&body)).await;
        let tasks = format!("{path}/tasks");
        let ask = async || client.post(&tasks, &json!({"prompt": "hi"})).await;

        assert_eq!(patch(json!({"status": "stopped"})).await.body["status"], "stopped");
        let refused = ask().await;
        assert_eq!(refused.status, 400);
        assert_eq!(refused.body["detail"], "Instance is stopped — it must be running to accept messages");
        assert_eq!(patch(json!({"status": "running", "serverHost": null})).await.body["serverHost"], json!(null));
        assert_eq!(ask().await.body["detail"], "Instance has no server host configured");
        let fixed = patch(json!({"serverHost": "127.0.0.1", "name": "home"})).await;
        assert_eq!((fixed.status, &fixed.body["name"]), (200, &json!("home")));
        for (wrong, pointer) in [
            (json!({"serverHost": "10.0.0.1"}), "/serverHost"),
            (json!({"serverHost": "http://x"}), "/serverHost"),
            (json!({"hostPort": 0}), "/hostPort"),
            (json!({"name": " "}), "/name"),
            (json!({"callbackSecret": "short"}), "/callbackSecret"),
            (json!({"status": "asleep"}), "/status"),
        ] {
            let answer = patch(wrong.clone()).await;
            assert_eq!((answer.status, answer.pointers()), (400, vec![pointer]), "{wrong}");
        }
        let blank = client.post(&tasks, &json!({"prompt": " "})).await;
        assert_eq!((blank.status, blank.pointers()), (400, vec!["/prompt"]));

        let task = world.ask("hello").await;
        client.wait_for_completion(&task.id).await;
        let again = world.ask_with(&json!({"prompt": "more", "sessionId": task.session_id})).await;
        assert_eq!(again.session_id, task.session_id);
        client.wait_for_completion(&again.id).await;
        let other = world.ask("new").await;
        assert_ne!(other.session_id, task.session_id);
        client.wait_for_completion(&other.id).await;
        let sessions = client.get(&format!("{path}/sessions")).await;
        let listed: Vec<_> = sessions.body.as_array().expect("an array").iter().map(|session| &session["title"]).collect();
        assert_eq!(listed, ["new", "hello"]);
        let fields: Vec<_> = sessions.body[0].as_object().expect("an object").keys().cloned().collect();
        assert_eq!(fields, ["createdAt", "id", "status", "title", "updatedAt"]);
        assert_eq!(client.get(&format!("/agent/sessions/{}/tasks", task.session_id)).await.items().len(), 2);

        assert_eq!(client.delete(&path).await.body["message"], "Instance removed");
        let gone = ask().await;
        assert_eq!((gone.status, gone.body["detail"].as_str()), (404, Some(format!("Instance {} not found", world.instance).as_str())));
        world.finish().await;
    }

    async fn an_instance_with_unfinished_tasks_stays(setup: Setup) {
        let world = World::new(setup, |_, _| Plan::silent()).await;
        let task = world.ask("wait").await;
        world.parked(&task).await;
        let path = format!("/agent/instances/{}", world.instance);
        let refused = world.client().delete(&path).await;
        assert_eq!((refused.status, &refused.body["code"]), (409, &json!("in_use")));
        world.client().delete(&format!("/agent/tasks/{}", task.id)).await;
        assert_eq!(world.client().delete(&path).await.status, 200);
        world.finish().await;
    }

    async fn a_user_reaches_their_own_instances_and_those_of_all(setup: Setup) {
        let (provider, key) = (IdentityProvider::start().await, SigningKey::ec("e1"));
        provider.publish(&[&key]);
        let mut world = World::new(setup.section("auth", &provider.settings()), prompt_echo).await;
        let everyones = world.instance.clone();
        world.instance = world.register(&json!({"userId": "ann"})).await;
        let user = |name: &str| world.client().with_key(&key.sign(&claims(name)));
        let (ann, bob) = (user("ann"), user("bob"));
        let path = format!("/agent/instances/{}", world.instance);
        for answer in [
            bob.get(&path).await,
            bob.get(&format!("{path}/sessions")).await,
            bob.post(&format!("{path}/tasks"), &json!({"prompt": "x"})).await,
        ] {
            assert_eq!((answer.status, &answer.body["detail"]), (403, &json!("Instance does not belong to you")));
        }
        assert_eq!(bob.post("/agent/instances", &json!({"name": "x", "hostPort": 1})).await.status, 403);
        let seen = async |client: &errand_tests::Client| client.get("/agent/instances").await.items().len();
        assert_eq!((seen(&ann).await, seen(&bob).await), (2, 1));
        let answer = ann.post(&format!("{path}/tasks"), &json!({"prompt": "mine"})).await;
        let task = errand_tests::client::task_of(&answer);
        ann.wait_for_completion(&task.id).await;
        assert_eq!(bob.get(&format!("/agent/tasks/{}", task.id)).await.status, 404);
        let shared = ann.post(&format!("/agent/instances/{everyones}/tasks"), &json!({"prompt": "ours"})).await;
        let shared = errand_tests::client::task_of(&shared);
        ann.wait_for_completion(&shared.id).await;
        assert_eq!(bob.get(&format!("/agent/instances/{everyones}/sessions")).await.body, json!([]));
        assert_eq!(ann.get(&format!("/agent/instances/{everyones}/sessions")).await.body.as_array().map(Vec::len), Some(1));
        world.finish().await;
    }

    async fn prompts_wait_in_line_unless_they_interrupt(setup: Setup) {
        let world = World::new(setup, |prompt, before| match prompt.prompt.as_str() {
            "first" => Plan::silent(),
            _ => prompt_echo(prompt, before),
        })
        .await;
        let first = world.ask("first").await;
        let prompt = world.parked(&first).await;
        let in_line = json!({"prompt": "second", "sessionId": first.session_id});
        let second = world.ask_with(&in_line).await;
        assert_eq!(world.client().job(&second.id).await["state"], "blocked");
        let injected = world.client().post(&format!("/agent/tasks/{}/inject", first.id), &json!({"message": "rather this"})).await;
        assert_eq!(injected.status, 202, "{injected:?}");
        let injected = errand_tests::client::task_of(&injected);
        assert_eq!(injected.session_id, first.session_id);
        for task in [&injected, &second] {
            world.client().wait_for_completion(&task.id).await;
        }
        assert_eq!(world.client().job(&first.id).await["failure"]["code"], "USER_INJECT");
        assert_eq!(world.bridge.call_back(&prompt, errand_tests::bridge::done("x")).await.expect("an answer").0, 410);
        let said: Vec<_> = world.said(&first).await.into_iter().map(|(_, text)| text).collect();
        assert_eq!(said, ["first", "rather this", "RATHER THIS", "second", "SECOND"]);
        world.finish().await;
    }

    async fn a_retry_is_handed_over_anew(setup: Setup) {
        let world = World::new(setup, |_, _| Plan::says([json!({"ok": false, "error": "no"})])).await;
        let task = world.ask("again").await;
        world.client().wait_for_end(&task.id).await;
        let answer = world.client().post(&format!("/jobs/{}/retry", task.id), &json!({})).await;
        assert!(answer.status < 300, "{answer:?}");
        wait::until("it came twice", || async { (world.bridge.taken().len() == 2).then_some(()) }).await;
        let id = answer.body["job_id"].as_str().or(answer.body["id"].as_str()).expect("an id").to_owned();
        let job = world.client().wait_for_end(&id).await;
        assert_eq!((&job["session_id"], &job["retry_of"]), (&json!(task.session_id), &json!(task.id)));
        assert!(world.bridge.taken().contains_key(&id));
        world.finish().await;
    }

    async fn a_prompt_may_be_a_job_like_any_other(setup: Setup) {
        let world = World::new(setup, prompt_echo).await;
        let job = |payload| json!({"kind": "instance_task", "payload": payload, "priority": 0, "metadata": {"a": 1}});
        let good = job(json!({"instanceId": world.instance, "prompt": "as a job"}));
        let answer = world.client().post("/jobs", &good).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let done = world.client().wait_for_completion(answer.body["job_id"].as_str().expect("an id")).await;
        assert_eq!((&done["result"]["summary"], &done["priority"], &done["metadata"]["a"]), (&json!("AS A JOB"), &json!(0), &json!(1)));
        for (payload, pointer) in [
            (json!({"instanceId": world.instance, "prompt": " "}), "/payload/prompt"),
            (json!({"prompt": "x"}), "/payload/instanceId"),
            (json!({"instanceId": world.instance, "prompt": "x", "colour": 1}), "/payload/colour"),
        ] {
            let answer = world.client().post("/jobs", &job(payload.clone())).await;
            assert_eq!((answer.status, answer.pointers()), (400, vec![pointer]), "{payload}: {answer:?}");
        }
        let nowhere = job(json!({"instanceId": "01890a5d-ac96-774b-bcce-b302099a8057", "prompt": "x"}));
        assert_eq!(world.client().post("/jobs", &nowhere).await.status, 404);
        world.finish().await;
    }

    async fn the_answer_may_be_waited_for_and_keys_hold(setup: Setup) {
        let world = World::new(setup, prompt_echo).await;
        let path = format!("/agent/instances/{}/tasks", world.instance);
        let request = || world.client().request(Method::POST, &path).header("idempotency-key", "k1").json(&json!({"prompt": "now"}));
        let answer = world.client().send(request().header("prefer", "wait=30")).await;
        assert_eq!((answer.status, &answer.body["status"], &answer.body["result"]), (200, &json!("completed"), &json!("NOW")));
        let again = world.client().send(request()).await;
        assert_eq!((again.status, again.header("idempotency-replayed"), &again.body["taskId"]), (202, "true", &answer.body["id"]));
        let task = errand_tests::client::task_of(&again);
        assert_eq!(world.said(&task).await, turn("now", "NOW"));
        assert_eq!(world.bridge.came().len(), 1);
        world.finish().await;
    }
}
