//! The same operations as kinds of `POST /jobs`.

use errand_tests::both_modes;
use serde_json::{Value, json};

use super::{World, accepted, finish, ok, post_and_wait, start, text};

both_modes! {
    async fn every_operation_is_a_kind_too(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let on_agent = json!({"board_id": world.board, "agent_id": world.worker.id});
        let on_board = json!({"board_id": world.board});
        let with = |place: &Value, more: Value| {
            let mut payload = place.clone();
            payload.as_object_mut().expect("fields").extend(more.as_object().expect("fields").clone());
            payload
        };
        let submit = async |kind: &str, payload: Value| {
            let taken = accepted(admin.post("/jobs", &json!({"kind": kind, "payload": payload})).await);
            admin.job(text(&taken["job_id"])).await
        };
        let nudge = submit("nudge", with(&on_agent, json!({"message": " hi ", "correlation_id": "c"}))).await;
        assert_eq!((&nudge["payload"]["message"], &nudge["payload"]["trace_id"], nudge["payload"].get("actor_id")), (&json!("hi"), &json!("c"), None));
        let by_lead = submit("nudge", with(&on_agent, json!({"message": "hi", "actor_id": world.lead.id}))).await;
        assert_eq!(by_lead["payload"]["actor_id"], world.lead.id);
        let read = submit("soul_read", on_agent.clone()).await;
        assert!(text(&read["payload"]["trace_id"]).starts_with("coord.soul.read:"), "{read:#}");
        assert_eq!(submit("soul_write", with(&on_agent, json!({"content": "# Me"}))).await["payload"]["content"], "# Me");
        let asked = submit("ask_user", with(&on_board, json!({"content": "?", "actor_id": world.lead.id}))).await;
        assert!(text(&asked["payload"]["message"]).contains("\nFrom lead: Grace Hopper\n"), "{asked:#}");
        let question = ok(admin.get(&format!("/questions/{}", text(&asked["payload"]["question_id"]))).await);
        assert_eq!(question["agent_id"], world.lead.id);
        let message = submit("lead_message", with(&on_board, json!({"content": "x", "kind": "handoff"}))).await;
        assert!(text(&message["payload"]["message"]).contains("\nFrom agent: Operator\n"), "{message:#}");
        let broadcast = submit("broadcast", json!({"gateway_id": world.gateway, "content": "x"})).await;
        assert_eq!((&broadcast["state"], &broadcast["children"]["total"]), (&json!("awaiting_children"), &json!(1)));
        finish(errand).await;
    }

    async fn faults_of_a_payload_are_named_below_it(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
        for (kind, payload, status, pointer) in [
            ("nudge", json!({"board_id": world.board, "agent_id": world.worker.id, "message": " "}), 400, "/payload/message"),
            ("nudge", json!({"board_id": world.board, "agent_id": world.worker.id, "message": "x", "colour": 1}), 400, "/payload/colour"),
            ("nudge", json!({"board_id": world.board, "message": "x"}), 400, "/payload/agent_id"),
            ("nudge", json!({"board_id": unknown, "agent_id": world.worker.id, "message": "x"}), 404, "/payload/board_id"),
            ("nudge", json!({"board_id": world.board, "agent_id": world.main.id, "message": "x"}), 404, "/payload/agent_id"),
            ("ask_user", json!({"board_id": world.board, "content": "x", "actor_id": unknown}), 404, "/payload/actor_id"),
            ("broadcast", json!({"gateway_id": unknown, "content": "x"}), 404, "/payload/gateway_id"),
            ("lead_message", json!({"board_id": "x", "content": "x"}), 400, "/payload/board_id"),
        ] {
            let answer = admin.post("/jobs", &json!({"kind": kind, "payload": payload})).await;
            assert_eq!((answer.status, answer.pointers()), (status, vec![pointer]), "{kind} {payload}: {answer:?}");
        }
        let run = admin.post("/jobs", &json!({"kind": "broadcast", "timeout_seconds": 1, "payload": {}})).await;
        assert_eq!(run.pointers(), ["/timeout_seconds"], "{run:?}");
        for kind in ["provision", "notice"] {
            let own = admin.post("/jobs", &json!({"kind": kind, "payload": {}})).await;
            assert_eq!(own.body["code"], "unknown_kind", "made by Errand alone: {own:?}");
        }
        assert!(admin.get("/jobs").await.items().is_empty());
        finish(errand).await;
    }

    async fn a_batch_and_a_group_take_them_too(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let nudge = |message: &str| json!({"kind": "nudge", "payload": {"board_id": world.board, "agent_id": world.worker.id, "message": message}});
        let broadcast = json!({"kind": "broadcast", "payload": {"gateway_id": world.gateway, "content": "x"}});
        let batch = admin.post("/jobs/batch", &json!({"jobs": [nudge("1"), nudge(" "), broadcast]})).await;
        let items = &accepted(batch)["items"];
        assert!(items[0]["id"].is_string() && items[2]["id"].is_string(), "{items}");
        assert_eq!(items[1]["problem"]["errors"][0]["pointer"], "/payload/message");
        let group = admin.post("/jobs", &json!({"kind": "group", "payload": {"jobs": [nudge("2"), nudge("3")]}})).await;
        let group = accepted(group);
        assert_eq!(admin.get(&format!("/jobs?parent_id={}", text(&group["job_id"]))).await.items().len(), 2);
        let nested = admin.post("/jobs", &json!({"kind": "group", "payload": {"jobs": [broadcast]}})).await;
        assert_eq!((nested.status, nested.pointers()), (400, vec!["/payload/jobs/0/kind"]), "{nested:?}");
        finish(errand).await;
    }

    async fn a_repeated_question_is_another_question_and_a_repeated_broadcast_goes_to_those_that_failed(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        World::board(admin, "Second", Some(&world.gateway)).await;
        let asked = accepted(world.lead.client.post(&world.ask_user(), &json!({"content": "?"})).await);
        let cancel = async |id: &Value| ok(admin.post(&format!("/jobs/{}/cancel", text(id)), &json!({})).await);
        cancel(&asked["job_id"]).await;
        let again = accepted(admin.post(&format!("/jobs/{}/retry", text(&asked["job_id"])), &json!({})).await);
        let job = admin.job(text(&again["job_id"])).await;
        assert_ne!(job["payload"]["question_id"], asked["question_id"]);
        let question = ok(admin.get(&format!("/questions/{}", text(&job["payload"]["question_id"]))).await);
        assert_eq!((&question["state"], &question["agent_id"]), (&json!("open"), &json!(world.lead.id)));

        let sent = accepted(world.main.client.post("/agent/gateway/leads/broadcast", &json!({"content": "x"})).await);
        let children = admin.get(&format!("/jobs?parent_id={}", text(&sent["job_id"]))).await;
        for child in children.items() {
            cancel(&child["id"]).await;
        }
        let ended = admin.wait_for_end(text(&sent["job_id"])).await;
        assert_eq!((&ended["state"], &ended["result"]["failed"]), (&json!("failed"), &json!(2)), "{ended:#}");
        let again = accepted(admin.post(&format!("/jobs/{}/retry", text(&sent["job_id"])), &json!({})).await);
        let repeated = admin.job(text(&again["job_id"])).await;
        assert_eq!((&repeated["children"]["total"], &repeated["payload"]["boards"]), (&json!(2), &json!(2)), "{repeated:#}");
        finish(errand).await;
    }

    async fn who_waits_for_a_question_by_its_kind_is_answered_with_the_job(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let body = json!({"kind": "ask_user", "payload": {"board_id": world.board, "content": "?"}});
        assert_eq!(post_and_wait(admin, "/jobs", 1, &body).await.status, 202);
        let soul = json!({"kind": "soul_read", "payload": {"board_id": world.board, "agent_id": world.lead.id}});
        assert_eq!(post_and_wait(admin, "/jobs", 1, &soul).await.status, 202);
        finish(errand).await;
    }
}
