//! Gateways and boards: made, shown without secrets, changed, removed.

use errand_tests::both_modes;
use serde_json::{Value, json};

use super::{World, accepted, finish, ok, patch, post_once, start, text};

both_modes! {
    async fn a_gateways_token_is_never_shown_again(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let body = json!({"name": " Home ", "url": "wss://gateway.example.com:18789", "token": "hush-hush", "allow_insecure_tls": true});
        let made = post_once(admin, "/gateways", "k", &body).await;
        let again = post_once(admin, "/gateways", "k", &body).await;
        assert!(!made.text.contains("hush-hush") && !again.text.contains("hush-hush"), "{made:?}");
        let made = ok(made);
        assert_eq!((&made["name"], &made["has_token"], &made["workspace_root"]), (&json!("Home"), &json!(true), &json!("~/.openclaw")));
        assert_eq!((&again.body["id"], again.header("idempotency-replayed")), (&made["id"], "true"));
        assert_eq!(again.body.get("main_agent_token"), None, "a repeated answer has no secret");
        let path = format!("/gateways/{}", text(&made["id"]));
        let shown = admin.get(&path).await;
        assert!(!shown.text.contains("hush") && !shown.text.contains("errand_agent_"), "{shown:?}");
        assert_eq!(ok(admin.get("/gateways").await)["items"], json!([shown.body]));
        let changed = ok(patch(admin, &path, &json!({"token": "", "name": "Away"})).await);
        assert_eq!((&changed["has_token"], &changed["name"], &changed["url"]), (&json!(false), &json!("Away"), &made["url"]));
        let mains = admin.get("/agents").await;
        assert_eq!((mains.items()[0]["role"].clone(), mains.items()[0]["name"].clone()), (json!("main"), json!("Home Gateway Agent")));
        assert_eq!(mains.items()[0]["openclaw_session_id"], format!("agent:mc-gateway-{}:main", text(&made["id"])));
        assert_eq!(admin.delete(&format!("/agents/{}", text(&made["main_agent_id"]))).await.status, 409);
        assert_eq!(ok(admin.delete(&path).await)["message"], "Gateway removed");
        assert_eq!(admin.get(&path).await.status, 404);
        assert!(admin.get("/agents").await.items().is_empty(), "its own agent is gone with it");
        finish(errand).await;
    }

    async fn a_gateway_is_where_it_may_be(setup: Setup) {
        let errand = start(setup.section("outbound", "allow = [\"10.1.0.0/16\"]")).await;
        let admin = errand.client();
        for (url, taken) in [
            ("wss://gateway.example.com", true),
            ("ws://10.1.2.3:18789", true),
            ("ws://8.8.8.8", false),
            ("wss://127.0.0.1:1", false),
            ("wss://169.254.169.254", false),
            ("https://gateway.example.com", false),
            ("wss://me:secret@gateway.example.com", false),
            ("", false),
        ] {
            let answer = admin.post("/gateways", &json!({"name": "x", "url": url})).await;
            assert_eq!(answer.status, if taken { 200 } else { 422 }, "{url}: {answer:?}");
            assert!(taken || answer.pointers() == ["/url"], "{answer:?}");
        }
        for body in [json!({"url": "wss://x.example"}), json!({"name": "", "url": "wss://x.example"}), json!({"name": "x", "url": "wss://x.example", "colour": 1})] {
            assert_eq!(admin.post("/gateways", &body).await.status, 422, "{body}");
        }
        finish(errand).await;
    }

    async fn a_board_has_a_name_of_its_own_and_goes_with_its_questions(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let board = format!("/boards/{}", world.board);
        assert_eq!(ok(admin.get(&board).await)["slug"], "ops");
        let second = ok(admin.post("/boards", &json!({"name": "Ops"})).await);
        assert!(text(&second["slug"]).starts_with("ops-") && second["gateway_id"].is_null(), "{second}");
        let taken = admin.post("/boards", &json!({"name": "Ops", "slug": "ops"})).await;
        assert_eq!((taken.status, taken.pointers()), (409, vec!["/slug"]));
        assert_eq!(patch(admin, &format!("/boards/{}", text(&second["id"])), &json!({"slug": "ops"})).await.status, 409);
        assert_eq!(admin.post("/boards", &json!({"name": "x", "slug": "No Slug"})).await.status, 422);
        let nowhere = admin.post("/boards", &json!({"name": "x", "gateway_id": "01890a5d-ac96-774b-bcce-b302099a8057"})).await;
        assert_eq!((nowhere.status, &nowhere.body["detail"]), (422, &json!("Board gateway_id is invalid")));
        let renamed = ok(patch(admin, &board, &json!({"name": "Operations"})).await);
        assert_eq!((&renamed["name"], &renamed["gateway_id"]), (&json!("Operations"), &json!(world.gateway)), "what is absent stays");
        let listed = admin.get(&format!("/boards?gateway_id={}", world.gateway)).await;
        assert_eq!(listed.items(), [renamed]);

        assert_eq!(admin.delete(&format!("/gateways/{}", world.gateway)).await.status, 409, "a board names it");
        assert_eq!(admin.delete(&board).await.status, 409, "it has agents");
        let asked = accepted(world.lead.client.post(&world.ask_user(), &json!({"content": "?"})).await);
        for agent in [&world.lead, &world.worker] {
            assert_eq!(admin.delete(&format!("/agents/{}", agent.id)).await.status, 200);
        }
        assert_eq!(world.lead.client.get(&world.memory()).await.status, 401, "its token is gone with it");
        assert_eq!(ok(admin.delete(&board).await)["message"], "Board removed");
        assert_eq!(admin.job(text(&asked["job_id"])).await["state"], "cancelled");
        assert_eq!(admin.get(&format!("/questions/{}", text(&asked["question_id"]))).await.status, 404);
        assert_eq!(admin.get(&board).await.status, 404);
        finish(errand).await;
    }

    async fn who_is_no_admin_sees_places_and_changes_none(setup: Setup) {
        let errand = start(setup).await;
        let admin = errand.client();
        let world = World::make(admin).await;
        let key = ok(admin.post("/keys", &json!({"name": "reader", "scopes": ["jobs:read"]})).await);
        let reader = admin.with_key(text(&key["key"]));
        for (family, id) in [("gateways", &world.gateway), ("boards", &world.board), ("agents", &world.lead.id)] {
            let path = format!("/{family}/{id}");
            assert_eq!(reader.get(&path).await.status, 200, "{path}");
            assert_eq!(reader.delete(&path).await.status, 403, "{path}");
            assert_eq!(patch(&reader, &path, &json!({"name": "x"})).await.status, 403, "{path}");
            assert_eq!(admin.get(&format!("/{family}/nonsense")).await.status, 422, "{path}");
        }
        assert_eq!(reader.post("/agents/x/token", &Value::Null).await.status, 403);
        assert_eq!(reader.post(&format!("/boards/{}/memory", world.board), &json!({"content": "x"})).await.status, 403);
        finish(errand).await;
    }
}
