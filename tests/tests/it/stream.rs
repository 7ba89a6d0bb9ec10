//! Watching: numbered, gap-free, resumable, and the same for everyone.

use errand_tests::{
    Client, both_modes,
    program::Programs,
    socket::{Incoming, Socket},
    sse::{self, Sse, events, visible_text},
};
use serde_json::{Value, json};

async fn ended_task(client: &Client, prompt: &str) -> String {
    let task = client.submit_task(&json!({"prompt": prompt})).await;
    client.wait_for_completion(&task.id).await;
    task.id
}

fn seqs(frames: &[Value]) -> Vec<i64> {
    frames.iter().filter(|frame| frame["type"] != "end").filter_map(|frame| frame["seq"].as_i64()).collect()
}

both_modes! {
    async fn a_finished_job_is_replayed_from_its_first_event_and_then_the_stream_ends(setup: Setup) {
        let errand = setup.start().await;
        let id = ended_task(errand.client(), "one two three").await;
        let frames = errand.client().events(&id).await;
        sse::assert_gap_free(&frames, 1);
        assert_eq!(visible_text(&frames), "one two three");
        assert_eq!(frames.last().expect("frames").kind(), "end");
        let kinds: Vec<&str> = events(&frames).into_iter().map(errand_tests::sse::Frame::kind).collect();
        for kind in ["queued", "started", "completed"] {
            assert_eq!(kinds.iter().filter(|seen| **seen == kind).count(), 1, "{kind} in {kinds:?}");
        }
        assert_eq!(kinds.last(), Some(&"completed"));
        let completed = &events(&frames).last().expect("events").data;
        assert_eq!(completed["summary"], "one two three");
        for frame in events(&frames) {
            assert_eq!(frame.data["stream"], format!("job:{id}"));
            assert_eq!(frame.data["job_id"], id);
            assert_eq!(frame.data["attempt"], 1);
            let epoch = frame.data["epoch"].as_str().expect("an epoch");
            assert_eq!(frame.id, Some(format!("{epoch}:{}", frame.seq())));
        }
        errand.finish().await;
    }

    async fn text_is_seen_while_the_program_still_runs(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "first", "second")).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        let mut stream = Sse::of_job(client, &task.id).await;
        let mut frames = stream.take_until(|frame| frame.kind() == "text").await;
        assert_eq!(visible_text(&frames).trim(), "first");
        programs.open_gate("gated");
        frames.extend(stream.rest().await);
        sse::assert_gap_free(&frames, 1);
        assert_eq!(visible_text(&frames), "first\nsecond\n");
        errand.finish().await;
    }

    async fn a_watcher_that_comes_back_goes_on_after_its_last_event(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let id = ended_task(client, "a b c d e f").await;
        let all = client.events(&id).await;
        let second = &events(&all)[1];
        let position = second.id.as_deref().expect("an id");

        let rest = Sse::of_job_after(client, &id, position).await.rest().await;
        sse::assert_gap_free(&rest, 3);
        assert_eq!(&all[2..], &rest[..]);

        // The header beats both parameters, and `last_event_id` beats `after`.
        let path = format!("/jobs/{id}/events?after=0&last_event_id={position}");
        assert_eq!(Sse::open(client, &path, &[]).await.rest().await, rest);
        let path = format!("/jobs/{id}/events?after=0");
        assert_eq!(Sse::open(client, &path, &[("last-event-id", position)]).await.rest().await, rest);
        let path = format!("/jobs/{id}/events?after=2");
        assert_eq!(Sse::open(client, &path, &[]).await.rest().await, rest);
        errand.finish().await;
    }

    async fn a_position_of_another_epoch_begins_with_a_snapshot(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let id = ended_task(client, "a b c").await;
        let frames = Sse::of_job_after(client, &id, "some-other-epoch:2").await.rest().await;
        let snapshot = &frames[0];
        assert_eq!(snapshot.event.as_deref(), Some("snapshot"), "{frames:#?}");
        assert_eq!(snapshot.data["first_seq"], 1);
        let tail = events(&frames).last().expect("events").seq();
        assert_eq!(snapshot.data["tail_seq"], tail);
        assert!(snapshot.data["epoch"].is_string());
        assert!(snapshot.data.to_string().contains(&id), "it holds the job: {snapshot:?}");
        sse::assert_gap_free(&frames, 1);
        errand.finish().await;
    }

    async fn two_watchers_who_came_at_different_times_saw_the_same(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "first", "second")).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        let mut early = Sse::of_job(client, &task.id).await;
        let mut seen_early = early.take_until(|frame| frame.kind() == "text").await;
        let mut late = Sse::of_job(client, &task.id).await;
        programs.open_gate("gated");
        let seen_late = late.rest().await;
        seen_early.extend(early.rest().await);
        assert_eq!(seen_early, seen_late);
        errand.finish().await;
    }

    async fn a_session_has_one_stream_over_all_its_tasks(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let first = client.submit_task(&json!({"prompt": "one"})).await;
        client.wait_for_completion(&first.id).await;
        let mut stream = Sse::open(client, &format!("/agent/sessions/{}/events", first.session_id), &[]).await;
        let mut frames = stream.take_until(|frame| frame.kind() == "completed").await;
        let second = client.submit_task(&json!({"prompt": "two", "sessionId": first.session_id})).await;
        assert_eq!(second.session_id, first.session_id);
        frames.extend(stream.take_until(|frame| frame.kind() == "completed").await);
        sse::assert_gap_free(&frames, 1);
        assert_eq!(visible_text(&frames), "onetwo");
        let jobs: Vec<&Value> = events(&frames).into_iter().map(|frame| &frame.data["job_id"]).collect();
        assert!(jobs.contains(&&json!(first.id)) && jobs.contains(&&json!(second.id)));
        for frame in events(&frames) {
            assert_eq!(frame.data["stream"], format!("session:{}", first.session_id));
            assert_eq!(frame.data["session_id"], first.session_id);
        }
        errand.finish().await;
    }

    async fn a_stream_nobody_of_the_tenant_owns_is_not_found(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let id = uuid::Uuid::now_v7();
        assert_eq!(client.get(&format!("/jobs/{id}/events")).await.status, 404);
        assert_eq!(client.get(&format!("/agent/sessions/{id}/events")).await.status, 404);
        let mut socket = Socket::open(client).await;
        socket.send(&json!({"type": "subscribe", "id": 4, "stream": format!("job:{id}")})).await;
        let error = socket.frame().await;
        assert_eq!((&error["type"], &error["id"]), (&json!("error"), &json!(4)), "{error}");
        assert!(error["code"].is_string());
        errand.finish().await;
    }

    async fn a_socket_replays_a_job_and_says_when_it_has_ended(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let id = ended_task(client, "one two").await;
        let stream = format!("job:{id}");
        let mut socket = Socket::open(client).await;
        socket.send(&json!({"type": "subscribe", "id": 1, "stream": stream})).await;
        let subscribed = socket.frame().await;
        assert_eq!(subscribed["type"], "subscribed", "{subscribed}");
        assert_eq!(subscribed["id"], 1);
        assert_eq!(subscribed["stream"], stream);
        let frames = socket.take_until("end").await;
        assert_eq!(frames.last().expect("frames")["stream"], stream);
        let tail = subscribed["tail_seq"].as_i64().expect("a number");
        assert_eq!(seqs(&frames), (1..=tail).collect::<Vec<_>>());
        errand.finish().await;
    }

    async fn a_socket_goes_on_where_it_was_and_follows_several_streams(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let one = ended_task(client, "a b c").await;
        let other = ended_task(client, "d e f").await;
        let epoch = client.job(&one).await["stream"]["epoch"].clone();
        let mut socket = Socket::open(client).await;
        let resume = json!({"type": "subscribe", "id": 1, "stream": format!("job:{one}"), "epoch": epoch, "after": 2});
        socket.send(&resume).await;
        let subscribed = socket.frame().await;
        assert_eq!(subscribed["recovered"], true, "{subscribed}");
        let frames = socket.take_until("end").await;
        assert_eq!(seqs(&frames).first(), Some(&3));
        socket.send(&json!({"type": "subscribe", "id": 2, "stream": format!("job:{other}")})).await;
        let frames = socket.take_until("end").await;
        assert_eq!(frames[0]["id"], 2);
        assert_eq!(seqs(&frames[1..]).first(), Some(&1));
        errand.finish().await;
    }

    async fn a_socket_with_a_position_of_another_epoch_gets_a_snapshot(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let id = ended_task(client, "a b c").await;
        let mut socket = Socket::open(client).await;
        socket
            .send(&json!({"type": "subscribe", "id": 1, "stream": format!("job:{id}"), "epoch": "other", "after": 2}))
            .await;
        let subscribed = socket.frame().await;
        assert_eq!(subscribed["recovered"], false, "{subscribed}");
        let snapshot = socket.frame().await;
        assert_eq!(snapshot["type"], "snapshot", "{snapshot}");
        let frames = socket.take_until("end").await;
        assert_eq!(seqs(&frames).first(), Some(&1));
        errand.finish().await;
    }

    async fn a_filtered_event_names_the_one_delivered_before_it(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let id = ended_task(client, "a b c d").await;
        let mut socket = Socket::open(client).await;
        let types = json!(["started", "completed"]);
        socket.send(&json!({"type": "subscribe", "id": 1, "stream": format!("job:{id}"), "types": types})).await;
        let frames = socket.take_until("end").await;
        let delivered: Vec<&Value> = frames.iter().filter(|frame| frame["seq"].is_i64()).collect();
        assert_eq!(delivered.len(), 2, "{frames:#?}");
        assert_eq!(delivered[1]["prev"], delivered[0]["seq"]);
        assert!(delivered[0]["prev"].as_i64().is_some_and(|prev| prev == 0), "{delivered:#?}");
        errand.finish().await;
    }

    async fn a_socket_may_say_who_it_is_in_its_first_frame(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let id = ended_task(client, "x").await;
        let mut good = Socket::open_anonymous(client).await;
        good.send(&json!({"type": "auth", "token": client.key()})).await;
        good.send(&json!({"type": "ping"})).await;
        good.take_until("pong").await;
        good.send(&json!({"type": "subscribe", "id": 1, "stream": format!("job:{id}")})).await;
        good.take_until("end").await;

        let mut bad = Socket::open_anonymous(client).await;
        bad.send(&json!({"type": "auth", "token": "errand_no-such-key-no-such-key-no-such-key"})).await;
        assert_eq!(bad.next().await, Incoming::Closed(4500));
        errand.finish().await;
    }

    async fn a_socket_that_talks_nonsense_is_closed_for_good(setup: Setup) {
        let errand = setup.start().await;
        let mut socket = Socket::open(errand.client()).await;
        socket.send_text("this is no JSON").await;
        loop {
            match socket.next().await {
                Incoming::Closed(code) => break assert_eq!(code, 4509),
                Incoming::Frame(frame) => assert_eq!(frame["type"], "error", "{frame}"),
            }
        }
        errand.finish().await;
    }

    async fn a_stopping_server_tells_its_sockets_to_come_back(setup: Setup) {
        let mut errand = setup.start().await;
        let mut socket = Socket::open(errand.client()).await;
        socket.send(&json!({"type": "ping"})).await;
        socket.take_until("pong").await;
        let status = errand.sigterm().await;
        assert!(status.success(), "{status}");
        assert_eq!(socket.next().await, Incoming::Closed(4000));
        errand.finish().await;
    }
}
