//! Groups: jobs that belong together.

use errand_tests::{Client, both_modes, program::Programs, sse::Sse};
use serde_json::{Value, json};

fn task(prompt: &str) -> Value {
    json!({"kind": "task", "payload": {"prompt": prompt}})
}

fn group(jobs: &[Value]) -> Value {
    json!({"kind": "group", "payload": {"jobs": jobs}})
}

async fn submit(client: &Client, body: &Value) -> String {
    let answer = client.post("/jobs", body).await;
    assert_eq!((answer.status, &answer.body["state"]), (202, &json!("awaiting_children")), "{answer:?}");
    answer.body["job_id"].as_str().expect("an id").to_owned()
}

async fn children(client: &Client, id: &str) -> Vec<Value> {
    client.get(&format!("/jobs?parent_id={id}&limit=200")).await.items().to_vec()
}

both_modes! {
    async fn a_group_is_done_when_its_jobs_are(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let id = submit(client, &group(&[task("a"), task("b"), task("c")])).await;
        let job = client.wait_for_completion(&id).await;
        let counts = json!({"total": 3, "by_state": {"completed": 3}});
        assert_eq!((&job["children"], &job["result"]["children"], &job["payload"]), (&counts, &counts, &json!({"jobs": 3})));
        let children = children(client, &id).await;
        assert_eq!(children.len(), 3);
        assert!(children.iter().all(|child| child["parent_id"] == id && child["state"] == "completed"));
        let kinds: Vec<String> = client.events(&id).await.iter().map(|frame| frame.kind().to_owned()).collect();
        assert_eq!(kinds, ["queued", "child_completed", "child_completed", "child_completed", "completed", "end"]);
        assert_eq!(client.get("/jobs?kind=group").await.items()[0]["children"], counts);
        errand.finish().await;
    }

    async fn a_group_that_failed_in_part_is_repeated_in_part(setup: Setup) {
        let programs = Programs::new();
        let flag = programs.path("flag");
        let script = format!("cat >/dev/null\n[ -e '{flag}' ] && echo fine && exit 0\necho broken >&2\nexit 3\n");
        let errand = setup.engine("flaky", &programs.engine("flaky", &script)).start().await;
        let client = errand.client();
        let flaky = json!({"kind": "task", "payload": {"prompt": "x", "engineType": "flaky"}});
        let id = submit(client, &group(&[task("good"), flaky.clone(), flaky.clone()])).await;
        let job = client.wait_for_end(&id).await;
        assert_eq!(job["state"], "partial", "{job:#}");
        assert_eq!(job["children"]["by_state"], json!({"completed": 1, "failed": 2}));
        let hopeless = submit(client, &group(&[flaky])).await;
        let failed = client.wait_for_end(&hopeless).await;
        assert_eq!((&failed["state"], &failed["failure"]["code"]), (&json!("failed"), &json!("CHILDREN_FAILED")));
        assert_eq!(failed["failure"]["class"], "fatal");

        std::fs::write(&flag, "").expect("a flag");
        let again = client.post(&format!("/jobs/{id}/retry"), &json!({})).await;
        assert_eq!((again.status, &again.body["state"]), (202, &json!("awaiting_children")), "{again:?}");
        let second = again.body["job_id"].as_str().expect("an id");
        let job = client.wait_for_completion(second).await;
        assert_eq!((&job["retry_of"], &job["children"]["total"]), (&json!(id), &json!(2)));
        let first: Vec<Value> = children(client, &id).await.into_iter().map(|child| child["id"].clone()).collect();
        for child in children(client, second).await {
            assert!(first.contains(&child["retry_of"]), "{child:#}");
        }
        let refused = client.post(&format!("/jobs/{second}/retry"), &json!({})).await;
        assert_eq!((refused.status, &refused.body["code"]), (409, &json!("not_retryable")));
        errand.finish().await;
    }

    async fn cancelling_a_group_stops_its_jobs(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "a", "b")).start().await;
        let client = errand.client();
        let gated = json!({"kind": "task", "payload": {"prompt": "x", "engineType": "gated"}});
        let later = json!({"kind": "task", "payload": {"prompt": "x"}, "run_at": "2030-01-01T00:00:00Z"});
        let id = submit(client, &group(&[gated, later])).await;
        let running = children(client, &id).await.iter().find(|child| child["state"] != "scheduled").expect("one")["id"].clone();
        let running = running.as_str().expect("an id");
        client.wait_for_text(running, "a").await;
        let before = client.get(&format!("/jobs/{id}")).await;
        assert_eq!(before.body["children"]["by_state"], json!({"running": 1, "scheduled": 1}));
        let answer = client.post(&format!("/jobs/{id}/cancel"), &json!({})).await;
        assert_eq!((answer.status, &answer.body["state"]), (200, &json!("cancelled")), "{answer:?}");
        assert_eq!(answer.body["children"]["by_state"], json!({"cancelled": 2}));
        for watched in [id.as_str(), running] {
            let kinds: Vec<String> = client.events(watched).await.iter().map(|frame| frame.kind().to_owned()).collect();
            assert!(kinds.ends_with(&["cancelled".to_owned(), "end".to_owned()]), "{kinds:?}");
        }
        errand.finish().await;
    }

    async fn a_groups_deadline_and_defaults_hold_for_its_jobs(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let soon = (chrono::Utc::now() + chrono::TimeDelta::milliseconds(1_500)).to_rfc3339();
        let mut body = group(&[task("never"), json!({"kind": "task", "payload": {"prompt": "x"}, "priority": 0})]);
        body["run_at"] = json!("2030-01-01T00:00:00Z");
        body["priority"] = json!(3);
        body["deadline"] = json!(soon);
        let id = submit(client, &body).await;
        let mut priorities: Vec<_> = children(client, &id).await.iter().map(|child| child["priority"].as_u64()).collect();
        priorities.sort_unstable();
        assert_eq!(priorities, [Some(0), Some(3)]);
        let job = client.wait_for_end(&id).await;
        assert_eq!((&job["state"], &job["failure"]["class"]), (&json!("failed"), &json!("timeout")), "{job:#}");
        for child in children(client, &id).await {
            assert_eq!((&child["state"], &child["failure"]["code"]), (&json!("cancelled"), &json!("PARENT_TIMEOUT")));
        }
        errand.finish().await;
    }

    async fn a_thousand_jobs_of_a_group_all_run_and_it_ends_once(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let jobs: Vec<Value> = (0..1_000).map(|number| task(&number.to_string())).collect();
        let id = submit(client, &group(&jobs)).await;
        let frames = Sse::of_job(client, &id).await.rest().await;
        assert_eq!(frames.iter().filter(|frame| frame.kind() == "child_completed").count(), 1_000);
        let job = client.wait_for_completion(&id).await;
        assert_eq!(job["children"], json!({"total": 1_000, "by_state": {"completed": 1_000}}));
        let numbers: Vec<_> = frames.iter().filter_map(|frame| frame.data["seq"].as_i64()).collect();
        assert_eq!(numbers, (1..=1_002).collect::<Vec<i64>>());
        errand.finish().await;
    }

    async fn a_group_is_made_whole_or_not_at_all(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let rejecting = json!({"kind": "task", "payload": {"prompt": "x", "onBusy": "reject"}});
        let mut keyed = task("x");
        keyed["dedup"] = json!({"key": "k", "mode": "drop"});
        let many: Vec<Value> = (0..1_001).map(|_| task("x")).collect();
        for (jobs, pointer) in [
            (vec![task("good"), task(" ")], "/payload/jobs/1/payload/prompt"),
            (vec![json!({"kind": "no_such_kind", "payload": {}})], "/payload/jobs/0/kind"),
            (vec![group(&[task("x")])], "/payload/jobs/0/kind"),
            (vec![keyed], "/payload/jobs/0/dedup"),
            (vec![rejecting], "/payload/jobs/0/payload/onBusy"),
            (vec![], "/payload/jobs"),
            (many, "/payload/jobs"),
        ] {
            let answer = client.post("/jobs", &group(&jobs)).await;
            assert_eq!((answer.status, answer.pointers()), (400, vec![pointer]), "{answer:?}");
        }
        for (field, value) in [("retry", json!({})), ("timeout_seconds", json!(5)), ("deadline", json!("2020-01-01T00:00:00Z"))] {
            let mut body = group(&[task("x")]);
            body[field] = value;
            assert_eq!(client.post("/jobs", &body).await.pointers(), [format!("/{field}")]);
        }
        let halves = json!({"jobs": [group(&vec![task("x"); 600]), group(&vec![task("x"); 600])]});
        assert_eq!(client.post("/jobs/batch", &halves).await.pointers(), ["/jobs"]);
        assert_eq!(client.get("/jobs").await.items().len(), 0);
        errand.finish().await;
    }
}
