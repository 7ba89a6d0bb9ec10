//! What agents know of the coordination service that Errand replaces, operation by operation: requests at the gateway, sentences,
//! and the audit.

use std::time::Duration;

use errand_tests::{Client, both_modes, embedded_only, fake_gateway::Fault, wait};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::rest::{Agent, World, ok, send, text};

/// The gateway says no.
fn refusal() -> Fault {
    Fault::Refuse(json!({"code": "INVALID_REQUEST", "message": "not today"}))
}

/// The audit, newest first: type, message, who, where.
async fn audit(client: &Client) -> Vec<Value> {
    let lines = client.get("/activity?limit=200").await;
    lines
        .items()
        .iter()
        .map(|line| json!([line["event_type"], line["message"], line["agent_id"], line["board_id"]]))
        .collect()
}

/// One operation as an agent asks for it.
struct Operation<'a> {
    name: &'a str,
    by: &'a Agent,
    method: Method,
    path: String,
    body: Value,
}

/// All six: nudge, soul GET, soul PUT, ask user, lead message, broadcast.
fn operations(world: &World) -> [Operation<'_>; 6] {
    let World { board, lead, main, ada, .. } = world;
    let soul = format!("/agent/boards/{board}/agents/{}/soul", ada.id);
    let written = json!({"content": " be kind ", "reason": " because ", "source_url": " https://souls.example/ada "});
    let content = json!({"content": "how far?"});
    let on_board = |name, method, rest: &str, body| Operation {
        name,
        by: lead,
        method,
        path: format!("/agent/boards/{board}{rest}"),
        body,
    };
    let by_main = |name, path, body| Operation { name, by: main, method: Method::POST, path, body };
    [
        on_board("nudge", Method::POST, &format!("/agents/{}/nudge", ada.id), json!({"message": "look here"})),
        Operation { name: "soul_read", by: lead, method: Method::GET, path: soul.clone(), body: json!({}) },
        Operation { name: "soul_write", by: lead, method: Method::PUT, path: soul, body: written },
        on_board("ask_user", Method::POST, "/gateway/main/ask-user", content.clone()),
        by_main("lead_message", format!("/agent/gateway/boards/{board}/lead/message"), content.clone()),
        by_main("lead_broadcast", "/agent/gateway/leads/broadcast".to_owned(), content),
    ]
}

async fn ask(operation: &Operation<'_>) -> errand_tests::Answer {
    send(&operation.by.client, operation.method.clone(), &operation.path, &operation.body).await
}

impl World {
    /// All three agents are in the gateway.
    async fn provisioned(&self) {
        for agent in [&self.main, &self.lead, &self.ada] {
            let path = format!("/agents/{}/provision", agent.id);
            ok(send(self.errand.client(), Method::POST, &path, &json!({})).await);
        }
        self.fake.fail("agents.files.get", [Fault::Answer(json!({"file": {"content": "be brave"}}))]);
    }

    /// Questions that wait are withdrawn, so that nothing is left.
    async fn withdraw_questions(&self) {
        let client = self.errand.client();
        for question in client.get("/questions?state=open").await.items() {
            ok(client.post(&format!("/jobs/{}/cancel", text(&question["job_id"])), &json!({})).await);
        }
    }
}

