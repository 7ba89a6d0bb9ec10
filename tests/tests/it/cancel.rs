//! Cancelling: at once, completely, and once.

use std::time::{Duration, Instant};

use errand_tests::{both_modes, process, program, program::Programs, wait};
use serde_json::json;

const AT_ONCE: Duration = Duration::from_secs(2);

both_modes! {
    async fn cancelling_a_running_task_kills_its_children_and_keeps_what_it_said(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("spawner", &programs.engine("spawner", program::SPAWNER)).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "start", "engineType": "spawner"})).await;
        client.wait_for_text(&task.id, "the first half").await;
        // sleep 600 to 606, without the one that comes later, whatever else holds them.
        wait::until("all children are there", || async {
            let alive = process::of_task(&task.id);
            let sleeping = alive.iter().filter(|process| process.command.starts_with("sleep 60")).count();
            (sleeping >= 6).then_some(())
        })
        .await;

        let asked = Instant::now();
        let answer = client.delete(&format!("/agent/tasks/{}", task.id)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body, json!({"message": "Task cancelled", "taskId": task.id}));
        process::assert_gone(&task.id, asked, AT_ONCE).await;

        let view = client.get(&format!("/agent/tasks/{}", task.id)).await;
        assert_eq!(view.body["status"], "cancelled", "{view:?}");
        let messages = client.messages(&task.session_id).await;
        let last = messages.last().expect("messages");
        assert_eq!(last["role"], "assistant");
        assert_eq!(last["content"], "the first half\n\n[interrupted]");
        let frames = client.events(&task.id).await;
        let cancelled = frames.iter().find(|frame| frame.kind() == "cancelled").expect("an event");
        assert_eq!(cancelled.data["code"], "USER_CANCEL");
        assert_eq!(cancelled.data["message"], "Task cancelled by user");
        assert!(view.body["completedAt"].is_string(), "{view:?}");
        errand.finish().await;
    }

    async fn cancelling_twice_is_the_same_as_once(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("hang", &programs.engine("hang", program::HANGING)).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "x", "engineType": "hang"})).await;
        client.wait_for_state(&task.id, "running").await;
        let path = format!("/agent/tasks/{}", task.id);
        assert_eq!(client.delete(&path).await.status, 200);
        let job = client.job(&task.id).await;
        let again = client.delete(&path).await;
        assert_eq!(again.status, 200, "{again:?}");
        assert_eq!(again.body, json!({"message": "Task already finished", "taskId": task.id}));
        let unknown = uuid::Uuid::now_v7();
        let unknown_path = format!("/agent/tasks/{unknown}");
        for missing in [client.delete(&unknown_path).await, client.get(&unknown_path).await] {
            assert_eq!((missing.status, &missing.body["detail"]), (404, &json!(format!("Task {unknown} not found"))));
        }
        assert_eq!(client.job(&task.id).await["finished_at"], job["finished_at"]);
        process::assert_gone(&task.id, Instant::now(), AT_ONCE).await;
        errand.finish().await;
    }

    async fn a_finished_task_can_no_longer_be_cancelled(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "quick"})).await;
        client.wait_for_completion(&task.id).await;
        let answer = client.delete(&format!("/agent/tasks/{}", task.id)).await;
        assert_eq!((answer.status, &answer.body["message"]), (200, &json!("Task already finished")));
        let refused = client.post(&format!("/jobs/{}/cancel", task.id), &json!({})).await;
        assert_eq!((refused.status, &refused.body["code"]), (409, &json!("already_terminal")), "{refused:?}");
        assert_eq!(client.job(&task.id).await["state"], "completed");
        errand.finish().await;
    }

    async fn what_has_not_started_is_cancelled_without_a_trace_in_the_history(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "a", "b")).start().await;
        let client = errand.client();
        let far = (chrono::Utc::now() + chrono::TimeDelta::hours(1)).to_rfc3339();
        let scheduled = client.submit_task(&json!({"prompt": "later", "runAt": far})).await;
        let active = client.submit_task(&json!({"prompt": "first", "engineType": "gated"})).await;
        client.wait_for_state(&active.id, "running").await;
        let enqueued = json!({"prompt": "second", "sessionId": active.session_id, "onBusy": "enqueue"});
        let blocked = client.submit_task(&enqueued).await;
        for (task, state) in [(&scheduled, "scheduled"), (&blocked, "blocked")] {
            assert_eq!(client.job(&task.id).await["state"], state);
            let answer = client.post(&format!("/jobs/{}/cancel", task.id), &json!({})).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(client.job(&task.id).await["state"], "cancelled");
        }
        programs.open_gate("gated");
        client.wait_for_completion(&active.id).await;
        let said: Vec<_> = client.messages(&active.session_id).await.iter().map(|m| m["content"].clone()).collect();
        assert_eq!(said, [json!("first"), json!("a\nb\n")]);
        errand.finish().await;
    }

    async fn the_next_task_of_a_session_starts_only_once_the_cancelled_one_is_gone(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("spawner", &programs.engine("spawner", program::SPAWNER)).start().await;
        let client = errand.client();
        let first = client.submit_task(&json!({"prompt": "start", "engineType": "spawner"})).await;
        client.wait_for_text(&first.id, "the first half").await;
        let second = client.submit_task(&json!({"prompt": "next", "sessionId": first.session_id})).await;
        assert_eq!(second.session_id, first.session_id);
        client.wait_for_completion(&second.id).await;
        assert_eq!(process::of_task(&first.id), []);
        assert_eq!(client.job(&first.id).await["state"], "cancelled");
        let frames = client.events(&first.id).await;
        let cancelled = frames.iter().find(|frame| frame.kind() == "cancelled").expect("an event");
        assert_eq!(cancelled.data["code"], "USER_INTERRUPT");
        errand.finish().await;
    }
}
