//! Tool calls that wait for a person: decided warm, parked, expired, cancelled, and what dies meanwhile.

use std::time::{Duration, Instant};

use errand_tests::{
    Client, Mode, Setup, Task, all_modes, both_modes,
    client::Answer,
    cluster_only,
    sse::{self, Sse},
    wait,
};
use rustix::process::Signal;
use serde_json::{Value, json};

/// An `echo` that asks, and another that can't go on in a later run.
const ASKS: &str = "type = \"echo\"\nword_delay_ms = 0\nasks = true";

const LS: &str = "before\n!tool Bash {\"command\": \"ls\"}\nafter\n";

fn asking(setup: Setup) -> Setup {
    setup.engine("echo", ASKS).engine("tied", &format!("{ASKS}\nresumes = false"))
}

fn worker(setup: &Setup, lines: &str) -> Setup {
    setup.clone().section("worker", &format!("lease_seconds = 3\n{lines}"))
}

async fn submit(client: &Client, prompt: &str) -> Task {
    client.submit_task(&json!({"prompt": prompt})).await
}

/// Waits until the task asks; its pending calls.
async fn pending(client: &Client, task: &Task) -> Vec<Value> {
    client.wait_for_state(&task.id, "awaiting_approval").await;
    let view = client.get(&format!("/agent/tasks/{}", task.id)).await;
    view.body["approvals"].as_array().cloned().unwrap_or_default()
}

async fn say(client: &Client, task: &Task, body: Value) -> Answer {
    client.post(&format!("/agent/tasks/{}/approve", task.id), &body).await
}

async fn approve(client: &Client, task: &Task) {
    let answer = say(client, task, json!({"approved": true})).await;
    assert_eq!((answer.status, &answer.body["message"]), (200, &json!("Command approved")), "{answer:?}");
    assert_eq!(answer.body["taskId"], task.id);
}

/// The task completed with this answer, in its first attempt, with this many runs.
async fn completed(client: &Client, task: &Task, text: &str, runs: usize) {
    let job = client.wait_for_completion(&task.id).await;
    assert_eq!((&job["result"]["summary"], &job["attempt"]), (&json!(text), &json!(1)), "{job:#}");
    let timeline = client.timeline(&task.id).await;
    assert_eq!(timeline.iter().filter(|event| event["type"] == "started").count(), runs, "{timeline:#?}");
    let messages = client.messages(&task.session_id).await;
    assert_eq!(messages.last().expect("messages")["content"], text);
}

/// The worker has let go of the task's process.
async fn parked(client: &Client, task: &Task) {
    wait::until("it is parked", || async {
        let job = client.job(&task.id).await;
        assert_eq!(job["state"], "awaiting_approval", "{job:#}");
        job["lease_until"].is_null().then_some(())
    })
    .await;
}

