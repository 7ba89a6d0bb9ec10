//! Images and documents: what is taken, what is kept, who gets it back.

use base64::{Engine, engine::general_purpose::STANDARD};
use errand_tests::{Client, all_modes, both_modes, fake_openai::FakeOpenAi};
use serde_json::{Value, json};

const BOOTSTRAP: &str = "errand_the-key-of-another-tenant-0123456789";
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n not really";

fn attachment(content: &[u8], media_type: &str, name: &str) -> Value {
    json!({"base64Data": STANDARD.encode(content), "mediaType": media_type, "fileName": name})
}

async fn refused(client: &Client, attachment: Value) -> (u16, Vec<String>) {
    let answer = client.post("/agent/tasks", &json!({"prompt": "x", "attachments": [attachment]})).await;
    (answer.status, answer.pointers().into_iter().map(str::to_owned).collect())
}

all_modes! {
    async fn an_attachment_is_kept_once_named_in_the_history_and_given_back_as_it_came(setup: Setup) {
        let model = FakeOpenAi::start([]).await;
        let setup = setup.section("auth", &format!("bootstrap_key = {BOOTSTRAP:?}"));
        let errand = setup.engine("model", &model.engine()).default_engine("model").start().await;
        let client = errand.client();
        let attachments = json!([
            attachment(PNG, "image/png", "a \"b\".png"),
            attachment("grüße".as_bytes(), "Text/Plain; charset=utf-8", "note.txt"),
            attachment(PNG, "image/png", "the same.png"),
        ]);
        let task = client.submit_task(&json!({"prompt": "look", "attachments": attachments})).await;
        let job = client.wait_for_completion(&task.id).await;
        assert!(!job["payload"].to_string().contains("base64"), "the payload names contents only: {job:#}");
        let messages = client.messages(&task.session_id).await;
        let named = &messages[0]["attachments"];
        assert_eq!(named[0]["hash"], named[2]["hash"]);
        assert_eq!((&named[1]["mediaType"], &named[1]["size"]), (&json!("text/plain"), &json!(7)));
        assert_eq!(messages[1]["attachments"], json!([]));

        let path = |hash: &str| format!("/agent/sessions/{}/attachments/{hash}", task.session_id);
        let hash = named[0]["hash"].as_str().expect("a hash");
        let raw = client.request(reqwest::Method::GET, &path(hash)).send().await.expect("an answer");
        let header = |name: &str| raw.headers()[name].to_str().expect("text").to_owned();
        assert_eq!((raw.status().as_u16(), header("content-type").as_str()), (200, "image/png"));
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert!(header("content-disposition").starts_with("attachment; filename*=UTF-8''the%20same.png"));
        let tag = header("etag");
        assert_eq!(raw.bytes().await.expect("a body"), PNG);
        let known = client.request(reqwest::Method::GET, &path(hash)).header("if-none-match", tag);
        assert_eq!(client.send(known).await.status, 304);

        assert_eq!(client.get(&path(&"0".repeat(64))).await.status, 404);
        assert_eq!(client.get(&path("no-hash")).await.status, 400);
        assert_eq!(client.with_key(BOOTSTRAP).get(&path(hash)).await.status, 404, "another tenant's");
        let other = client.submit_task(&json!({"prompt": "else"})).await;
        client.wait_for_completion(&other.id).await;
        let elsewhere = format!("/agent/sessions/{}/attachments/{hash}", other.session_id);
        assert_eq!(client.get(&elsewhere).await.status, 404, "another conversation's");
        errand.finish().await;
    }
}

both_modes! {
    async fn what_is_no_attachment_is_refused_by_its_field(setup: Setup) {
        let model = FakeOpenAi::start([]).await;
        let setup = setup.section("server", "attachment_limit_mib = 1\nattachment_types = [\"image/png\", \"text/plain\"]");
        let errand = setup.engine("model", &model.engine()).default_engine("model").start().await;
        let client = errand.client();
        let base64 = |text: &str| json!({"base64Data": text, "mediaType": "image/png"});
        for text in ["", "QQ", "QR==", "Q Q=", "QQ==\n", "_-8="] {
            assert_eq!(refused(client, base64(text)).await, (400, vec!["/attachments/0/base64Data".into()]), "{text:?}");
        }
        let of = |content: &[u8], media_type: &str, name: &str| refused(client, attachment(content, media_type, name));
        assert_eq!(of(PNG, "image/gif", "a").await, (400, vec!["/attachments/0/mediaType".into()]));
        assert_eq!(of(b"\xff\xfe", "text/plain", "a").await, (400, vec!["/attachments/0/base64Data".into()]));
        assert_eq!(of(PNG, "image/png", "a\nb").await, (400, vec!["/attachments/0/fileName".into()]));
        let many = json!({"prompt": "x", "attachments": vec![attachment(PNG, "image/png", "a"); 21]});
        assert_eq!(client.post("/agent/tasks", &many).await.pointers(), ["/attachments"]);

        let limit = 1 << 20;
        let exactly = client.submit_task(&json!({"prompt": "x", "attachments": [attachment(&vec![1; limit], "image/png", "a")]})).await;
        client.wait_for_completion(&exactly.id).await;
        let halves = json!([attachment(&vec![1; limit / 2], "image/png", "a"), attachment(&vec![2; limit / 2 + 1], "image/png", "b")]);
        let more = client.post("/agent/tasks", &json!({"prompt": "x", "attachments": halves})).await;
        assert_eq!((more.status, &more.body["code"]), (413, &json!("attachments_too_large")), "{more:?}");
        let echo = json!({"prompt": "x", "engineType": "echo", "attachments": [attachment(PNG, "image/png", "a")]});
        let echo = client.post("/agent/tasks", &echo).await;
        assert_eq!((echo.status, echo.pointers()), (400, vec!["/attachments"]), "{echo:?}");
        errand.finish().await;
    }

    async fn jobs_batches_and_groups_bring_attachments_too(setup: Setup) {
        let model = FakeOpenAi::start([]).await;
        let errand = setup.engine("model", &model.engine()).default_engine("model").start().await;
        let client = errand.client();
        let task = |content: &[u8]| {
            json!({"kind": "task", "payload": {"prompt": "x", "attachments": [attachment(content, "image/png", "a")]}})
        };
        let alone = client.post("/jobs", &task(b"1")).await;
        let batch = client.post("/jobs/batch", &json!({"jobs": [task(b"2")]})).await;
        let group = client.post("/jobs", &json!({"kind": "group", "payload": {"jobs": [task(b"3")]}})).await;
        client.wait_for_completion(group.body["job_id"].as_str().expect("an id")).await;
        for id in [&alone.body["job_id"], &batch.body["items"][0]["id"]] {
            client.wait_for_completion(id.as_str().expect("an id")).await;
        }
        let sessions = client.get("/agent/sessions").await;
        assert_eq!(sessions.items().len(), 3);
        for session in sessions.items() {
            let id = session["id"].as_str().expect("an id");
            let hash = client.messages(id).await[0]["attachments"][0]["hash"].as_str().expect("a hash").to_owned();
            assert_eq!(client.get(&format!("/agent/sessions/{id}/attachments/{hash}")).await.status, 200);
        }
        errand.finish().await;
    }
}
