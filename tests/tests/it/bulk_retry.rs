//! Many jobs retried by one request.

use errand_tests::{Client, both_modes, program::Programs};
use reqwest::Method;
use serde_json::{Value, json};

async fn retry(client: &Client, body: &Value) -> Value {
    let answer = client.post("/jobs/retry", body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.body
}

async fn failed(client: &Client, engine: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..count {
        let task = client.submit_task(&json!({"prompt": format!("number {number}"), "engineType": engine})).await;
        assert_eq!(client.wait_for_end(&task.id).await["state"], "failed");
        ids.push(task.id);
    }
    ids
}

fn originals(answer: &Value) -> Vec<&str> {
    let items = answer["items"].as_array().unwrap_or_else(|| panic!("a list: {answer}"));
    items.iter().filter_map(|item| item["retry_of"].as_str()).collect()
}

both_modes! {
    async fn what_failed_is_repeated_once_however_often_it_is_asked_for(setup: Setup) {
        let programs = Programs::new();
        let gate = programs.path("mended");
        let script = format!("cat >/dev/null\n[ -e '{gate}' ] || exit 3\necho mended\n");
        let errand = setup.engine("broken", &programs.engine("broken", &script)).start().await;
        let client = errand.client();
        let ids = failed(client, "broken", 3).await;
        let done = client.submit_task(&json!({"prompt": "fine"})).await;
        client.wait_for_completion(&done.id).await;
        std::fs::write(&gate, "").expect("mended");

        let answer = retry(client, &json!({"state": "failed", "kind": "task"})).await;
        assert_eq!(originals(&answer), ids, "in the order of their originals: {answer}");
        assert_eq!(answer["next_cursor"], Value::Null);
        for item in answer["items"].as_array().expect("a list") {
            let job = client.wait_for_completion(item["id"].as_str().expect("an id")).await;
            assert_eq!(job["retry_of"], item["retry_of"]);
            assert_eq!(job["payload"], client.job(item["retry_of"].as_str().expect("an id")).await["payload"]);
        }
        let again = retry(client, &json!({"state": "failed", "kind": "task"})).await;
        assert_eq!((originals(&again).len(), &again["skipped"]["already_retried"]), (0, &json!(3)), "{again}");
        errand.finish().await;
    }

    async fn a_groups_failed_jobs_are_repeated_as_a_group(setup: Setup) {
        let programs = Programs::new();
        let gate = programs.path("mended");
        let script = format!("cat >/dev/null\n[ -e '{gate}' ] || exit 3\necho mended\n");
        let errand = setup.engine("broken", &programs.engine("broken", &script)).start().await;
        let client = errand.client();
        let task = |engine| json!({"kind": "task", "payload": {"prompt": "x", "engineType": engine}});
        let group = json!({"kind": "group", "payload": {"jobs": [task("echo"), task("broken"), task("broken")]}});
        let id = client.post("/jobs", &group).await.body["job_id"].as_str().expect("an id").to_owned();
        assert_eq!(client.wait_for_end(&id).await["state"], "partial");
        std::fs::write(&gate, "").expect("mended");

        let answer = retry(client, &json!({"kind": "group"})).await;
        assert_eq!(originals(&answer), [id], "{answer}");
        let again = client.wait_for_completion(answer["items"][0]["id"].as_str().expect("an id")).await;
        assert_eq!(again["children"], json!({"total": 2, "by_state": {"completed": 2}}), "{again:#}");
        errand.finish().await;
    }

    async fn a_retry_that_failed_too_stands_for_its_original(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("broken", &programs.engine("broken", "exit 3\n")).start().await;
        let client = errand.client();
        let id = failed(client, "broken", 1).await.remove(0);
        let first = retry(client, &json!({"all": true})).await;
        assert_eq!(originals(&first), [id]);
        let second = first["items"][0]["id"].as_str().expect("an id");
        assert_eq!(client.wait_for_end(second).await["state"], "failed");
        let next = retry(client, &json!({"all": true})).await;
        assert_eq!(originals(&next), [second], "one line of work goes on, and is not doubled");
        client.wait_for_end(next["items"][0]["id"].as_str().expect("an id")).await;
        errand.finish().await;
    }

    async fn a_large_bulk_retry_goes_page_by_page_and_never_meets_its_own_jobs(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("broken", &programs.engine("broken", "exit 3\n")).start().await;
        let client = errand.client();
        let mut ids = failed(client, "broken", 5).await;
        let mut seen = Vec::new();
        let mut cursor = Value::Null;
        loop {
            let mut body = json!({"code": "EXECUTION_ERROR", "limit": 2});
            if !cursor.is_null() {
                body["cursor"] = cursor;
            }
            let page = retry(client, &body).await;
            seen.extend(originals(&page).into_iter().map(str::to_owned));
            // They have failed when the next page is asked for.
            for item in page["items"].as_array().expect("a list") {
                client.wait_for_end(item["id"].as_str().expect("an id")).await;
            }
            cursor = page["next_cursor"].clone();
            if cursor.is_null() {
                break;
            }
            assert!(seen.len() <= ids.len(), "{seen:?}");
        }
        seen.sort();
        ids.sort();
        assert_eq!(seen, ids);
        errand.finish().await;
    }

    async fn a_bulk_retry_under_a_key_is_answered_again_and_done_once(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("broken", &programs.engine("broken", "exit 3\n")).start().await;
        let client = errand.client();
        failed(client, "broken", 2).await;
        let send = async |body: Value| {
            client.send(client.request(Method::POST, "/jobs/retry").header("idempotency-key", "k").json(&body)).await
        };
        let (first, second) = (send(json!({"all": true})).await, send(json!({"all": true})).await);
        assert_eq!((first.status, second.status, second.header("idempotency-replayed")), (202, 202, "true"));
        assert_eq!(first.body, second.body);
        assert_eq!(originals(&first.body).len(), 2);
        assert_eq!(send(json!({"state": "failed"})).await.status, 422);
        for item in first.body["items"].as_array().expect("a list") {
            client.wait_for_end(item["id"].as_str().expect("an id")).await;
        }
        errand.finish().await;
    }

    async fn a_bulk_retry_that_names_nothing_or_nonsense_is_refused(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        for (body, pointer) in [
            (json!({}), ""),
            (json!({"state": "running"}), "/state"),
            (json!({"class": "unlucky"}), "/class"),
            (json!({"all": true, "limit": 1001}), "/limit"),
            (json!({"all": true, "cursor": "x"}), "/cursor"),
            (json!({"colour": "red"}), "/colour"),
        ] {
            let answer = client.post("/jobs/retry", &body).await;
            assert_eq!((answer.status, answer.pointers()), (400, vec![pointer]), "{body}: {answer:?}");
        }
        assert_eq!(originals(&retry(client, &json!({"all": true})).await).len(), 0);
        errand.finish().await;
    }
}