all_modes! {
    async fn an_approved_call_is_made_and_the_events_are_in_order(setup: Setup) {
        let errand = asking(setup).start().await;
        let client = errand.client();
        let task = submit(client, LS).await;
        let waiting = pending(client, &task).await;
        assert_eq!(waiting.len(), 1, "{waiting:#?}");
        assert_eq!((&waiting[0]["toolName"], &waiting[0]["toolInput"]), (&json!("Bash"), &json!({"command": "ls"})));
        approve(client, &task).await;
        completed(client, &task, "before\nallowed\nafter\n", 1).await;

        let frames = client.events(&task.id).await;
        sse::assert_gap_free(&frames, 1);
        let kinds: Vec<_> = frames.iter().map(sse::Frame::kind).collect();
        let wanted = [
            "queued", "started", "text", "approval_required", "approval_resolved", "tool_use", "text", "completed", "end",
        ];
        assert_eq!(kinds, wanted, "what was said before the question comes before it");
        assert_eq!(frames[3].data["approvalId"], waiting[0]["approvalId"]);
        assert_eq!(frames[4].data["state"], "approved");
        let again = say(client, &task, json!({"approved": true})).await;
        assert_eq!((again.status, &again.body["code"]), (400, &json!("not_awaiting_approval")), "{again:?}");
        let sentence = format!("Task {} is not awaiting approval (current status: completed)", task.id);
        assert_eq!(again.body["detail"], sentence);
        let unknown = Task { id: uuid::Uuid::now_v7().to_string(), ..task.clone() };
        let missing = say(client, &unknown, json!({"approved": true})).await;
        assert_eq!((missing.status, &missing.body["detail"]), (404, &json!(format!("Task {} not found", unknown.id))));
        errand.finish().await;
    }

    async fn a_denied_call_is_not_made_and_the_turn_goes_on(setup: Setup) {
        let errand = asking(setup).start().await;
        let client = errand.client();
        let task = submit(client, LS).await;
        pending(client, &task).await;
        let blank = say(client, &task, json!({"approved": false, "message": " "})).await;
        assert_eq!((blank.status, blank.pointers()), (400, vec!["/message"]), "{blank:?}");
        let answer = say(client, &task, json!({"approved": false, "message": "use git"})).await;
        assert_eq!((answer.status, &answer.body["message"]), (200, &json!("Command denied")), "{answer:?}");
        completed(client, &task, "before\ndenied: use git\nafter\n", 1).await;
        errand.finish().await;
    }
}