both_modes! {
    async fn each_operation_makes_its_requests_and_leaves_its_line(setup: Setup) {
        let world = World::start(setup).await;
        world.provisioned().await;
        let World { fake, board, lead, main, ada, .. } = &world;
        let (by_lead, by_main) = (json!(lead.id), json!(main.id));
        let sent = ["sessions.patch", "chat.send"];
        let question = json!(["gateway.main.lead_message.sent", "Sent question to lead for board: Ops.", by_main, board]);
        // Requests, the session and its label, whether it may go on to a channel, and what is told, newest first.
        type Expected<'a> = (&'a [&'a str], Option<(&'a Agent, &'a str, bool)>, Vec<Value>);
        let expected: [Expected<'_>; 6] = [
            (&sent, Some((ada, "Ada", true)), vec![json!(["agent.nudge.sent", "Nudge sent to Ada.", by_lead, board])]),
            (&["agents.files.get"], None, vec![]),
            (&["agents.files.set"], None, vec![json!([
                "agent.soul.updated", "SOUL.md updated for Ada. Reason: because Source: https://souls.example/ada", by_lead, board,
            ])]),
            (&sent, Some((main, "Gateway Agent", true)), vec![json!([
                "gateway.lead.ask_user.sent", "Lead requested user info via gateway agent for board: Ops.", by_lead, board,
            ])]),
            (&sent, Some((lead, "Grace", false)), vec![question.clone()]),
            (&sent, Some((lead, "Grace", false)), vec![
                json!(["gateway.main.lead_broadcast.sent", "Broadcast question to 1 board leads (failed: 0).", by_main, null]),
                question,
            ]),
        ];
        for (operation, (calls, message, told)) in operations(&world).iter().zip(expected) {
            let name = operation.name;
            let (before, lines) = (fake.calls().len(), audit(world.errand.client()).await.len());
            ok(ask(operation).await);
            assert_eq!(fake.calls()[before..], *calls, "{name}");
            if let Some((to, label, deliver)) = message {
                let (patch, send) = (fake.requests("sessions.patch").pop(), fake.requests("chat.send").pop());
                assert_eq!(patch, Some(json!({"key": to.session, "label": label})), "{name}");
                let send = send.expect("sent");
                assert_eq!((&send["sessionKey"], &send["deliver"]), (&json!(to.session), &json!(deliver)), "{name}");
            }
            let audit = audit(world.errand.client()).await;
            assert_eq!(audit[..audit.len() - lines], told, "{name}");
            let log = world.errand.log();
            assert!(log.contains(&format!("gateway.coordination.{name}.success")), "{name} is not in the log");
        }
        let file = json!({"agentId": format!("mc-{}", ada.id), "name": "SOUL.md"});
        assert_eq!(fake.requests("agents.files.get").pop(), Some(file));
        let written = fake.requests("agents.files.set").pop().expect("written");
        assert_eq!((&written["name"], &written["content"]), (&json!("SOUL.md"), &json!("be kind")), "{written}");
        world.withdraw_questions().await;
        world.errand.finish().await;
    }

    async fn each_failure_has_its_sentence_and_its_line(setup: Setup) {
        let world = World::start(setup).await;
        world.provisioned().await;
        let World { fake, board, lead, main, ada, .. } = &world;
        for agent in [lead, main, ada] {
            fake.fail_session(&agent.session, Some(refusal()));
        }
        let (by_lead, by_main) = (json!(lead.id), json!(main.id));
        let unheard = json!(["gateway.main.lead_message.failed", "Lead message failed for Ops: not today", by_main, board]);
        let expected = [
            ("Gateway nudge failed: not today", vec![json!(["agent.nudge.failed", "Nudge failed for Ada: not today", by_lead, board])]),
            ("Gateway SOUL read failed", vec![]),
            ("Gateway SOUL update failed: not today", vec![]),
            ("Gateway ask-user dispatch failed: not today", vec![json!([
                "gateway.lead.ask_user.failed", "Lead user question failed for Ops: not today", by_lead, board,
            ])]),
            ("Gateway lead message dispatch failed: not today", vec![unheard.clone()]),
            ("Gateway lead broadcast dispatch failed: not today", vec![
                json!(["gateway.main.lead_broadcast.sent", "Broadcast question to 0 board leads (failed: 1).", by_main, null]),
                unheard,
            ]),
        ];
        // The soul that can be read is left over.
        ok(ask(&operations(&world)[1]).await);
        fake.fail("agents.files.get", [refusal()]);
        fake.fail("agents.files.set", [refusal()]);
        for (operation, (sentence, told)) in operations(&world).iter().zip(expected) {
            let name = operation.name;
            let lines = audit(world.errand.client()).await.len();
            let answer = ask(operation).await;
            if name == "lead_broadcast" {
                let result = json!({
                    "board_id": board, "lead_agent_id": null, "lead_agent_name": null, "ok": false, "error": sentence,
                });
                let expected = json!({"ok": false, "sent": 0, "failed": 1, "results": [result]});
                assert_eq!(ok(answer), expected, "one board alone has failed, not the broadcast");
            } else {
                assert_eq!((answer.status, &answer.body["detail"]), (502, &json!(sentence)), "{name}: {answer:?}");
                assert_eq!((&answer.body["code"], &answer.body["retryable"]), (&json!("gateway_failed"), &json!(false)), "{name}");
            }
            let audit = audit(world.errand.client()).await;
            assert_eq!(audit[..audit.len() - lines], told, "{name}");
        }
        world.errand.finish().await;
    }

    async fn a_lead_that_can_not_be_provisioned_is_told_in_that_operations_words(setup: Setup) {
        let world = World::start(setup).await;
        let World { fake, main, board, .. } = &world;
        let path = format!("/agent/gateway/boards/{board}/lead/message");
        let no_room = Fault::Refuse(json!({"code": "INVALID_REQUEST", "message": "no room"}));
        fake.fail("agents.create", vec![no_room; 20]);
        for (path, is_broadcast) in [(path.as_str(), false), ("/agent/gateway/leads/broadcast", true)] {
            let answer = send(&main.client, Method::POST, path, &json!({"content": "how far?"})).await;
            let said = if is_broadcast { &answer.body["results"][0]["error"] } else { &answer.body["detail"] };
            assert_eq!(said, "Gateway provision failed: no room", "{answer:?}");
            assert_eq!(answer.status, if is_broadcast { 200 } else { 502 });
        }
        let client = world.errand.client();
        wait::until("no provisioning is left", || async {
            client.get("/jobs?state=live").await.items().is_empty().then_some(())
        })
        .await;
        world.errand.finish().await;
    }

    async fn whatever_form_a_soul_comes_in_it_is_read_and_what_is_none_is_a_502(setup: Setup) {
        let world = World::start(setup).await;
        world.provisioned().await;
        let [_, read, write, ..] = operations(&world);
        assert_eq!(ok(ask(&read).await), json!("be brave"));
        for (payload, soul) in [
            (json!("as a text"), Some("as a text")),
            (json!({"content": "as a field"}), Some("as a field")),
            (json!({"file": {"content": "in a file"}}), Some("in a file")),
            (json!({"file": {"content": ""}}), Some("")),
            (json!({"file": {"name": "SOUL.md", "missing": true}}), None),
            (json!({"content": 7}), None),
            (json!(null), None),
        ] {
            world.fake.fail("agents.files.get", [Fault::Answer(payload.clone())]);
            let answer = ask(&read).await;
            match soul {
                Some(soul) => assert_eq!(ok(answer), json!(soul), "{payload}"),
                None => assert_eq!((answer.status, &answer.body["detail"]), (502, &json!("Gateway SOUL read failed")), "{payload}"),
            }
        }
        // What was written is written, whatever is said of it.
        world.fake.fail("agents.files.set", [Fault::Answer(json!(null))]);
        assert_eq!(ok(ask(&write).await), json!({"ok": true}));
        assert_eq!(ok(ask(&read).await), json!("be kind"));
        world.errand.finish().await;
    }

    async fn who_may_have_been_told_is_not_told_again_and_the_answer_says_so(setup: Setup) {
        let world = World::with(setup, "resend = \"never\"").await;
        world.provisioned().await;
        world.fake.fail_session(&world.ada.session, Some(Fault::Hang));
        let answer = ask(&operations(&world)[0]).await;
        assert_eq!((answer.status, &answer.body["code"]), (502, &json!("outcome_unknown")), "{answer:?}");
        assert_eq!(answer.body["retryable"], false);
        assert!(text(&answer.body["detail"]).starts_with("Gateway nudge failed: "), "{answer:?}");
        let sends = world.fake.requests("chat.send");
        assert_eq!(sends.iter().filter(|send| send["sessionKey"] == json!(world.ada.session) && send["message"] == "look here").count(), 1);
        world.errand.finish().await;
    }
}

embedded_only! {
    async fn who_waits_is_told_after_45_seconds_and_who_does_not_has_more_time(setup: Setup) {
        // No pause of the gateway's gate, which would not count, and no long last look at who is not there.
        let setup = setup.section("gates", "min_calls = 10000");
        let world = World::with(setup, "connect_timeout_seconds = 2\nhandshake_timeout_seconds = 2").await;
        world.provisioned().await;
        world.fake.set_away(true);
        world.fake.cut();
        let path = format!("/agent/boards/{}/agents/{}/nudge", world.board, world.ada.id);
        let patient = world.lead.client.post(&path, &json!({"message": "whenever you can"})).await;
        assert_eq!(patient.status, 202, "{patient:?}");
        let operations = operations(&world);
        let began = tokio::time::Instant::now();
        let answers = join_all(operations.iter().map(async |operation| {
            let answer = ask(operation).await;
            (answer, began.elapsed())
        })).await;
        let told = |name: &str| format!("Gateway {name} failed: Gateway unreachable after 45 seconds (gateway coordination timeout). Last error: ");
        let sentences = [
            told("nudge"), "Gateway SOUL read failed".to_owned(), told("SOUL update"), told("ask-user dispatch"),
            told("lead message dispatch"), told("lead broadcast dispatch"),
        ];
        for ((operation, (answer, took)), sentence) in operations.iter().zip(answers).zip(sentences) {
            let of_board = &answer.body["results"][0]["error"];
            let error = if operation.name == "lead_broadcast" { of_board } else { &answer.body["detail"] };
            assert!(text(error).starts_with(&sentence), "{}: {error}", operation.name);
            let whole = Duration::from_secs(45)..Duration::from_secs(56);
            assert!(whole.contains(&took), "{} took {took:?}", operation.name);
        }
        let id = text(&patient.body["job_id"]);
        let client = world.errand.client();
        assert_eq!(client.job(&id).await["finished_at"], Value::Null, "ten minutes for who does not wait");
        world.fake.set_away(false);
        client.wait_for_completion(&id).await;
        assert_eq!(world.heard(&world.ada), "whenever you can");
        world.errand.finish().await;
    }
}
