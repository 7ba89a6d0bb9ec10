//! Retention, seen from outside: streams that begin later, and jobs that are gone.

use errand_tests::{
    Client, Errand, Setup, both_modes, sse,
    sse::{Frame, Sse},
    wait,
};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

/// As if everything that has ended had ended forty days ago.
async fn age(errand: &Errand) {
    const SQL: &str = "UPDATE jobs SET finished_at = finished_at - 3456000000000 WHERE finished_at IS NOT NULL";
    if let Some(url) = errand.setup().database_url() {
        PgConnection::connect(url).await.expect("a database").execute(SQL).await.expect("aged");
    } else {
        let url = format!("sqlite://{}", errand.data_dir().join("errand.db").display());
        SqliteConnection::connect(&url).await.expect("a database").execute(SQL).await.expect("aged");
    }
}

/// Rounds of the sweep follow each other so fast that a walk begins each second or so.
fn swift(setup: Setup, retention: &str) -> Setup {
    setup.section("worker", "lease_seconds = 5\nsweep_interval_ms = 20").section("retention", retention)
}

/// What the snapshot that a watcher from the beginning gets says of the job's stream, once its events are gone.
async fn emptied(client: &Client, id: &str) -> Vec<Frame> {
    wait::until("its events are dropped", || async {
        let frames = client.events(id).await;
        // One who begins just as they are dropped is let go, to begin anew.
        let whole = frames.last().is_some_and(|frame| frame.kind() == "end");
        (whole && frames.iter().all(|frame| !frame.is_event())).then_some(frames)
    })
    .await
}

both_modes! {
    async fn a_watcher_whose_position_was_dropped_begins_with_a_snapshot(setup: Setup) {
        let errand = swift(setup, "events_days = 30\njobs_days = 0").start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "one two three"})).await;
        let job = client.wait_for_completion(&task.id).await;
        let tail = job["stream"]["tail_seq"].as_i64().expect("a number");
        age(&errand).await;

        let frames = emptied(client, &task.id).await;
        assert_eq!(frames.iter().map(Frame::kind).collect::<Vec<_>>(), ["snapshot", "end"], "{frames:#?}");
        assert_eq!((&frames[0].data["first_seq"], &frames[0].data["tail_seq"]), (&json!(tail + 1), &json!(tail)));
        assert_eq!(frames[0].data["job"]["result"]["summary"], "one two three", "the job itself is kept");
        let epoch = frames[0].data["epoch"].as_str().expect("an epoch");
        let kinds = async |seq: i64| {
            let frames = Sse::of_job_after(client, &task.id, &format!("{epoch}:{seq}")).await.rest().await;
            frames.iter().map(|frame| frame.kind().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(kinds(1).await, ["snapshot", "end"], "a position whose next event is gone");
        assert_eq!(kinds(tail).await, ["end"], "one that has seen all");

        let next = client.submit_task(&json!({"prompt": "more", "sessionId": task.session_id})).await;
        assert_eq!(next.session_id, task.session_id);
        client.wait_for_completion(&next.id).await;
        let path = format!("/agent/sessions/{}/events?after=1", task.session_id);
        let mut session = Sse::open(client, &path, &[]).await;
        let frames = session.take_until(|frame| frame.kind() == "completed").await;
        let first = frames[0].data["first_seq"].as_i64().expect("a number");
        assert_eq!(frames[0].kind(), "snapshot", "{frames:#?}");
        assert!(first > 1, "{frames:#?}");
        sse::assert_gap_free(&frames[1..], first);
        errand.finish().await;
    }

    async fn an_old_job_is_gone_and_its_conversation_stays(setup: Setup) {
        let errand = swift(setup, "jobs_days = 30").start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "hello"})).await;
        client.wait_for_completion(&task.id).await;
        age(&errand).await;
        let young = client.submit_task(&json!({"prompt": "hello again"})).await;
        client.wait_for_completion(&young.id).await;
        wait::until("the old job is gone", || async {
            (client.get(&format!("/jobs/{}", task.id)).await.status == 404).then_some(())
        })
        .await;
        let said = client.messages(&task.session_id).await;
        let said: Vec<&Value> = said.iter().map(|message| &message["content"]).collect();
        assert_eq!(said, ["hello", "hello"], "what was said, and echoed");
        assert_eq!(client.job(&young.id).await["state"], "completed");
        sse::assert_gap_free(&client.events(&young.id).await, 1);
        errand.finish().await;
    }
}