both_modes! {
    async fn a_rejected_task_is_cancelled(setup: Setup) {
        let errand = asking(setup).start().await;
        let client = errand.client();
        let task = submit(client, LS).await;
        pending(client, &task).await;
        let answer = say(client, &task, json!({"approved": false})).await;
        assert_eq!((answer.status, &answer.body["message"]), (200, &json!("Command rejected")), "{answer:?}");
        assert_eq!(client.wait_for_end(&task.id).await["state"], "cancelled");
        let frames = client.events(&task.id).await;
        let cancelled = frames.iter().find(|frame| frame.kind() == "cancelled").expect("an event");
        assert_eq!(
            (&cancelled.data["code"], &cancelled.data["message"]),
            (&json!("USER_REJECT"), &json!("Command rejected by user"))
        );
        let next = client.submit_task(&json!({"prompt": "next", "sessionId": task.session_id})).await;
        assert_eq!(next.session_id, task.session_id);
        completed(client, &next, "next", 1).await;
        errand.finish().await;
    }

    async fn tools_allowed_by_name_are_not_asked_about(setup: Setup) {
        let errand = asking(setup).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": LS, "allowedTools": ["Bash"]})).await;
        completed(client, &task, "before\nallowed\nafter\n", 1).await;
        let timeline = client.timeline(&task.id).await;
        assert!(timeline.iter().all(|event| event["type"] != "approval_required"), "{timeline:#?}");
        errand.finish().await;
    }

    async fn an_approval_for_the_session_holds_for_its_later_tasks_and_no_other_session(setup: Setup) {
        let errand = asking(setup).start().await;
        let client = errand.client();
        let task = submit(client, LS).await;
        pending(client, &task).await;
        assert_eq!(say(client, &task, json!({"approved": true, "scope": "session"})).await.status, 200);
        completed(client, &task, "before\nallowed\nafter\n", 1).await;

        let prompt = "!tool Bash {\"command\": \"rm\"}\n!tool Write {}\n";
        let next = client.submit_task(&json!({"prompt": prompt, "sessionId": task.session_id})).await;
        let waiting = pending(client, &next).await;
        assert_eq!(waiting.iter().map(|call| &call["toolName"]).collect::<Vec<_>>(), ["Write"]);
        approve(client, &next).await;
        completed(client, &next, "allowed\nallowed\n", 1).await;

        let stranger = submit(client, LS).await;
        assert_eq!(pending(client, &stranger).await.len(), 1);
        approve(client, &stranger).await;
        client.wait_for_completion(&stranger.id).await;
        errand.finish().await;
    }

    async fn of_several_calls_the_one_must_be_named(setup: Setup) {
        let errand = asking(setup).start().await;
        let client = errand.client();
        let task = submit(client, "!tool Bash {\"n\": 1}\n!tool Write {}\n!tool Bash {\"n\": 2}\n").await;
        let waiting = pending(client, &task).await;
        assert_eq!(waiting.len(), 3, "{waiting:#?}");
        let unnamed = say(client, &task, json!({"approved": true})).await;
        assert_eq!((unnamed.status, &unnamed.body["code"]), (409, &json!("several_pending")), "{unnamed:?}");
        let listed: Vec<_> = unnamed.body["errors"].as_array().expect("errors").iter().collect();
        assert_eq!(listed.len(), 3);
        for (error, call) in listed.iter().zip(&waiting) {
            let detail = error["detail"].as_str().expect("text");
            assert!(detail.starts_with(call["approvalId"].as_str().expect("an id")), "{detail}");
        }
        let ids: Vec<_> = waiting.iter().map(|call| call["approvalId"].clone()).collect();
        let second = json!({"approved": false, "message": "not this", "approvalId": ids[1]});
        assert_eq!(say(client, &task, second.clone()).await.status, 200);
        let repeated = say(client, &task, second).await;
        assert_eq!((repeated.status, &repeated.body["code"]), (409, &json!("not_pending")), "{repeated:?}");
        assert_eq!(client.job(&task.id).await["state"], "awaiting_approval", "two of them wait on");
        for id in [&ids[2], &ids[0]] {
            assert_eq!(say(client, &task, json!({"approved": true, "approvalId": id})).await.status, 200);
        }
        completed(client, &task, "allowed\ndenied: not this\nallowed\n", 1).await;
        errand.finish().await;
    }

    async fn a_task_that_waits_can_be_cancelled(setup: Setup) {
        let errand = asking(setup).start().await;
        let client = errand.client();
        let task = submit(client, LS).await;
        pending(client, &task).await;
        let waiting = client.submit_task(&json!({"prompt": "n", "sessionId": task.session_id, "onBusy": "enqueue"})).await;
        assert_eq!(client.delete(&format!("/agent/tasks/{}", task.id)).await.status, 200);
        completed(client, &waiting, "n", 1).await;
        let late = say(client, &task, json!({"approved": true})).await;
        assert_eq!((late.status, &late.body["code"]), (400, &json!("not_awaiting_approval")), "{late:?}");
        let timeline = client.timeline(&task.id).await;
        let resolved = timeline.iter().find(|event| event["type"] == "approval_resolved").expect("it is closed");
        assert_eq!(resolved["state"], "withdrawn", "{timeline:#?}");
        errand.finish().await;
    }

    async fn one_that_nobody_decides_about_is_denied(setup: Setup) {
        let setup = worker(&asking(setup), "approval_expires_seconds = 1");
        let errand = setup.start().await;
        let client = errand.client();
        let task = submit(client, LS).await;
        let text = "before\ndenied: Nobody decided about this tool call in time\nafter\n";
        completed(client, &task, text, 1).await;
        errand.finish().await;
    }

    async fn a_waiting_task_holds_no_slot_and_its_clock_stands(setup: Setup) {
        let setup = worker(&asking(setup), "concurrency = 1");
        let errand = setup.start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": LS, "timeoutSeconds": 1})).await;
        let other = client.submit_task(&json!({"prompt": LS, "engineType": "tied", "timeoutSeconds": 1})).await;
        pending(client, &task).await;
        pending(client, &other).await;
        let since = Instant::now();
        for number in 0..5 {
            let beside = submit(client, &format!("beside {number}")).await;
            client.wait_for_completion(&beside.id).await;
        }
        tokio::time::sleep(Duration::from_millis(1_500).saturating_sub(since.elapsed())).await;
        approve(client, &task).await;
        approve(client, &other).await;
        completed(client, &task, "before\nallowed\nafter\n", 1).await;
        completed(client, &other, "before\nallowed\nafter\n", 1).await;
        errand.finish().await;
    }

    async fn a_parked_task_goes_on_after_the_decision_and_asks_nothing_twice(setup: Setup) {
        let setup = worker(&asking(setup), "approval_warm_seconds = 0");
        let errand = setup.start().await;
        let client = errand.client();
        let task = submit(client, "before\n!tool Bash {\"command\": \"ls\"}\nthen\n!tool Write {}\n").await;
        for _ in 0..2 {
            assert_eq!(pending(client, &task).await.len(), 1);
            parked(client, &task).await;
            approve(client, &task).await;
            wait::until("it goes on", || async {
                let timeline = client.timeline(&task.id).await;
                let resolved = timeline.iter().rposition(|event| event["type"] == "approval_resolved");
                let started = timeline.iter().rposition(|event| event["type"] == "started");
                (started > resolved).then_some(())
            })
            .await;
        }
        completed(client, &task, "before\nallowed\nthen\nallowed\n", 3).await;
        let timeline = client.timeline(&task.id).await;
        assert_eq!(timeline.iter().filter(|event| event["type"] == "approval_required").count(), 2, "{timeline:#?}");
        assert_eq!(sse::visible_text(&client.events(&task.id).await), "before\nallowed\nthen\nallowed\n");
        errand.finish().await;
    }

    async fn the_longest_waiting_is_parked_when_too_many_wait(setup: Setup) {
        let setup = worker(&asking(setup), "max_warm = 1\nconcurrency = 1");
        let errand = setup.start().await;
        let client = errand.client();
        let first = submit(client, LS).await;
        pending(client, &first).await;
        assert!(!client.job(&first.id).await["lease_until"].is_null(), "it is kept warm");
        let second = submit(client, LS).await;
        pending(client, &second).await;
        parked(client, &first).await;
        assert!(!client.job(&second.id).await["lease_until"].is_null(), "there is room for one");
        approve(client, &first).await;
        approve(client, &second).await;
        completed(client, &first, "before\nallowed\nafter\n", 2).await;
        completed(client, &second, "before\nallowed\nafter\n", 1).await;
        errand.finish().await;
    }

    async fn an_engine_that_can_not_go_on_later_stays_warm_and_only_so_many_wait(setup: Setup) {
        let setup = worker(&asking(setup), "max_warm = 0\napproval_warm_seconds = 0\nconcurrency = 1");
        let errand = setup.start().await;
        let client = errand.client();
        let body = json!({"prompt": LS, "engineType": "tied"});
        let first = client.submit_task(&body).await;
        pending(client, &first).await;
        let second = client.submit_task(&body).await;
        let job = client.wait_for_completion(&second.id).await;
        let said = job["result"]["summary"].as_str().expect("an answer");
        assert!(said.contains("denied: This tool call needs an approval, and as many"), "{said}");
        assert!(!client.job(&first.id).await["lease_until"].is_null());
        approve(client, &first).await;
        completed(client, &first, "before\nallowed\nafter\n", 1).await;
        errand.finish().await;
    }

    async fn an_approve_of_another_tenant_or_without_the_scope_changes_nothing(setup: Setup) {
        const STRANGER: &str = "errand_the-key-of-another-tenant-0123456789";
        let errand = asking(setup).section("auth", &format!("bootstrap_key = {STRANGER:?}")).start().await;
        let client = errand.client();
        let task = submit(client, LS).await;
        pending(client, &task).await;
        for body in [json!({"approved": true}), json!({"approved": false})] {
            assert_eq!(say(&client.with_key(STRANGER), &task, body).await.status, 404);
        }
        let made = client.post("/keys", &json!({"name": "reader", "scopes": ["jobs:read", "jobs:write"]})).await;
        let reader = client.with_key(made.body["key"].as_str().expect("a key"));
        assert_eq!(say(&reader, &task, json!({"approved": true})).await.status, 403);
        assert_eq!(client.job(&task.id).await["state"], "awaiting_approval");
        approve(client, &task).await;
        client.wait_for_completion(&task.id).await;
        errand.finish().await;
    }
}

