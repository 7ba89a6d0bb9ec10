//! What is wrong gets its own answer, which names the field and the limit; nothing is stored of it.

use errand_tests::{Answer, Client, both_modes};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

/// One wrong request, the statuses that are right for it, and what its problem must name.
struct Case {
    what: String,
    request: RequestBuilder,
    statuses: &'static [u16],
    names: Vec<String>,
}

fn case(what: impl Into<String>, request: RequestBuilder, statuses: &'static [u16], names: &[&str]) -> Case {
    Case { what: what.into(), request, statuses, names: names.iter().map(|name| (*name).to_owned()).collect() }
}

async fn check(client: &Client, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for Case { what, request, statuses, names } in cases {
        let answer = client.send(request).await;
        for fault in faults(&answer, statuses, &names) {
            wrong.push(format!("{what}: {fault}\n    {} {}", answer.status, answer.text));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    for list in ["/jobs", "/agent/sessions"] {
        assert_eq!(client.get(list).await.items(), [] as [Value; 0], "something was stored in {list}");
    }
}

fn faults(answer: &Answer, statuses: &[u16], names: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    if !statuses.contains(&answer.status) {
        faults.push(format!("status {} and not {statuses:?}", answer.status));
    }
    if !answer.header("content-type").starts_with("application/problem+json") {
        faults.push(format!("content type {:?}", answer.header("content-type")));
    }
    for field in ["type", "title", "detail", "code", "request_id"] {
        if answer.body[field].as_str().unwrap_or_default().is_empty() {
            faults.push(format!("no {field}"));
        }
    }
    if answer.body["status"] != answer.status {
        faults.push("its own status differs".to_owned());
    }
    let said = format!("{} {}", answer.body["detail"], answer.body["errors"]);
    faults.extend(names.iter().filter(|name| !said.contains(name.as_str())).map(|name| format!("doesn't name {name}")));
    faults
}

/// A field of a task, values it can't have, and what the problem must name besides the field.
fn wrong_fields() -> Vec<(&'static str, Vec<Value>, Vec<&'static str>)> {
    let huge = json!(1_000_000_000_000_i64);
    vec![
        ("prompt", vec![json!(""), json!("  \n\t"), json!(7), json!(null), json!(["x"]), json!("a\u{0}b")], vec![]),
        ("sessionId", vec![json!("not-a-uuid"), json!(12)], vec![]),
        ("engineType", vec![json!("no_such_engine")], vec!["echo"]),
        ("engineType", vec![json!(5)], vec![]),
        ("systemPrompt", vec![json!({}), json!("a\u{0}b")], vec![]),
        ("maxTurns", vec![json!(0), json!(-1), huge.clone(), json!("ten"), json!(1.5)], vec![]),
        ("maxContextMessages", vec![json!(-1), huge.clone(), json!(true)], vec![]),
        ("priority", vec![json!(4), json!(-1), json!("high")], vec!["3"]),
        ("timeoutSeconds", vec![json!(0), json!(-5), huge.clone(), json!("1m")], vec![]),
        ("maxAttempts", vec![json!(0), json!(-1), huge, json!(2.5)], vec![]),
        ("expiresAt", vec![json!("2020-01-01T00:00:00Z"), json!("tomorrow"), json!(1_700_000_000)], vec![]),
        ("expiresAt", vec![json!("9999-12-31T00:00:00Z")], vec![]),
        ("runAt", vec![json!("soon"), json!("2026-13-45T99:00:00Z"), json!("9999-12-31T00:00:00Z")], vec![]),
        ("onBusy", vec![json!("explode"), json!(1)], vec!["enqueue"]),
        ("allowedTools", vec![json!("Read"), json!([1])], vec![]),
        ("voiceMode", vec![json!("yes")], vec![]),
        ("metadata", vec![json!("text"), json!([1])], vec![]),
        ("attachments", vec![json!([{"base64Data": "aGk=", "mediaType": "image/png"}]), json!("file")], vec![]),
    ]
}

fn wrong_tasks(client: &Client) -> Vec<Case> {
    let mut cases = Vec::new();
    for (field, values, names) in wrong_fields() {
        for value in values {
            let mut body = json!({"prompt": "fine"});
            body[field] = value.clone();
            let names: Vec<&str> = names.iter().copied().chain([field]).collect();
            let by_task = client.request(Method::POST, "/agent/tasks").json(&body);
            cases.push(case(format!("task with {field} = {value}"), by_task, &[400], &names));
        }
    }
    let missing = client.request(Method::POST, "/agent/tasks").json(&json!({}));
    cases.push(case("task without a prompt", missing, &[400], &["prompt"]));
    cases
}

fn wrong_bodies(client: &Client) -> Vec<Case> {
    let mut cases = Vec::new();
    for path in ["/agent/tasks", "/jobs", "/jobs/batch"] {
        let post = || client.request(Method::POST, path);
        let raw = |body: &str| post().header("content-type", "application/json").body(body.to_owned());
        let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
        let typed = |kind: &str| post().header("content-type", kind).body("{\"prompt\": \"x\"}");
        cases.extend([
            case(format!("{path}: broken JSON"), raw("{"), &[400], &["JSON"]),
            case(format!("{path}: two documents"), raw("{\"prompt\": \"x\"} {}"), &[400], &[]),
            case(format!("{path}: no body"), raw(""), &[400], &["JSON"]),
            case(format!("{path}: an array"), raw("[]"), &[400], &[]),
            case(format!("{path}: too deep"), raw(&deep), &[400], &[]),
            case(format!("{path}: plain text"), typed("text/plain"), &[415], &["application/json"]),
            case(format!("{path}: XML"), typed("application/xml"), &[415], &["application/json"]),
            case(format!("{path}: no content type"), post().body("{\"prompt\": \"x\"}"), &[415], &["application/json"]),
        ]);
        let bad_utf8 = post().header("content-type", "application/json").body(b"{\"prompt\": \"\xff\xfe\"}".to_vec());
        cases.push(case(format!("{path}: no UTF-8"), bad_utf8, &[400], &[]));
    }
    cases
}

fn wrong_jobs(client: &Client) -> Vec<Case> {
    let job = |what: &str, body: Value, names: &[&str]| {
        case(what, client.request(Method::POST, "/jobs").json(&body), &[400], names)
    };
    let good = json!({"prompt": "x"});
    let with = |field: &str, value: Value| {
        let mut body = json!({"kind": "task", "payload": good});
        body[field] = value;
        body
    };
    let too_many: Vec<Value> = (0..1_001).map(|_| json!({"kind": "task", "payload": good})).collect();
    vec![
        job("unknown field", with("colour", json!("green")), &["colour"]),
        job("unknown kind", with("kind", json!("no_such_kind")), &["kind", "task"]),
        job("no kind", json!({"payload": good}), &["kind"]),
        job("no payload", json!({"kind": "task"}), &["payload"]),
        job("payload is text", with("payload", json!("x")), &["payload"]),
        job("blank prompt", with("payload", json!({"prompt": " "})), &["prompt"]),
        job("unknown engine", with("payload", json!({"prompt": "x", "engineType": "none"})), &["engineType", "echo"]),
        job("priority", with("priority", json!(9)), &["priority", "3"]),
        job("timeout", with("timeout_seconds", json!(-1)), &["timeout_seconds"]),
        job("expiry in the past", with("expires_at", json!("2020-01-01T00:00:00Z")), &["expires_at"]),
        job("deadline in the past", with("deadline", json!("2020-01-01T00:00:00Z")), &["deadline"]),
        job("attempts", with("retry", json!({"max_attempts": 0})), &["max_attempts"]),
        job("field in retry", with("retry", json!({"attempts": 1})), &["attempts"]),
        case(
            "a batch too big",
            client.request(Method::POST, "/jobs/batch").json(&json!({"jobs": too_many})),
            &[400],
            &["jobs", "1000"],
        ),
        case(
            "an empty batch",
            client.request(Method::POST, "/jobs/batch").json(&json!({"jobs": []})),
            &[400],
            &["jobs"],
        ),
    ]
}

fn wrong_addresses(client: &Client) -> Vec<Case> {
    let get = |path: &str| client.request(Method::GET, path);
    let mut cases = Vec::new();
    let id = uuid::Uuid::now_v7();
    for family in ["/jobs", "/agent/tasks", "/agent/sessions"] {
        cases.push(case(format!("{family}: no UUID"), get(&format!("{family}/not-a-uuid")), &[400], &["id"]));
        cases.push(case(format!("{family}: unknown"), get(&format!("{family}/{id}")), &[404], &[]));
        let delete = client.request(Method::DELETE, &format!("/agent/tasks/{id}"));
        cases.push(case(format!("{family}: delete unknown"), delete, &[404], &[]));
    }
    for (query, name) in [
        ("limit=0", "limit"),
        ("limit=201", "200"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("state=asleep", "state"),
        ("cursor=%00nonsense", "cursor"),
        ("since=yesterday", "since"),
        ("session_id=7", "session_id"),
        ("colour=green", "colour"),
        ("session_id=", "session_id"),
        ("state=", "state"),
        ("limit=1&limit=2", "limit"),
        ("kind=%00", "kind"),
    ] {
        cases.push(case(format!("list with {query}"), get(&format!("/jobs?{query}")), &[400], &[name]));
    }
    for path in ["/keys", "/queues", "/workers", "/agent/sessions"] {
        cases.push(case(format!("{path}: limit"), get(&format!("{path}?limit=201")), &[400], &["limit", "200"]));
        cases.push(case(format!("{path}: cursor"), get(&format!("{path}?cursor=%25")), &[400], &["cursor"]));
    }
    for path in ["/keys", "/queues", "/workers"] {
        cases.push(case(format!("{path}: unknown"), get(&format!("{path}?colour=green")), &[400], &["colour"]));
    }
    cases.push(case("wait too long", get(&format!("/jobs/{id}?wait=61")), &[400], &["wait", "60"]));
    cases.push(case("no such route", get("/no/such/route"), &[404], &[]));
    cases.push(case("no such method", client.request(Method::PATCH, "/jobs"), &[405], &[]));
    for path in [format!("/jobs/{id}/cancel"), format!("/jobs/{id}/retry")] {
        cases.push(case(path.clone(), client.request(Method::POST, &path).json(&json!({})), &[404], &[]));
    }
    cases
}

fn wrong_headers(client: &Client) -> Vec<Case> {
    let submit = |name: &str, value: &str| {
        client.request(Method::POST, "/agent/tasks").header(name, value).json(&json!({"prompt": "x"}))
    };
    let long = "k".repeat(256);
    vec![
        case("wait=0", submit("prefer", "wait=0"), &[400], &["Prefer", "60"]),
        case("wait=61", submit("prefer", "wait=61"), &[400], &["Prefer", "60"]),
        case("wait=soon", submit("prefer", "wait=soon"), &[400], &["Prefer"]),
        case("empty key", submit("idempotency-key", ""), &[400], &["Idempotency-Key"]),
        case("compressed", submit("content-encoding", "gzip"), &[415], &["Content-Encoding"]),
        case("long key", submit("idempotency-key", &long), &[400], &["Idempotency-Key", "255"]),
    ]
}

both_modes! {
    async fn a_task_with_a_wrong_field_is_refused_by_name(setup: Setup) {
        let errand = setup.start().await;
        check(errand.client(), wrong_tasks(errand.client())).await;
        errand.finish().await;
    }

    async fn a_body_that_is_not_the_json_asked_for_is_refused(setup: Setup) {
        let errand = setup.start().await;
        check(errand.client(), wrong_bodies(errand.client())).await;
        errand.finish().await;
    }

    async fn a_job_with_a_wrong_field_is_refused_by_name(setup: Setup) {
        let errand = setup.start().await;
        check(errand.client(), wrong_jobs(errand.client())).await;
        errand.finish().await;
    }

    async fn wrong_paths_queries_and_methods_are_problems_too(setup: Setup) {
        let errand = setup.start().await;
        check(errand.client(), wrong_addresses(errand.client())).await;
        errand.finish().await;
    }

    async fn wrong_headers_are_refused_by_name(setup: Setup) {
        let errand = setup.start().await;
        check(errand.client(), wrong_headers(errand.client())).await;
        errand.finish().await;
    }

    async fn what_is_too_big_is_refused_with_the_limit(setup: Setup) {
        let errand = setup.section("server", "body_limit_kib = 4\nattachment_limit_mib = 1").start().await;
        let client = errand.client();
        let long = "x".repeat(5 * 1024);
        let task = client.request(Method::POST, "/agent/tasks").json(&json!({"prompt": long}));
        let job = client.request(Method::POST, "/jobs").json(&json!({"kind": "task", "payload": {"prompt": long}}));
        let system = client
            .request(Method::POST, "/agent/tasks")
            .json(&json!({"prompt": "x", "systemPrompt": long}));
        let cases = vec![
            case("prompt", task, &[400, 413], &["4"]),
            case("job", job, &[400, 413], &["4"]),
            case("system prompt", system, &[400, 413], &["4"]),
        ];
        check(client, cases).await;
        errand.finish().await;
    }

    async fn an_answer_stays_small_however_much_is_wrong(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let name = "k".repeat(300_000);
        let nuls = json!({"prompt": "x", name: vec!["\0"; 300]});
        let unknown: serde_json::Map<String, Value> = (0..50_000).map(|n| (format!("field{n}"), json!(0))).collect();
        let unknown = json!({"kind": "task", "payload": unknown});
        let kind = json!({"kind": "k".repeat(900_000), "payload": {}});
        for (path, body) in [("/agent/tasks", nuls), ("/jobs", unknown), ("/jobs", kind)] {
            let refused = client.post(path, &body).await;
            assert_eq!(refused.status, 400, "{path}");
            assert!(refused.text.len() < 32 * 1024, "{path}: {} bytes", refused.text.len());
            assert!((1..=20).contains(&refused.pointers().len()), "{:?}", refused.pointers());
        }
        assert_eq!(client.get("/jobs").await.items(), [] as [Value; 0]);
        errand.finish().await;
    }

    async fn a_request_keeps_its_id_unless_that_could_not_be_shown(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let with_id = |id: &[u8]| client.request(Method::GET, "/jobs?limit=0").header("x-request-id", id);
        let kept = client.send(with_id(b"trace-7/a")).await;
        assert_eq!((kept.header("x-request-id"), &kept.body["request_id"]), ("trace-7/a", &json!("trace-7/a")));
        for id in ["two words".as_bytes(), b"tab\tbed", "größe".as_bytes(), &[b'x'; 129], b""] {
            let replaced = client.send(with_id(id)).await;
            let given = replaced.header("x-request-id");
            assert!(given.parse::<uuid::Uuid>().is_ok(), "{given:?} instead of {id:?}");
            assert_eq!(replaced.body["request_id"], given);
        }
        errand.finish().await;
    }

    async fn a_body_far_beyond_its_limit_is_read_so_that_the_answer_is(setup: Setup) {
        let errand = setup.section("server", "body_limit_kib = 1024").start().await;
        let client = errand.client();
        let long = format!("{{\"kind\": \"{}\"}}", "x".repeat(4_000_000));
        let refused = client
            .send(client.request(Method::POST, "/jobs").header("content-type", "application/json").body(long))
            .await;
        assert_eq!((refused.status, &refused.body["code"]), (413, &json!("payload_too_large")), "{refused:?}");
        assert!(refused.text.contains("1048576"), "{refused:?}");
        errand.finish().await;
    }

    async fn an_oversized_header_is_refused_and_the_server_lives_on(setup: Setup) {
        let errand = setup.section("server", "header_limit_kib = 16").start().await;
        let client = errand.client();
        let request = client.request(Method::GET, "/jobs").header("x-much-too-long", "h".repeat(40 * 1024));
        let answer = client.send(request).await;
        assert!([400, 431].contains(&answer.status), "{answer:?}");
        assert_eq!(client.get("/jobs").await.items(), [] as [Value; 0]);
        errand.finish().await;
    }
}
