//! WebSockets that are wrong, slow, silent or too many.

use errand_tests::{Client, both_modes, program::Programs, socket::Socket, sse::Sse, wait};
use reqwest::Method;
use serde_json::{Value, json};

const BOOTSTRAP: &str = "errand_the-key-of-another-tenant-0123456789";
const UNKNOWN_KEY: &str = "errand_no-such-key-no-such-key-no-such-key";

async fn ended_task(client: &Client) -> String {
    let task = client.submit_task(&json!({"prompt": "a b c"})).await;
    client.wait_for_completion(&task.id).await;
    task.id
}

async fn key_for(client: &Client, scope: &str) -> (String, Client) {
    let made = client.post("/keys", &json!({"name": "for a test", "scopes": [scope]})).await.body;
    (made["id"].as_str().expect("an id").to_owned(), client.with_key(made["key"].as_str().expect("a secret")))
}

/// What the server closes with after these frames.
async fn closed_after(client: &Client, frames: &[&str]) -> u16 {
    let mut socket = Socket::open(client).await;
    for frame in frames {
        socket.send_text(frame).await;
    }
    socket.close_code().await
}

/// One series of `/metrics`; 0 if it is not there.
async fn metric(client: &Client, name: &str) -> f64 {
    let metrics = client.get_root("/metrics").await.expect("metrics");
    let line = metrics.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} in:\n{}", metrics.text)).parse().expect("a number")
}

