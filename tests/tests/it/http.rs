//! `http` jobs: what the destination saw, and what the job says of it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use errand_tests::{
    Answer, Client, Setup, both_modes,
    destination::{Call, Destination, Reply},
    wait,
};
use serde_json::{Value, json};

/// The test's destinations are within reach.
fn reaching(setup: Setup) -> Setup {
    setup.section("outbound", "allow = [\"127.0.0.0/8\"]")
}

fn call(url: &str) -> Value {
    json!({"kind": "http", "payload": {"method": "POST", "url": url, "body": {"n": 1}}, "retry": {"base_ms": 20, "cap_ms": 50}})
}

fn once(url: &str) -> Value {
    let mut job = call(url);
    job["payload"]["idempotent"] = json!(false);
    job
}

async fn submit(client: &Client, job: &Value) -> String {
    let answer = client.post("/jobs", job).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.body["job_id"].as_str().expect("an id").to_owned()
}

async fn effects(client: &Client, id: &str) -> Vec<Value> {
    let answer = client.get(&format!("/jobs/{id}/timeline")).await;
    answer.body["effects"].as_array().expect("effects").clone()
}

fn failure(job: &Value) -> (&str, &str, &str) {
    (
        job["state"].as_str().unwrap_or_default(),
        job["failure"]["class"].as_str().unwrap_or_default(),
        job["failure"]["code"].as_str().unwrap_or_default(),
    )
}

fn retrying(timeline: &[Value]) -> usize {
    timeline.iter().filter(|event| event["type"] == "retrying").count()
}

async fn wait_for_calls(destination: &Destination, count: usize) {
    wait::until(format!("{count} calls came"), || async { (destination.call_count() >= count).then_some(()) }).await;
}