all_modes! {
    async fn a_task_whose_worker_is_killed_while_it_waits_loses_nothing(setup: Setup) {
        let mut errand = worker(&asking(setup), "").start().await;
        let task = submit(errand.client(), LS).await;
        let waiting = pending(errand.client(), &task).await;
        errand.kill9_worker(0);
        if errand.setup().mode() == Mode::Cluster {
            // The api lives on: the decision is made while no worker is there to notice that one is gone.
            wait::until("its lease has passed", || async {
                let job = errand.client().job(&task.id).await;
                let until = job["lease_until"].as_str().expect("nobody ended it").to_owned();
                let until = chrono::DateTime::parse_from_rfc3339(&until).expect("a time");
                (until < chrono::Utc::now()).then_some(())
            })
            .await;
            approve(errand.client(), &task).await;
            errand.restart_workers().await;
        } else {
            errand.restart_workers().await;
            parked(errand.client(), &task).await;
            assert_eq!(pending(errand.client(), &task).await[0]["approvalId"], waiting[0]["approvalId"]);
            approve(errand.client(), &task).await;
        }
        completed(errand.client(), &task, "before\nallowed\nafter\n", 2).await;
        let frames = errand.client().events(&task.id).await;
        sse::assert_gap_free(&frames, 1);
        assert_eq!(sse::visible_text(&frames), "before\nallowed\nafter\n");
        assert_eq!(frames.iter().filter(|frame| frame.kind() == "tool_use").count(), 1, "the tool ran once");
        errand.finish().await;
    }

    async fn a_worker_that_stops_parks_what_waits_at_once(setup: Setup) {
        let mut errand = worker(&asking(setup), "drain_seconds = 30").start().await;
        let task = submit(errand.client(), LS).await;
        pending(errand.client(), &task).await;
        let asked = Instant::now();
        let status = errand.sigterm_worker(0).await;
        assert!(status.success(), "{status}");
        assert!(asked.elapsed() < Duration::from_secs(15), "it waited for {:?}", asked.elapsed());
        errand.restart_workers().await;
        parked(errand.client(), &task).await;
        approve(errand.client(), &task).await;
        completed(errand.client(), &task, "before\nallowed\nafter\n", 2).await;
        errand.finish().await;
    }
}

