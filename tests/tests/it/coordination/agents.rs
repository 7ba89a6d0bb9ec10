//! Agents: who they are, their tokens, their presence, their provisioning.

use std::time::Duration;

use errand_tests::both_modes;
use reqwest::Method;
use serde_json::{Value, json};

use super::{World, accepted, finish, ok, patch, post_and_wait, post_once, start, text};

both_modes! {
    async fn an_agent_has_a_session_by_its_role_or_the_one_it_is_bound_to(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let lead = ok(admin.get(&format!("/agents/{}", world.lead.id)).await);
        assert_eq!((&lead["role"], &lead["is_board_lead"], &lead["provisioning"]), (&json!("lead"), &json!(true), &json!("new")));
        assert_eq!(lead["openclaw_session_id"], format!("agent:lead-{}:main", world.board));
        let worker = ok(admin.get(&format!("/agents/{}", world.worker.id)).await);
        assert_eq!(worker["openclaw_session_id"], format!("agent:mc-{}:main", world.worker.id));
        let body = |extra: Value| {
            let mut body = json!({"name": "X", "gateway_id": world.gateway, "board_id": world.board});
            body.as_object_mut().expect("fields").extend(extra.as_object().expect("fields").clone());
            body
        };
        let bound = ok(admin.post("/agents", &body(json!({"openclaw_session_id": " agent:mine:main "}))).await);
        assert_eq!((&bound["is_bound"], &bound["openclaw_session_id"], &bound["provisioning"]), (&json!(true), &json!("agent:mine:main"), &json!("online")));
        for (extra, status, code) in [
            (json!({"is_board_lead": true}), 409, "role_taken"),
            (json!({"openclaw_session_id": "agent:mine:main"}), 409, "session_taken"),
            (json!({"board_id": null, "is_board_lead": true}), 422, "invalid_request"),
            (json!({"gateway_id": "01890a5d-ac96-774b-bcce-b302099a8057"}), 422, "invalid_request"),
            (json!({"board_id": "01890a5d-ac96-774b-bcce-b302099a8057"}), 422, "invalid_request"),
            (json!({"name": " "}), 422, "invalid_request"),
            (json!({"colour": 1}), 422, "invalid_request"),
        ] {
            let answer = admin.post("/agents", &body(extra.clone())).await;
            assert_eq!((answer.status, &answer.body["code"]), (status, &json!(code)), "{extra}: {answer:?}");
        }
        assert_eq!(admin.get(&format!("/agents?board_id={}", world.board)).await.items().len(), 3);
        let renamed = ok(patch(admin, &format!("/agents/{}", world.lead.id), &json!({"name": "Boss"})).await);
        assert_eq!((&renamed["name"], &renamed["openclaw_session_id"]), (&json!("Boss"), &lead["openclaw_session_id"]));
        finish(errand).await;
    }

    async fn a_token_is_shown_once_and_ends_when_another_takes_its_place(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let body = json!({"name": "X", "gateway_id": world.gateway});
        let made = post_once(admin, "/agents", "k", &body).await;
        let again = post_once(admin, "/agents", "k", &body).await;
        assert!(text(&made.body["token"]).starts_with("errand_agent_"), "{made:?}");
        assert_eq!((&again.body["id"], again.body.get("token")), (&made.body["id"], None));
        let path = format!("/agents/{}/token", world.lead.id);
        let replaced = post_once(admin, &path, "t", &json!({})).await;
        let repeated = post_once(admin, &path, "t", &json!({})).await;
        assert_eq!((repeated.status, repeated.body.get("token")), (200, None), "{repeated:?}");
        assert_eq!(world.lead.client.get(&world.memory()).await.status, 401, "the former is invalid at once");
        let lead = admin.with_key(text(&ok(replaced)["token"]));
        assert_eq!(lead.get(&world.memory()).await.status, 200);
        assert!(!errand.log().contains("errand_agent_"), "tokens are not logged");
        finish(errand).await;
    }

    async fn who_calls_is_there_and_a_heartbeat_is_told(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let shown = async |id: &str| ok(admin.get(&format!("/agents/{id}")).await);
        assert_eq!(shown(&world.worker.id).await["status"], "provisioning", "never seen");
        assert_eq!(world.worker.client.get(&world.memory()).await.status, 200);
        let seen = shown(&world.worker.id).await;
        assert_eq!(seen["status"], "online", "{seen}");
        // Whatever body an agent sends along.
        let beat = world.lead.client.request(Method::POST, "/agent/heartbeat").body("not even json");
        let beat = ok(admin.send(beat).await);
        assert_eq!((&beat["id"], &beat["status"]), (&json!(world.lead.id), &json!("online")));
        let told = admin.get("/activity").await;
        assert_eq!((&told.items()[0]["event_type"], &told.items()[0]["agent_id"]), (&json!("agent.heartbeat"), &json!(world.lead.id)));
        assert_eq!(told.items().len(), 1, "other calls are not told of");
        finish(errand).await;
    }

    async fn provisioning_is_one_job_however_often_it_is_asked_for(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let path = format!("/agents/{}/provision", world.lead.id);
        let first = accepted(admin.post(&path, &json!({})).await);
        let second = accepted(post_and_wait(admin, &path, 1, &json!({"overwrite": true})).await);
        assert_eq!(first["job_id"], second["job_id"]);
        let job = admin.job(text(&first["job_id"])).await;
        assert_eq!((&job["kind"], &job["payload"]["agent_id"]), (&json!("provision"), &json!(world.lead.id)));
        let body = json!({});
        let waiting = post_and_wait(admin, &path, 60, &body);
        let cancelling = async {
            // The request is under way by then, and falls to the job that goes on.
            tokio::time::sleep(Duration::from_secs(1)).await;
            ok(admin.post(&format!("/jobs/{}/cancel", text(&first["job_id"])), &json!({})).await);
        };
        let (failed, ()) = tokio::join!(waiting, cancelling);
        assert_eq!(failed.status, 502, "{failed:?}");
        assert!(text(&failed.body["detail"]).starts_with("Gateway provision failed: "), "{failed:?}");
        let bound = json!({"name": "X", "gateway_id": world.gateway, "openclaw_session_id": "agent:mine:main"});
        let bound = ok(admin.post("/agents", &bound).await);
        let refused = admin.post(&format!("/agents/{}/provision", text(&bound["id"])), &json!({})).await;
        assert_eq!((refused.status, &refused.body["code"]), (409, &json!("bound_agent")));
        finish(errand).await;
    }
}
