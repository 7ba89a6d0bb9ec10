//! The command line of conversations: sessions, engines, usage.

use std::process::Output;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use errand_tests::{both_modes, fake_openai::FakeOpenAi, wait};
use serde_json::{Value, json};

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What it printed, if it ended well.
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}\n{}{}", output.status, out(output), String::from_utf8_lossy(&output.stderr));
    out(output)
}

/// The words of a line, from 0.
fn words(text: &str, line: usize) -> Vec<&str> {
    text.lines().nth(line).unwrap_or_default().split_whitespace().collect()
}

both_modes! {
    async fn sessions_are_listed_shown_read_and_closed(setup: Setup) {
        let errand = setup.start().await;
        let client = errand.client();
        let first = client.submit_task(&json!({"prompt": "hello there", "systemPrompt": "Be brief."})).await;
        client.wait_for_completion(&first.id).await;
        let session = first.session_id.as_str();
        let arguments = ["submit", "task", "and again", "--session", session, "--on-busy", "enqueue", "--follow"];
        printed(&errand.run_cli(&arguments).await);

        let list = printed(&errand.run_cli(&["sessions", "list"]).await);
        assert_eq!(words(&list, 0), ["ID", "STATUS", "ENGINE", "AGE", "TITLE"]);
        let row = words(&list, 1);
        assert_eq!((&row[..3], &row[4..]), (&[session, "active", "echo"][..], &["hello", "there"][..]), "{list}");
        let shown = printed(&errand.run_cli(&["sessions", "show", session]).await);
        for part in ["hello there", "Be brief.", "and again", "completed"] {
            assert!(shown.contains(part), "{part:?} is not in\n{shown}");
        }
        let messages = printed(&errand.run_cli(&["sessions", "messages", session]).await);
        let said: Vec<_> = messages.lines().filter(|line| !line.is_empty() && !line.contains(" · ")).collect();
        assert_eq!(said, ["hello there", "hello there", "and again", "and again"], "{messages}");
        let json: Value = serde_json::from_str(&printed(&errand.run_cli(&["sessions", "messages", session, "--json"]).await))
            .expect("the server's JSON");
        assert_eq!(json["items"].as_array().map(Vec::len), Some(4), "{json:#}");

        let closed = printed(&errand.run_cli(&["sessions", "close", session]).await);
        assert!(closed.contains("is closed"), "{closed}");
        assert!(printed(&errand.run_cli(&["sessions", "show", session]).await).contains("closed"));
        let wrong = errand.run_cli(&["sessions", "show", "nonsense"]).await;
        assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
        errand.finish().await;
    }

    async fn a_task_takes_files_along_and_its_answer_comes_back(setup: Setup) {
        let fake = FakeOpenAi::start([]).await;
        let errand = setup.engine("model", &fake.engine()).start().await;
        let directory = tempfile::tempdir().expect("a directory");
        let file = |name: &str, content: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, content).expect("written");
            path.to_string_lossy().into_owned()
        };
        let (image, note) = (file("dot.PNG", b"\x89PNG\r\n\x1a\n not really"), file("note.md", "grüße".as_bytes()));
        let arguments =
            ["submit", "task", "look at these", "--engine", "model", "--file", &image, "--file", &note, "--follow"];
        assert_eq!(printed(&errand.run_cli(&arguments).await).trim_end(), "hello from the model");
        let content = fake.requests()[0].body["messages"][0]["content"].clone();
        let parts = content.as_array().expect("parts");
        let sent = STANDARD.encode(b"\x89PNG\r\n\x1a\n not really");
        let shown = json!(format!("data:image/png;base64,{sent}"));
        assert!(parts.iter().any(|part| part["image_url"]["url"] == shown), "{content:#}");
        assert!(parts.iter().any(|part| part["text"].as_str().is_some_and(|text| text.contains("grüße"))), "{content:#}");
        let session = errand.client().get("/agent/sessions").await.items()[0]["id"].as_str().expect("an id").to_owned();
        let named = errand.client().messages(&session).await[0]["attachments"].clone();
        assert_eq!((&named[0]["fileName"], &named[1]["mediaType"]), (&json!("dot.PNG"), &json!("text/plain")), "{named:#}");

        let nameless = file("data", b"x");
        for (path, word) in [(nameless.as_str(), ".png"), ("/not/there.png", "can't be read")] {
            let refused = errand.run_cli(&["submit", "task", "x", "--file", path]).await;
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(!refused.status.success() && said.contains(path) && said.contains(word), "{said}");
        }
        errand.finish().await;
    }

    async fn engines_are_listed_with_what_they_can_do(setup: Setup) {
        let errand = setup
            .engine("gone", "type = \"command\"\ncommand = [\"/not/there\"]")
            .start()
            .await;
        let list = wait::until("the worker has told of its engines", || async {
            let list = printed(&errand.run_cli(&["engines", "list"]).await);
            (!list.contains("no live worker")).then_some(list)
        })
        .await;
        assert_eq!(words(&list, 1)[..4], ["echo", "echo", "default", "default"], "{list}");
        assert!(words(&list, 1).contains(&"streaming"), "{list}");
        let gone = words(&list, 2);
        assert_eq!(gone[..3], ["gone", "command", "unavailable"], "{list}");
        assert!(gone.join(" ").contains("/not/there"), "it says why: {list}");
        errand.finish().await;
    }

    async fn the_engine_of_those_who_name_none_can_be_chosen(setup: Setup) {
        let fake = FakeOpenAi::start([]).await;
        let errand = setup.engine("model", &fake.engine()).start().await;
        let said = printed(&errand.run_cli(&["engines", "switch", "model"]).await);
        assert!(said.contains("model"), "{said}");
        let answer = printed(&errand.run_cli(&["submit", "task", "hi", "--follow"]).await);
        assert!(answer.contains("hello from the model"), "{answer}");
        let unknown = errand.run_cli(&["engines", "switch", "nobody"]).await;
        assert_eq!(unknown.status.code(), Some(1), "{unknown:?}");
        errand.finish().await;
    }

    async fn what_was_spent_is_shown_by_what_was_asked(setup: Setup) {
        let fake = FakeOpenAi::start([]).await;
        let errand = setup.engine("model", &fake.engine()).start().await;
        let client = errand.client();
        let nothing = errand.run_cli(&["usage"]).await;
        assert!(String::from_utf8_lossy(&nothing.stderr).contains("nothing was spent"), "{nothing:?}");
        for _ in 0..2 {
            let task = client.submit_task(&json!({"prompt": "hi", "engineType": "model"})).await;
            client.wait_for_completion(&task.id).await;
        }
        let usage = errand.run_cli(&["usage", "--group-by", "engine,model"]).await;
        let text = printed(&usage);
        assert_eq!(words(&text, 1)[..5], ["model", "fake-model", "2", "22", "14"], "{text}");
        assert!(String::from_utf8_lossy(&usage.stderr).contains("the cost of 2 runs is not known"), "{usage:?}");
        let later = (chrono::Utc::now() + chrono::TimeDelta::hours(1)).to_rfc3339();
        let none = printed(&errand.run_cli(&["usage", "--from", &later]).await);
        assert_eq!(none.lines().count(), 1, "a head and no row: {none}");
        let refused = errand.run_cli(&["usage", "--group-by", "weather"]).await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        errand.finish().await;
    }
}
