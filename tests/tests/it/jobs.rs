//! Operating on jobs: lists, filters, versions, batches, queues.

use errand_tests::{Client, both_modes, program::Programs, socket::Socket};
use reqwest::Method;
use serde_json::{Value, json};

async fn completed(client: &Client, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..count {
        let task = client.submit_task(&json!({"prompt": format!("number {number}")})).await;
        client.wait_for_completion(&task.id).await;
        ids.push(task.id);
    }
    ids
}

fn ids(items: &[Value]) -> Vec<&str> {
    items.iter().filter_map(|item| item["id"].as_str()).collect()
}

both_modes! {
    async fn a_list_pages_from_the_newest_to_the_oldest_without_a_gap(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let mut wanted = completed(client, 5).await;
        wanted.reverse();
        let mut seen: Vec<String> = Vec::new();
        let mut path = "/jobs?limit=2".to_owned();
        loop {
            let page = client.get(&path).await;
            assert_eq!(page.status, 200, "{page:?}");
            seen.extend(ids(page.items()).into_iter().map(str::to_owned));
            assert!(page.body.get("next_cursor").is_some(), "always present");
            let Some(cursor) = page.body["next_cursor"].as_str() else { break };
            path = format!("/jobs?limit=2&cursor={cursor}");
            assert!(seen.len() <= wanted.len(), "{seen:?}");
        }
        assert_eq!(seen, wanted);
        errand.finish().await;
    }

    async fn a_list_is_filtered_by_what_is_asked(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "a", "b")).start().await;
        let client = errand.client();
        let done = completed(client, 1).await.remove(0);
        let live = client.submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        client.wait_for_state(&live.id, "running").await;
        let list = async |query: String| ids(client.get(&format!("/jobs?{query}")).await.items()).join(" ");
        assert_eq!(list("state=completed".into()).await, done);
        assert_eq!(list("state=live".into()).await, live.id);
        assert_eq!(list("state=completed,running&kind=task".into()).await, format!("{} {done}", live.id));
        assert_eq!(list(format!("session_id={}", live.session_id)).await, live.id);
        assert_eq!(list("queue=default".into()).await, format!("{} {done}", live.id));
        assert_eq!(list("queue=no-such-queue".into()).await, "");
        programs.open_gate("gated");
        client.wait_for_completion(&live.id).await;
        errand.finish().await;
    }

    async fn an_unchanged_job_is_not_sent_again(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let id = completed(client, 1).await.remove(0);
        let path = format!("/jobs/{id}");
        let first = client.get(&path).await;
        let tag = first.header("etag");
        assert!(tag.starts_with('"'), "{first:?}");
        let again = client.send(client.request(Method::GET, &path).header("if-none-match", tag)).await;
        assert_eq!((again.status, again.text.as_str()), (304, ""));
        let other = client.send(client.request(Method::GET, &path).header("if-none-match", "\"other\"")).await;
        assert_eq!(other.status, 200);
        errand.finish().await;
    }

    async fn a_job_whose_stream_grew_has_changed(setup: Setup) {
        let programs = Programs::new();
        let gate = |name: &str| format!("while [ ! -e '{}' ]; do sleep 0.02; done", programs.path(&format!("{name}.gate")));
        let script = format!("cat >/dev/null\n{}\necho a\n{}\n", gate("first"), gate("second"));
        let errand = setup.engine("gated", &programs.engine("gated", &script)).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        client.wait_for_state(&task.id, "running").await;
        let path = format!("/jobs/{}", task.id);
        let before = client.get(&path).await;
        programs.open_gate("first");
        client.wait_for_text(&task.id, "a").await;
        let request = client.request(Method::GET, &path).header("if-none-match", before.header("etag"));
        let after = client.send(request).await;
        assert_eq!(after.status, 200, "{after:?}");
        assert!(after.body["stream"]["tail_seq"].as_i64() > before.body["stream"]["tail_seq"].as_i64());
        programs.open_gate("second");
        client.wait_for_completion(&task.id).await;
        errand.finish().await;
    }

    async fn a_long_poll_answers_once_the_job_has_ended(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "a", "b")).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        client.wait_for_text(&task.id, "a").await;
        let early = client.get(&format!("/jobs/{}?wait=1", task.id)).await;
        assert_eq!(early.body["state"], "running", "{early:?}");
        let path = format!("/jobs/{}?wait=60", task.id);
        let (answer, ()) = tokio::join!(client.get(&path), async { programs.open_gate("gated") });
        assert_eq!(answer.body["state"], "completed", "{answer:?}");
        errand.finish().await;
    }

    async fn a_batch_answers_for_each_of_its_jobs(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let job = |prompt: &str| json!({"kind": "task", "payload": {"prompt": prompt}});
        let body = json!({"jobs": [job("good"), job(" "), {"kind": "no_such_kind", "payload": {}}, job("also good")]});
        let answer = client.post("/jobs/batch", &body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let items = answer.items();
        assert_eq!(items.len(), 4);
        for position in [0, 3] {
            let id = items[position]["id"].as_str().unwrap_or_else(|| panic!("an id: {}", items[position]));
            client.wait_for_completion(id).await;
        }
        for position in [1, 2] {
            assert!(items[position]["problem"]["detail"].is_string(), "{}", items[position]);
        }
        assert_eq!(client.get("/jobs").await.items().len(), 2);
        errand.finish().await;
    }

    async fn the_timeline_tells_every_transition_in_order(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let id = completed(client, 1).await.remove(0);
        let timeline = client.timeline(&id).await;
        let kinds: Vec<&str> = timeline.iter().filter_map(|event| event["type"].as_str()).collect();
        let at = |kind| kinds.iter().position(|seen| *seen == kind).unwrap_or_else(|| panic!("{kind} in {kinds:?}"));
        assert!(at("queued") < at("started") && at("started") < at("completed"), "{kinds:?}");
        assert!(!kinds.contains(&"text"), "the engine's talk is no transition: {kinds:?}");
        errand.finish().await;
    }

    async fn queues_workers_and_engines_show_what_is_there(setup: Setup) {
        let programs = Programs::new();
        let errand = setup
            .section("worker", "concurrency = 1\nqueues = [\"default\"]")
            .engine("gated", &programs.gated_engine("gated", "a", "b"))
            .start()
            .await;
        let client = errand.client();
        let running = client.submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        client.wait_for_text(&running.id, "a").await;
        let queued = client.submit_task(&json!({"prompt": "waits"})).await;
        let queues = client.get("/queues").await;
        let default = queues.items().iter().find(|queue| queue["name"] == "default").expect("the default queue");
        assert_eq!((&default["running"], &default["queued"]), (&json!(1), &json!(1)), "{default}");

        let engines = client.get("/agent/engines").await;
        let names: Vec<&str> = engines.body["engines"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|engine| engine["name"].as_str())
            .collect();
        assert_eq!(names, ["echo", "gated"], "{engines:?}");
        programs.open_gate("gated");
        client.wait_for_completion(&running.id).await;
        client.wait_for_completion(&queued.id).await;
        errand.finish().await;
    }

    async fn metrics_speak_of_what_happened_without_ids(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let id = completed(client, 1).await.remove(0);
        let mut socket = Socket::open(client).await;
        socket.send(&json!({"type": "ping"})).await;
        socket.take_until("pong").await;
        let worker = errand.worker_client(0);
        for (process, name) in [
            (&worker, "errand_jobs_total"),
            (&worker, "errand_attempts_total"),
            (client, "errand_ws_connections"),
            (client, "errand_queue_depth"),
        ] {
            let metrics = process.get_root("/metrics").await.expect("metrics");
            assert_eq!(metrics.status, 200);
            assert!(metrics.text.contains(name), "{name} in:\n{}", metrics.text);
            assert!(!metrics.text.contains(&id));
        }
        errand.finish().await;
    }
}