both_modes! {
    async fn a_call_is_sent_once_with_its_key_and_trace_and_its_answer_is_the_result(setup: Setup) {
        let reply = Reply::answer(201, r#"{"made":[1,2]}"#).with_header("x-made-by", "the test");
        let destination = Destination::start([reply]).await;
        let errand = reaching(setup).start().await;
        let client = errand.client();
        let mut job = call(&destination.url("/things?x=1"));
        job["payload"]["headers"] = json!({"Authorization": "Bearer s3cret-of-the-test", "X-Own": "yes"});
        let id = submit(client, &job).await;
        let done = client.wait_for_completion(&id).await;
        assert_eq!((&done["result"]["status"], &done["result"]["body"]), (&json!(201), &json!({"made": [1, 2]})));
        assert_eq!(done["result"]["headers"]["x-made-by"], "the test");
        assert_eq!((&done["attempt"], &done["max_attempts"]), (&json!(1), &json!(8)));

        let calls = destination.calls();
        assert_eq!(calls.len(), 1);
        let call = &calls[0];
        assert_eq!((call.method.as_str(), call.target.as_str()), ("POST", "/things?x=1"));
        assert_eq!((call.key.as_deref(), &call.body), (Some(id.as_str()), &json!({"n": 1})));
        assert_eq!((call.header("content-type"), call.header("x-own")), ("application/json", "yes"));
        assert_eq!(call.header("authorization"), "Bearer s3cret-of-the-test");
        let counted = "errand_effects_total{kind=\"http\",result=\"sent\"} 1";
        let metrics = errand.worker_client(0).get_root("/metrics").await.expect("metrics").text;
        assert!(metrics.lines().any(|line| line == counted), "{metrics}");
        let trace: Vec<_> = call.header("traceparent").split('-').collect();
        assert_eq!((trace[0], trace[1], trace[2].len(), trace[3]), ("00", id.replace('-', "").as_str(), 16, "01"));

        let effects = effects(client, &id).await;
        assert_eq!(effects.len(), 1, "{effects:#?}");
        let effect = &effects[0];
        let expected = json!({
            "ordinal": 1, "kind": "http", "destination": destination.address().to_string(), "key": id, "attempt": 1,
            "intent_at": effect["intent_at"], "receipt_at": effect["receipt_at"], "result": "done", "status": 201,
        });
        assert_eq!(effect, &expected);
        assert!(effect["intent_at"].is_string() && effect["receipt_at"].is_string(), "{effect}");
        assert!(!errand.log().contains("s3cret"), "a secret is in the log");
        errand.finish().await;
    }

    async fn a_text_is_sent_as_it_is_and_any_expected_status_is_success(setup: Setup) {
        let destination = Destination::start([Reply::answer(404, "gone already"), Reply::status(204), Reply::status(200)]).await;
        let errand = reaching(setup).start().await;
        let client = errand.client();
        let mut job = call(&destination.url("/"));
        job["payload"]["method"] = json!("DELETE");
        job["payload"]["body"] = json!("plain words");
        job["payload"]["expect"] = json!([204, 404]);
        let id = submit(client, &job).await;
        let done = client.wait_for_completion(&id).await;
        assert_eq!((&done["result"]["status"], &done["result"]["body"]), (&json!(404), &json!("gone already")));
        assert_eq!(destination.calls()[0].bytes, "plain words");
        let empty = submit(client, &job).await;
        let done = client.wait_for_completion(&empty).await;
        assert_eq!((&done["result"]["status"], &done["result"]["body"]), (&json!(204), &json!(null)));
        let other = submit(client, &job).await;
        let failed = client.wait_for_end(&other).await;
        assert_eq!(failure(&failed), ("failed", "invalid", "UNEXPECTED_STATUS"), "a 200 was not expected");
        errand.finish().await;
    }

    async fn each_status_has_its_class(setup: Setup) {
        let destination = Destination::start([]).await;
        destination.rule(|call| Reply::status(call.target[1..].parse().unwrap_or(500)));
        let errand = reaching(setup).start().await;
        let client = errand.client();
        for (status, class, attempts) in [
            (302, "invalid", 1), (400, "invalid", 1), (401, "auth", 1), (403, "auth", 1), (404, "invalid", 1),
            (422, "invalid", 1), (408, "transient", 2), (409, "transient", 2), (425, "transient", 2),
            (429, "rate_limited", 2), (500, "transient", 2), (503, "transient", 2),
        ] {
            let mut job = call(&destination.url(&format!("/{status}")));
            job["retry"]["max_attempts"] = json!(2);
            let before = destination.call_count();
            let id = submit(client, &job).await;
            let ended = client.wait_for_end(&id).await;
            assert_eq!((failure(&ended).0, failure(&ended).1), ("failed", class), "{status}: {ended:#}");
            assert_eq!((&ended["attempt"], destination.call_count() - before), (&json!(attempts), attempts), "{status}");
            let effect = &effects(client, &id).await[0];
            assert_eq!((&effect["result"], &effect["status"]), (&json!("failed"), &json!(status)), "{status}");
        }
        errand.finish().await;
    }

    async fn a_failed_call_is_repeated_under_the_same_key_until_it_succeeds(setup: Setup) {
        let destination =
            Destination::start([Reply::status(503), Reply::status(500), Reply::lost(), Reply::dropped(), Reply::broken()]).await;
        let errand = reaching(setup).start().await;
        let client = errand.client();
        let id = submit(client, &call(&destination.url("/"))).await;
        let done = client.wait_for_completion(&id).await;
        assert_eq!(done["attempt"], 6, "{done:#}");
        let calls = destination.calls();
        assert_eq!(calls.len(), 6);
        assert!(calls.iter().all(|call| call.key.as_deref() == Some(id.as_str())), "{calls:#?}");
        let applied: Vec<_> = calls.iter().map(|call| call.applied).collect();
        assert_eq!(applied, [false, false, true, false, false, false], "applied once, where its answer was lost");
        assert_eq!(retrying(&client.timeline(&id).await), 5);
        errand.finish().await;
    }

    async fn doubt_that_no_attempt_can_clear_up_is_ambiguous(setup: Setup) {
        let destination = Destination::start([Reply::lost(), Reply::lost()]).await;
        let errand = reaching(setup).start().await;
        let client = errand.client();
        let mut job = call(&destination.url("/"));
        job["retry"]["max_attempts"] = json!(2);
        let id = submit(client, &job).await;
        let ended = client.wait_for_end(&id).await;
        assert_eq!(failure(&ended), ("failed", "ambiguous", "OUTCOME_UNKNOWN"), "{ended:#}");
        assert_eq!(destination.call_count(), 2);
        errand.finish().await;
    }

    async fn what_must_not_be_sent_twice_is_not(setup: Setup) {
        let destination = Destination::start([Reply::lost(), Reply::status(503), Reply::ok()]).await;
        let errand = reaching(setup).start().await;
        let client = errand.client();
        let lost = submit(client, &once(&destination.url("/lost"))).await;
        let ended = client.wait_for_end(&lost).await;
        assert_eq!(failure(&ended), ("failed", "ambiguous", "OUTCOME_UNKNOWN"), "{ended:#}");
        assert_eq!((&ended["attempt"], destination.call_count()), (&json!(1), 1));
        assert_eq!(effects(client, &lost).await[0]["result"], json!(null), "nobody knows");

        // A plain refusal leaves no doubt.
        let refused = submit(client, &once(&destination.url("/refused"))).await;
        assert_eq!(client.wait_for_completion(&refused).await["attempt"], 2);
        errand.finish().await;
    }

    async fn where_nothing_could_be_sent_there_is_no_doubt(setup: Setup) {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
        let errand = reaching(setup).start().await;
        let client = errand.client();
        let mut job = once(&format!("http://{free}/"));
        job["retry"]["max_attempts"] = json!(3);
        let id = submit(client, &job).await;
        let ended = client.wait_for_end(&id).await;
        assert_eq!(failure(&ended), ("failed", "transient", "NO_CONNECTION"), "{ended:#}");
        assert_eq!(ended["attempt"], 3);
        errand.finish().await;
    }

    async fn a_worker_killed_in_mid_call_leaves_an_intent_and_the_same_key_is_sent_again(setup: Setup) {
        let destination = Destination::start([Reply::hang(), Reply::hang()]).await;
        let mut errand = reaching(setup).section("worker", "lease_seconds = 3").start().await;
        let idempotent = submit(errand.client(), &call(&destination.url("/again"))).await;
        let single = submit(errand.client(), &once(&destination.url("/once"))).await;
        wait_for_calls(&destination, 2).await;
        errand.kill9_worker(0);
        if errand.setup().mode() == errand_tests::Mode::Cluster {
            errand.restart_workers().await;
        } else {
            errand.restart().await;
        }
        let client = errand.client();
        let done = client.wait_for_completion(&idempotent).await;
        assert_eq!(done["attempt"], 2, "{done:#}");
        let ended = client.wait_for_end(&single).await;
        assert_eq!(failure(&ended), ("failed", "ambiguous", "OUTCOME_UNKNOWN"), "{ended:#}");
        let calls = destination.calls();
        let sent = |path: &str| calls.iter().filter(|call| call.target == path).count();
        assert_eq!((sent("/again"), sent("/once")), (2, 1));
        assert!(calls.iter().filter(|call| call.target == "/again").all(|call| call.key.as_deref() == Some(idempotent.as_str())));
        assert_eq!(destination.applied().len(), 2, "each once");
        errand.finish().await;
    }

    async fn retry_after_pauses_the_destination_for_all(setup: Setup) {
        let destination = Destination::start([Reply::status(429).with_header("retry-after", "3")]).await;
        let errand = reaching(setup).start().await;
        let client = errand.client();
        let first = submit(client, &call(&destination.url("/"))).await;
        wait::until("the first is to be tried again", || async {
            (client.job(&first).await["state"] == "retrying").then_some(())
        })
        .await;
        let paused = destination.calls()[0].at;
        let mut others = Vec::new();
        for _ in 0..5 {
            others.push(submit(client, &call(&destination.url("/"))).await);
        }
        for id in others.iter().chain([&first]) {
            client.wait_for_completion(id).await;
        }
        let calls = destination.calls();
        assert_eq!(calls.len(), 7);
        for call in &calls[1..] {
            let waited = call.at - paused;
            assert!(waited >= Duration::from_millis(2_900), "called {waited:?} after it had asked for 3 s");
        }
        for id in &others {
            let job = client.job(id).await;
            assert_eq!(job["attempt"], 1, "waiting for a destination spends no attempt");
            let timeline = client.timeline(id).await;
            assert!(timeline.iter().any(|event| event["reason"] == "destination_paused"), "{timeline:#?}");
        }
        errand.finish().await;
    }

    async fn a_failing_destination_is_left_alone_and_tried_again_later(setup: Setup) {
        let destination = Destination::start([]).await;
        destination.rule(|_| Reply::status(500));
        let gates = "min_calls = 6\nopen_seconds = 2\nprobes = 1\nwindow_seconds = 30";
        let errand = reaching(setup).section("gates", gates).start().await;
        let client = errand.client();
        let mut job = call(&destination.url("/"));
        job["retry"]["max_attempts"] = json!(100);
        let mut ids = Vec::new();
        for _ in 0..12 {
            ids.push(submit(client, &job).await);
        }
        wait::until("the breaker is open", || async {
            let timeline = client.timeline(&ids[0]).await;
            timeline.iter().any(|event| event["reason"] == "destination_failing").then_some(())
        })
        .await;
        destination.rule(|_| Reply::ok());
        for id in &ids {
            client.wait_for_completion(id).await;
        }
        let calls = destination.calls();
        let left_alone = |pair: &[Call]| pair[1].at - pair[0].at >= Duration::from_millis(1_900);
        let at_first = calls.windows(2).position(left_alone).expect("it was left alone for 2 s") + 1;
        // Five failures are judged, and all twelve may be under way when the sixth opens the breaker.
        assert!((6..=17).contains(&at_first), "{at_first} calls to a destination that fails each");
        assert_eq!(destination.applied().len(), 12);
        errand.finish().await;
    }

    async fn no_more_calls_at_once_than_the_destination_takes(setup: Setup) {
        let destination = Destination::start([]).await;
        destination.rule(|_| Reply::ok().after(Duration::from_millis(100)));
        let section = format!("gates.destinations.\"{}\"", destination.address());
        let errand = reaching(setup).section(&section, "concurrency = 2").start().await;
        let client = errand.client();
        let jobs: Vec<_> = (0..12).map(|_| call(&destination.url("/"))).collect();
        let answer = client.post("/jobs/batch", &json!({"jobs": jobs})).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        for item in answer.items() {
            let job = client.wait_for_completion(item["id"].as_str().expect("an id")).await;
            assert_eq!(job["attempt"], 1);
        }
        assert_eq!((destination.most_at_once(), destination.call_count()), (2, 12));
        errand.finish().await;
    }

    async fn a_destination_with_a_rate_gets_no_more(setup: Setup) {
        let destination = Destination::start([]).await;
        let section = format!("gates.destinations.\"{}\"", destination.address());
        let errand = reaching(setup).section(&section, "rate_per_second = 4\nburst = 2").start().await;
        let client = errand.client();
        let jobs: Vec<_> = (0..8).map(|_| call(&destination.url("/"))).collect();
        let answer = client.post("/jobs/batch", &json!({"jobs": jobs})).await;
        for item in answer.items() {
            client.wait_for_completion(item["id"].as_str().expect("an id")).await;
        }
        let calls = destination.calls();
        let took = calls[7].at - calls[0].at;
        assert!(took >= Duration::from_millis(1_400), "eight calls, two at once and then four a second, took {took:?}");
        errand.finish().await;
    }

    async fn an_answer_is_capped_and_so_is_the_time_of_a_call(setup: Setup) {
        let long = "x".repeat(5_000);
        let destination = Destination::start([Reply::answer(200, long), Reply::hang(), Reply::ok()]).await;
        let errand = setup
            .section("outbound", "allow = [\"127.0.0.0/8\"]\nresponse_limit_kib = 1\ncall_seconds = 10")
            .start()
            .await;
        let client = errand.client();
        let id = submit(client, &call(&destination.url("/"))).await;
        let done = client.wait_for_completion(&id).await;
        assert_eq!(done["result"]["body_cut_off"], true);
        assert_eq!(done["result"]["body"].as_str().map(str::len), Some(1_024));
        let mut slow = call(&destination.url("/"));
        slow["timeout_seconds"] = json!(1);
        let started = Instant::now();
        let id = submit(client, &slow).await;
        let done = client.wait_for_completion(&id).await;
        assert_eq!(done["attempt"], 2, "the silent call was given up and repeated");
        assert!(started.elapsed() < Duration::from_secs(9), "{:?}", started.elapsed());
        slow["timeout_seconds"] = json!(11);
        let refused = client.post("/jobs", &slow).await;
        assert_eq!((refused.status, refused.pointers()), (400, vec!["/timeout_seconds"]), "{refused:?}");
        errand.finish().await;
    }

    async fn a_job_cancelled_in_mid_call_says_that_its_effect_is_unknown(setup: Setup) {
        let destination = Destination::start([Reply::hang()]).await;
        let errand = reaching(setup).start().await;
        let client = errand.client();
        let id = submit(client, &call(&destination.url("/"))).await;
        wait_for_calls(&destination, 1).await;
        let answer = client.post(&format!("/jobs/{id}/cancel"), &json!({})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let timeline = client.timeline(&id).await;
        let cancelled = timeline.iter().find(|event| event["type"] == "cancelled").expect("the cancellation");
        assert_eq!(cancelled["effect_unknown"], true, "{cancelled}");
        // The new job is a new call.
        let answer = client.post(&format!("/jobs/{id}/retry"), &json!({})).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        let again = answer.body["job_id"].as_str().expect("an id");
        client.wait_for_completion(again).await;
        let keys: BTreeSet<_> = destination.calls().into_iter().filter_map(|call| call.key).collect();
        assert_eq!(keys, BTreeSet::from([id.clone(), again.to_owned()]));
        errand.finish().await;
    }

    async fn addresses_are_refused_when_submitted_and_behind_a_name_when_called(setup: Setup) {
        let destination = Destination::start([]).await;
        let errand = setup.section("outbound", "allow = [\"10.0.0.0/8\"]").start().await;
        let client = errand.client();
        let refused = async |url: &str| -> Answer { client.post("/jobs", &call(url)).await };
        for url in [
            destination.url("/"),
            format!("http://2130706433:{}/", destination.address().port()),
            "https://169.254.169.254/latest/meta-data".to_owned(),
            "http://[::ffff:127.0.0.1]/".to_owned(),
            "https://192.168.0.1/".to_owned(),
            "http://1.1.1.1/".to_owned(),
        ] {
            let answer = refused(&url).await;
            assert_eq!((answer.status, answer.pointers()), (400, vec!["/payload/url"]), "{url}: {answer:?}");
            assert!(answer.text.contains("[outbound] allow"), "{answer:?}");
        }
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://localhost:{}/", destination.address().port());
            let id = submit(client, &call(&url)).await;
            let ended = client.wait_for_end(&id).await;
            assert_eq!(failure(&ended), ("failed", "invalid", "ADDRESS_NOT_ALLOWED"), "{ended:#}");
            assert!(ended["failure"]["message"].as_str().is_some_and(|text| text.contains("[outbound] allow")), "{ended:#}");
        }
        assert_eq!(destination.call_count(), 0);
        errand.finish().await;
    }

    async fn redirects_are_not_followed(setup: Setup) {
        let elsewhere = Destination::start([]).await;
        let destination = Destination::start([Reply::status(307).with_header("location", &elsewhere.url("/"))]).await;
        let errand = reaching(setup).start().await;
        let client = errand.client();
        let id = submit(client, &call(&destination.url("/"))).await;
        let ended = client.wait_for_end(&id).await;
        assert_eq!(failure(&ended).1, "invalid", "{ended:#}");
        assert_eq!(elsewhere.call_count(), 0);
        errand.finish().await;
    }

    async fn every_fault_of_a_call_is_named(setup: Setup) {
        let errand = reaching(setup).start().await;
        let client = errand.client();
        let bad = json!({
            "kind": "http", "queue": "a b", "expires_at": "2020-01-01T00:00:00Z",
            "payload": {
                "method": "BREW", "url": "ftp://x/", "body": 7, "expect": [200], "headers": {"Host": "x", "ok": "s3cret\u{7}"},
            },
        });
        let answer = client.post("/jobs", &bad).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        let found: BTreeSet<_> = answer.pointers().into_iter().collect();
        let expected = [
            "/payload/method", "/payload/url", "/payload/body", "/payload/headers/Host", "/payload/headers/ok", "/queue",
            "/expires_at",
        ];
        assert_eq!(found, BTreeSet::from(expected));
        assert!(!answer.text.contains("s3cret"));
        for (payload, pointer) in [
            (json!({"url": "https://x.example/"}), "/payload/method"),
            (json!({"method": "GET", "url": "https://x.example/", "colour": 1}), "/payload/colour"),
            (json!({"method": "GET", "url": "https://x.example/", "expect": [99]}), "/payload/expect/0"),
        ] {
            let answer = client.post("/jobs", &json!({"kind": "http", "payload": payload})).await;
            assert_eq!((answer.status, answer.pointers()), (400, vec![pointer]), "{answer:?}");
        }
        errand.finish().await;
    }
}