cluster_only! {
    async fn a_decision_through_another_api_reaches_the_waiting_process_in_milliseconds(setup: Setup) {
        // Nobody looks for decisions in this time: what comes sooner came by signal.
        let setup = worker(&asking(setup), "poll_interval_ms = 60000").apis(2).workers(2);
        let errand = setup.start().await;
        let (client, other) = (errand.client(), errand.client_of(1));
        let mut took = Vec::new();
        for _ in 0..10 {
            let task = submit(client, LS).await;
            let mut stream = Sse::of_job(client, &task.id).await;
            stream.take_until(|frame| frame.kind() == "approval_required").await;
            let decided = Instant::now();
            approve(&other, &task).await;
            stream.take_until(|frame| frame.kind() == "tool_use").await;
            took.push(decided.elapsed());
            client.wait_for_completion(&task.id).await;
        }
        took.sort_unstable();
        println!("from the decision at one api to the tool's event at another: {took:?}");
        assert!(took[9] < Duration::from_secs(10), "{took:?}");
        errand.finish().await;
    }

    async fn a_decision_that_no_signal_tells_of_is_found(setup: Setup) {
        let errand = asking(setup).start().await;
        let task = submit(errand.client(), LS).await;
        pending(errand.client(), &task).await;
        // A frozen worker misses the signal as one whose subscription is lost does.
        errand.signal_worker(0, Signal::STOP);
        approve(errand.client(), &task).await;
        errand.signal_worker(0, Signal::CONT);
        errand.client().wait_for_completion(&task.id).await;
        errand.finish().await;
    }
}
