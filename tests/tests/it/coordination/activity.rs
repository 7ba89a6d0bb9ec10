//! The audit: who did what to whom, listed and live.

use errand_tests::{both_modes, sse::Sse};
use serde_json::{Value, json};

use super::{Agent, World, accepted, finish, ok, put, start, text};

both_modes! {
    async fn what_becomes_of_a_job_is_told_with_its_actor_its_board_and_its_trace(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let nudged = accepted(world.lead.client.post(&world.nudge(&world.worker.id), &json!({"message": "x"})).await);
        let asked = accepted(world.lead.client.post(&world.ask_user(), &json!({"content": "?", "correlation_id": "c"})).await);
        let soul = json!({"content": "x", "reason": "y"});
        let written = accepted(put(&world.lead.client, &world.soul(&world.worker.id), &soul).await);
        for job in [&nudged, &asked, &written] {
            ok(admin.post(&format!("/jobs/{}/cancel", text(&job["job_id"])), &json!({})).await);
        }
        let lines = admin.get("/activity").await;
        let told: Vec<_> = lines.items().iter().map(|line| (text(&line["event_type"]), text(&line["message"]))).collect();
        assert_eq!(told.len(), 2, "a soul that was not written is told of by its job alone: {told:?}");
        assert_eq!(told[0].0, "gateway.lead.ask_user.failed");
        assert!(told[0].1.starts_with("Lead user question failed for Ops: "), "{told:?}");
        assert_eq!(told[1].0, "agent.nudge.failed");
        assert!(told[1].1.starts_with("Nudge failed for Ada Lovelace: "), "{told:?}");
        let line = &lines.items()[0];
        assert_eq!(
            (&line["agent_id"], &line["board_id"], &line["job_id"], &line["trace_id"]),
            (&json!(world.lead.id), &json!(world.board), &asked["job_id"], &json!("c"))
        );
        let page = admin.get("/activity?limit=1").await;
        assert_eq!(page.items(), &lines.items()[..1]);
        let rest = admin.get(&format!("/activity?limit=1&cursor={}", text(&page.body["next_cursor"]))).await;
        assert_eq!((rest.items(), &rest.body["next_cursor"]), (&lines.items()[1..], &Value::Null));
        assert_eq!(world.lead.client.get("/activity").await.items().len(), 2, "an agent sees what it did");
        assert!(world.worker.client.get("/activity").await.items().is_empty(), "and nothing else");
        let curious = world.worker.client.get(&format!("/activity?agent_id={}", world.lead.id)).await;
        assert_eq!((curious.status, curious.pointers()), (422, vec!["query:agent_id"]));
        let elsewhere = World::board(admin, "Else", None).await;
        assert!(admin.get(&format!("/activity?board_id={elsewhere}")).await.items().is_empty());
        finish(errand).await;
    }

    async fn a_watcher_sees_each_line_once_and_goes_on_where_it_was(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let beat = async |agent: &Agent| assert_eq!(agent.client.post("/agent/heartbeat", &json!({})).await.status, 200);
        let mut all = Sse::open(admin, "/activity/stream", &[]).await;
        let mut own = Sse::open(&world.worker.client, "/activity/stream", &[]).await;
        for agent in [&world.lead, &world.worker, &world.main] {
            beat(agent).await;
        }
        let mut seen = Vec::new();
        for agent in [&world.lead, &world.worker, &world.main] {
            let line = all.next().await.expect("a line");
            assert_eq!(line.data["agent_id"], agent.id, "{line:?}");
            assert_eq!(line.id.as_deref(), line.data["id"].as_str());
            seen.push(line);
        }
        assert_eq!(own.next().await.expect("its own line").data["agent_id"], world.worker.id);
        drop(all);
        // Who comes again is shown what came since, and perhaps once more what came just before.
        let last = seen[0].id.clone().expect("an id");
        let mut again = Sse::open(admin, "/activity/stream", &[("last-event-id", &last)]).await;
        let mut told = Vec::new();
        while !told.contains(&seen[2].data["id"]) {
            let line = again.next().await.expect("a line");
            assert!(!told.contains(&line.data["id"]), "twice: {line:?}");
            told.push(line.data["id"].clone());
        }
        assert!(told.contains(&seen[1].data["id"]));
        assert!(!told.contains(&seen[0].data["id"]), "the one it had seen is not shown again");
        drop((own, again));
        finish(errand).await;
    }
}
