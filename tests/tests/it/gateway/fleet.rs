//! Several gateways and many requests at once, on one fleet.

use std::time::{Duration, Instant};

use errand_tests::{
    Client, both_modes, cluster_only,
    fake_gateway::{FakeGateway, Fault, Options},
};
use futures::{StreamExt, future::join_all, stream};
use reqwest::Method;
use serde_json::{Value, json};

use super::rest::{World, ok, send, text};

/// Boards of the gateway that is well.
const BOARDS: usize = 98;
/// More than messages take side by side, and less than a gateway may hang.
const NORMAL: Duration = Duration::from_secs(30);

const BROADCAST: &str = "/agent/gateway/leads/broadcast";

/// A board with a lead whose session is there already.
async fn board(client: &Client, gateway: &str, name: &str) -> (String, String) {
    let board = text(&ok(client.post("/boards", &json!({"name": name, "gateway_id": gateway})).await)["id"]);
    let session = format!("agent:main:{board}");
    let lead = json!({
        "name": name, "gateway_id": gateway, "board_id": board, "is_board_lead": true, "openclaw_session_id": session,
    });
    ok(client.post("/agents", &lead).await);
    (board, session)
}

/// A broadcast that is waited for, and how long it took.
async fn broadcast(main: &Client, boards: &[String]) -> (Value, Duration) {
    let began = Instant::now();
    let answer = send(main, Method::POST, BROADCAST, &json!({"content": "how far?", "board_ids": boards})).await;
    (ok(answer), began.elapsed())
}

cluster_only! {
    async fn a_gateway_that_hangs_and_one_that_refuses_hold_up_no_other(setup: Setup) {
        let world = World::start(setup.workers(2)).await;
        let client = world.errand.client();
        let made = stream::iter(0..BOARDS).map(async |number| board(client, &world.gateway, &format!("Board {number}")).await);
        let boards: Vec<_> = made.buffer_unordered(8).collect().await;
        let mut others = Vec::new();
        for fault in [Fault::Hang, Fault::Refuse(json!({"code": "INVALID_REQUEST", "message": "not today"}))] {
            let fake = FakeGateway::start().await;
            let gateway = json!({"name": format!("{fault:?}"), "url": fake.url(), "token": Options::default().token});
            let gateway = ok(client.post("/gateways", &gateway).await);
            let (board, session) = board(client, &text(&gateway["id"]), "Elsewhere").await;
            fake.fail_session(&session, Some(fault));
            others.push((fake, client.with_key(&text(&gateway["main_agent_token"])), [board], session));
        }
        let ids: Vec<_> = boards.iter().map(|(board, _)| board.clone()).collect();
        let [(hanging, hanging_main, hangs, _), (refusing, refusing_main, refuses, _)] = &others[..] else { unreachable!() };
        let (many, hung, refused) = tokio::join!(
            broadcast(&world.main.client, &ids), broadcast(hanging_main, hangs), broadcast(refusing_main, refuses),
        );
        println!("{BOARDS} boards in {:?}; refused in {:?}; hung for {:?}", many.1, refused.1, hung.1);
        assert_eq!((&many.0["ok"], &many.0["sent"], &many.0["failed"]), (&json!(true), &json!(BOARDS), &json!(0)));
        assert!(many.1 < NORMAL && refused.1 < NORMAL && hung.1 > NORMAL, "{:?} {:?} {:?}", many.1, refused.1, hung.1);
        for (body, board) in [(&hung.0, &hangs[0]), (&refused.0, &refuses[0])] {
            assert_eq!((&body["ok"], &body["sent"], &body["failed"]), (&json!(false), &json!(0), &json!(1)));
            assert_eq!(body["results"][0]["board_id"], json!(board), "it says which");
        }
        assert_eq!(refused.0["results"][0]["error"], "Gateway lead broadcast dispatch failed: not today");
        let why = text(&hung.0["results"][0]["error"]);
        assert!(why.starts_with("Gateway lead broadcast dispatch failed: ") && why.contains("timed out"), "{why}");
        for (_, session) in &boards {
            assert_eq!(world.fake.said(session).len(), 1);
        }

        // Repeated, the two are told, and nobody else.
        let said = || world.fake.said_in_all() + hanging.said_in_all() + refusing.said_in_all();
        for (fake, _, _, session) in &others {
            fake.fail_session(session, None);
        }
        let before = said();
        let broadcasts = client.get("/jobs?kind=broadcast").await;
        for job in broadcasts.items().iter().filter(|job| job["state"] == "failed") {
            let again = client.post(&format!("/jobs/{}/retry", text(&job["id"])), &json!({})).await;
            assert_eq!(again.status, 202, "{again:?}");
            client.wait_for_completion(&text(&again.body["job_id"])).await;
        }
        assert_eq!(said(), before + 2);
        for (fake, _, _, session) in &others {
            assert_eq!(fake.said(session).len(), 1);
        }
        world.errand.finish().await;
    }
}

both_modes! {
    async fn three_messages_at_once_to_a_board_without_a_lead_make_one_lead(setup: Setup) {
        let world = World::start(setup).await;
        let client = world.errand.client();
        let board = text(&ok(client.post("/boards", &json!({"name": "Fresh", "gateway_id": world.gateway})).await)["id"]);
        let path = format!("/agent/gateway/boards/{board}/lead/message");
        let contents: Vec<_> = ["one", "two", "three"].iter().map(|content| json!({"content": content})).collect();
        let answers = join_all(contents.iter().map(|body| send(&world.main.client, Method::POST, &path, body))).await;
        let answers: Vec<_> = answers.into_iter().map(ok).collect();
        let leads = client.get(&format!("/agents?board_id={board}")).await;
        assert_eq!(leads.items().len(), 1, "{leads:?}");
        for answer in &answers {
            assert_eq!((&answer["lead_agent_id"], &answer["lead_agent_name"]), (&leads.items()[0]["id"], &json!("Lead Agent")));
        }
        assert_eq!(answers.iter().filter(|answer| answer["lead_created"] == json!(true)).count(), 1);
        let created = world.fake.requests("agents.create");
        assert_eq!(created.iter().filter(|request| request["name"] == json!(format!("lead-{board}"))).count(), 1, "provisioned once");
        let said = world.fake.said(&format!("agent:lead-{board}:main"));
        assert_eq!(said.len(), 4, "woken, and told three things: {said:?}");
        world.errand.finish().await;
    }
}