both_modes! {
    async fn a_position_beyond_the_tail_begins_with_a_snapshot(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let id = ended_task(client).await;
        let tail = client.job(&id).await["stream"]["tail_seq"].as_i64().expect("a number");
        for after in [tail + 1, i64::MAX] {
            let mut stream = Sse::open(client, &format!("/jobs/{id}/events?after={after}"), &[]).await;
            let frames = stream.rest().await;
            assert_eq!(frames[0].kind(), "snapshot", "{frames:#?}");
            let mut socket = Socket::open(client).await;
            socket.send(&json!({"type": "subscribe", "id": 1, "stream": format!("job:{id}"), "after": after})).await;
            assert_eq!(socket.frame().await["recovered"], false);
            assert_eq!(socket.frame().await["type"], "snapshot");
            let events = socket.take_until("end").await;
            assert_eq!(events[0]["seq"], 1);
        }
        errand.finish().await;
    }

    async fn a_position_that_is_none_is_refused(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let id = ended_task(client).await;
        for query in ["after=-1", "after=x", "after=9223372036854775808", "last_event_id=7", "types=text,nonsense"] {
            let refused = client.get(&format!("/jobs/{id}/events?{query}")).await;
            assert_eq!(refused.status, 400, "{query}: {refused:?}");
            let name = query.split('=').next().unwrap_or_default();
            assert_eq!(refused.pointers(), [format!("query:{name}")]);
        }
        for position in ["", "7", "epoch:", "epoch:-1", ":7"] {
            let request = client.request(Method::GET, &format!("/jobs/{id}/events"));
            let refused = client.send(request.header("last-event-id", position)).await;
            assert_eq!((refused.status, refused.pointers()), (400, vec!["header:Last-Event-ID"]), "{position}");
        }
        let mut socket = Socket::open(client).await;
        socket.send(&json!({"type": "subscribe", "id": 7, "stream": format!("job:{id}"), "after": -1})).await;
        let error = socket.frame().await;
        assert_eq!((&error["id"], &error["code"]), (&json!(7), &json!("invalid_position")), "{error}");
        socket.send(&json!({"type": "subscribe", "id": 8, "stream": "job:7"})).await;
        assert_eq!(socket.frame().await["code"], "invalid_stream");
        errand.finish().await;
    }

    async fn a_frame_that_is_none_of_the_protocol_closes_the_socket(setup: Setup) {
        let errand = setup.section("relay", "frame_limit_kib = 4").start().await;
        let client = errand.client();
        let long = json!({"type": "ping", "id": "x".repeat(5_000)}).to_string();
        for frame in ["[]", "{}", r#"{"type":"dance"}"#, r#"{"type":"subscribe"}"#, r#"{"type":"ping","colour":1}"#, &long] {
            assert_eq!(closed_after(client, &[frame]).await, 4509, "{frame}");
        }
        let twice = json!({"type": "auth", "token": client.key()}).to_string();
        assert_eq!(closed_after(client, &[&twice, "{}", "{}"]).await, 4509, "authenticated by header already");
        let mut socket = Socket::open(client).await;
        socket.send_bytes(b"\x00\x01").await;
        assert_eq!(socket.close_code().await, 4509);
        let mut socket = Socket::open_anonymous(client).await;
        socket.send(&json!({"type": "ping"})).await;
        assert_eq!(socket.close_code().await, 4509, "the first frame must be auth");
        errand.finish().await;
    }

    async fn a_key_that_may_not_read_is_told_so_for_good(setup: Setup) {
        let errand = setup.start().await;
        let (_, writer) = key_for(errand.client(), "jobs:write").await;
        assert_eq!(Socket::refusal(&writer).await, Some(403));
        let mut socket = Socket::open_anonymous(&writer).await;
        socket.send(&json!({"type": "auth", "token": writer.key()})).await;
        assert_eq!(socket.close_code().await, 4507);
        errand.finish().await;
    }

    async fn guessing_over_sockets_is_slowed_down_too(setup: Setup) {
        let errand = setup.section("auth", "failures_per_minute = 2").start().await;
        let client = errand.client();
        let mut codes = Vec::new();
        for _ in 0..3 {
            let mut socket = Socket::open_anonymous(client).await;
            socket.send(&json!({"type": "auth", "token": UNKNOWN_KEY})).await;
            codes.push(socket.close_code().await);
        }
        assert_eq!(codes, [4500, 4500, 4013]);
        assert_eq!(Socket::refusal(&client.with_key(UNKNOWN_KEY)).await, Some(429));
        assert_eq!(Socket::refusal(client).await, None, "a good key always passes");
        errand.finish().await;
    }

    async fn a_socket_that_never_says_who_it_is_is_closed(setup: Setup) {
        let errand = setup.start().await;
        let mut socket = Socket::open_anonymous(errand.client()).await;
        assert_eq!(socket.close_code().await, 4500);
        errand.finish().await;
    }

    async fn a_socket_outlives_its_key_by_seconds_only(setup: Setup) {
        let errand = setup.section("relay", "ping_seconds = 1").start().await;
        let (id, reader) = key_for(errand.client(), "jobs:read").await;
        let mut socket = Socket::open(&reader).await;
        socket.send(&json!({"type": "ping"})).await;
        socket.take_until("pong").await;
        assert_eq!(errand.client().delete(&format!("/keys/{id}")).await.status, 200);
        assert_eq!(socket.close_code().await, 4001);
        errand.finish().await;
    }

    async fn another_tenants_streams_are_not_found(setup: Setup) {
        let errand = setup.section("auth", &format!("bootstrap_key = {BOOTSTRAP:?}")).start().await;
        let task = errand.client().submit_task(&json!({"prompt": "between us"})).await;
        errand.client().wait_for_completion(&task.id).await;
        let mut socket = Socket::open(&errand.client().with_key(BOOTSTRAP)).await;
        for stream in [format!("job:{}", task.id), format!("session:{}", task.session_id)] {
            socket.send(&json!({"type": "subscribe", "id": 1, "stream": stream})).await;
            assert_eq!(socket.frame().await["code"], "not_found", "{stream}");
        }
        errand.finish().await;
    }

    async fn many_streams_subscribed_to_at_once_are_all_served(setup: Setup) {
        // More than there are connections to the database.
        const STREAMS: usize = 40;
        let errand = setup.start().await;
        let client = errand.client();
        let task = json!({"kind": "task", "payload": {"prompt": "hello"}});
        let made = client.post("/jobs/batch", &json!({"jobs": vec![task; STREAMS]})).await;
        let ids: Vec<_> = made.items().iter().filter_map(|item| item["id"].as_str()).collect();
        assert_eq!(ids.len(), STREAMS, "{}", made.text);
        for id in &ids {
            client.wait_for_completion(id).await;
        }
        let mut socket = Socket::open(client).await;
        for (number, id) in ids.iter().enumerate() {
            socket.send(&json!({"type": "subscribe", "id": number, "stream": format!("job:{id}")})).await;
        }
        let mut ended = 0;
        while ended < STREAMS {
            let frame = socket.frame().await;
            assert_ne!(frame["type"], "error", "{frame}");
            ended += usize::from(frame["type"] == "end");
        }
        errand.finish().await;
    }

    async fn a_watcher_too_many_is_told_and_a_place_that_is_left_is_free(setup: Setup) {
        let errand = setup.section("relay", "max_connections = 2\nmax_subscriptions = 1").start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "x"})).await;
        client.wait_for_completion(&task.id).await;
        let path = format!("/agent/sessions/{}/events", task.session_id);
        let mut socket = Socket::open(client).await;
        for (stream, wanted) in [("session", "subscribed"), ("job", "error")] {
            let id = if stream == "job" { &task.id } else { &task.session_id };
            let subscribe = json!({"type": "subscribe", "id": 1, "stream": format!("{stream}:{id}")});
            socket.send(&subscribe).await;
            let answer = socket.take_until(wanted).await.pop().expect("an answer");
            assert!(wanted == "subscribed" || answer["code"] == "subscription_limit", "{answer}");
        }
        let events = Sse::open(client, &path, &[]).await;
        assert_eq!(Socket::refusal(client).await, Some(503));
        let refused = client.get(&path).await;
        assert_eq!((refused.status, &refused.body["code"]), (503, &json!("too_many_watchers")), "{refused:?}");
        assert_ne!(refused.header("retry-after"), "");
        drop((socket, events));
        wait::until("both places are free", || async {
            let both = (Socket::refusal(client).await, metric(client, "errand_ws_connections").await);
            (both == (None, 0.0)).then_some(())
        })
        .await;
        errand.finish().await;
    }

    async fn a_socket_that_does_not_read_is_cut_off(setup: Setup) {
        let programs = Programs::new();
        let flood = programs.gated_flood("flood", 16_000_000);
        let errand = setup
            .section("relay", "buffer_frames = 16")
            // So much text takes a slow machine longer to commit than the short lease of other tests lasts.
            .section("worker", "lease_seconds = 60")
            .engine("flood", &flood)
            .start()
            .await;
        let client = errand.client();
        assert_eq!(metric(client, "errand_ws_slow_closed_total").await, 0.0);
        let task = client.submit_task(&json!({"prompt": "x", "engineType": "flood"})).await;
        client.wait_for_state(&task.id, "running").await;
        let mut socket = Socket::open_narrow(client).await;
        socket.send(&json!({"type": "subscribe", "id": 1, "stream": format!("job:{}", task.id)})).await;
        socket.take_until("event").await;
        programs.open_gate("flood");
        // Far more is committed than the system and the relay hold for a reader.
        wait::until("it is far behind", || async {
            let tail: Value = client.job(&task.id).await["stream"]["tail_seq"].clone();
            (tail.as_i64() > Some(300)).then_some(())
        })
        .await;
        assert_eq!(socket.close_code().await, 4008);
        assert_eq!(metric(client, "errand_ws_slow_closed_total").await, 1.0);
        // The rest of the flood proves nothing more.
        let cancelled = client.delete(&format!("/agent/tasks/{}", task.id)).await;
        assert_eq!(cancelled.status, 200, "{cancelled:?}");
        errand.finish().await;
    }
}
