//! The command line, run as a person or a program would.

use std::{process::Output, process::Stdio, time::Duration};

use errand_tests::{
    Mode, both_modes, embedded_only,
    fake_openai::{FakeOpenAi, Gate, Reply, Step},
    identity::{IdentityProvider, SigningKey},
    process, program,
    program::Programs,
    wait,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}\n{}\n{}", output.status, out(output), err(output));
}

both_modes! {
    async fn queues_are_paused_and_resumed_and_what_failed_is_retried(setup: Setup) {
        let programs = Programs::new();
        let mut errand = setup.engine("broken", &programs.engine("broken", "exit 3\n")).start().await;
        let client = errand.client().clone();
        let paused = errand.run_cli(&["queues", "pause", "default"]).await;
        assert_success(&paused);
        assert_eq!(out(&paused), "default is paused\n");
        let task = client.submit_task(&json!({"prompt": "x", "engineType": "broken"})).await;
        let listed = errand.run_cli(&["queues", "list"]).await;
        let row: Vec<_> = out(&listed).lines().nth(1).unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        assert_eq!(row[..3], ["default", "paused", "1"], "{}", out(&listed));
        assert_eq!(out(&errand.run_cli(&["queues", "resume", "default"]).await), "default is open\n");
        assert_eq!(client.wait_for_end(&task.id).await["state"], "failed");

        let retried = errand.run_cli(&["jobs", "retry", "--state", "failed"]).await;
        assert_success(&retried);
        assert!(out(&retried).contains(&task.id) && err(&retried).contains("1 new job"), "{retried:?}");
        let again = errand.run_cli(&["jobs", "retry", &task.id, "--all"]).await;
        assert_eq!(again.status.code(), Some(2), "one job, or all: {again:?}");
        let new = client.get("/jobs?limit=1").await.items()[0]["id"].as_str().expect("an id").to_owned();
        client.wait_for_end(&new).await;

        let workers = errand.run_cli(&["workers"]).await;
        let id = out(&workers).lines().nth(1).and_then(|row| row.split(' ').next()).expect("a worker").to_owned();
        let refused = errand.run_cli(&["workers", "drain", &id]).await;
        if errand.setup().mode() == Mode::Cluster {
            assert_success(&refused);
            assert!(errand.wait_for_worker_exit(0).await.success(), "a drained worker ends well");
        } else {
            assert!(!refused.status.success() && err(&refused).contains("stop the process"), "{refused:?}");
        }
        errand.finish().await;
    }

    async fn following_a_slow_program_shows_each_line_as_it_comes(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "first line", "second line")).start().await;
        let command = errand.cli(&["submit", "task", "go", "--engine", "gated", "--follow"]);
        let mut child = tokio::process::Command::from(command)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let first = wait::bounded("the first line", lines.next_line()).await.expect("text");
        assert_eq!(first.as_deref(), Some("first line"), "it comes while the program still runs");
        programs.open_gate("gated");
        let second = wait::bounded("the second line", lines.next_line()).await.expect("text");
        assert_eq!(second.as_deref(), Some("second line"));
        let status = wait::bounded("its end", child.wait()).await.expect("a status");
        assert_eq!(status.code(), Some(0));
        errand.finish().await;
    }

    async fn following_a_program_that_prints_slowly_exits_0(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("slow", &programs.engine("slow", program::SLOW_PRINTER)).start().await;
        let output = errand.run_cli(&["submit", "task", "go", "--engine", "slow", "--follow"]).await;
        assert_success(&output);
        let wanted: String = (1..=10).map(|number| format!("word-{number}\n")).collect();
        assert_eq!(out(&output), wanted);
        errand.finish().await;
    }

    async fn following_a_model_streams_its_answer_and_exits_0(setup: Setup) {
        let gate = Gate::new();
        let reply = Reply::Stream(vec![
            Step::Text("hello ".into()),
            Step::Gate(gate.clone()),
            Step::Text("world".into()),
            Step::Finish("stop"),
            Step::Done,
        ]);
        let fake = FakeOpenAi::start([reply]).await;
        let errand = setup.engine("model", &fake.engine()).start().await;
        let command = errand.cli(&["submit", "task", "hi", "--engine", "model", "--follow"]);
        let mut child = tokio::process::Command::from(command)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let mut stdout = child.stdout.take().expect("piped");
        let mut head = [0; 6];
        wait::bounded("the first word", stdout.read_exact(&mut head)).await.expect("text");
        assert_eq!(&head, b"hello ");
        gate.open();
        let mut rest = String::new();
        wait::bounded("the rest", stdout.read_to_string(&mut rest)).await.expect("text");
        assert_eq!(rest.trim_end(), "world");
        assert_eq!(wait::bounded("its end", child.wait()).await.expect("a status").code(), Some(0));
        errand.finish().await;
    }

    async fn following_a_failing_task_exits_1_with_the_reason(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("failing", &programs.engine("failing", program::FAILING)).start().await;
        let output = errand.run_cli(&["submit", "task", "go", "--engine", "failing", "--follow"]).await;
        assert_eq!(output.status.code(), Some(1), "{}", err(&output));
        assert!(err(&output).contains("the disk is on fire"), "{}", err(&output));
        errand.finish().await;
    }

    async fn a_refused_submission_says_why_in_words(setup: Setup) {
        let errand = setup.start().await;
        let output = errand.run_cli(&["submit", "task", "go", "--engine", "no_such_engine"]).await;
        assert!(!output.status.success());
        assert!(err(&output).contains("no_such_engine") && err(&output).contains("echo"), "{}", err(&output));
        errand.finish().await;
    }

    async fn following_survives_a_kill_9_of_the_server(setup: Setup) {
        let programs = Programs::new();
        let mut errand = setup
            .section("worker", "lease_seconds = 3")
            .engine("gated", &programs.gated_engine("gated", "before", "after"))
            .start()
            .await;
        let command = errand.cli(&["submit", "task", "go", "--engine", "gated", "--follow"]);
        let mut child = tokio::process::Command::from(command)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let first = wait::bounded("the first line", lines.next_line()).await.expect("text");
        assert_eq!(first.as_deref(), Some("before"));
        errand.kill9();
        errand.restart_in_place().await;
        programs.open_gate("gated");
        let status = wait::bounded("its end", child.wait()).await.expect("a status");
        assert_eq!(status.code(), Some(0));
        let id = errand.client().get("/jobs").await.items()[0]["id"].as_str().expect("an id").to_owned();
        assert_eq!(errand.client().job(&id).await["attempt"], 2);
        assert_eq!(process::of_task(&id), []);
        errand.finish().await;
    }

    async fn jobs_are_listed_shown_and_followed_for_people_and_programs(setup: Setup) {
        let errand = setup.start().await;
        let submitted = errand.run_cli(&["submit", "task", "hello there", "--json"]).await;
        assert_success(&submitted);
        let ids: Value = serde_json::from_str(&out(&submitted)).expect("JSON");
        let id = ids["taskId"].as_str().expect("an id");
        errand.client().wait_for_completion(id).await;

        let table = errand.run_cli(&["jobs", "list"]).await;
        assert_success(&table);
        assert!(out(&table).contains(id) && out(&table).contains("completed"), "{}", out(&table));
        let list = errand.run_cli(&["jobs", "list", "--json"]).await;
        let list: Value = serde_json::from_str(&out(&list)).expect("JSON");
        assert_eq!(list["items"][0]["id"], id);

        let shown = errand.run_cli(&["jobs", "show", id]).await;
        assert_success(&shown);
        assert!(out(&shown).contains("completed") && out(&shown).contains(id), "{}", out(&shown));
        let shown = errand.run_cli(&["jobs", "show", id, "--json"]).await;
        assert!(out(&shown).contains("\"hello there\""), "{}", out(&shown));

        let followed = errand.run_cli(&["jobs", "follow", id]).await;
        assert_success(&followed);
        assert_eq!(out(&followed).trim_end(), "hello there");
        let events = errand.run_cli(&["jobs", "follow", id, "--json"]).await;
        for line in out(&events).lines() {
            let _: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("one event a line: {line}"));
        }
        errand.finish().await;
    }

    async fn jobs_are_submitted_cancelled_and_retried(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("hang", &programs.engine("hang", program::HANGING)).start().await;
        let client = errand.client();
        let payload = json!({"prompt": "x", "engineType": "hang"}).to_string();
        let submitted = errand.run_cli(&["submit", "job", "--kind", "task", "--payload", &payload, "--json"]).await;
        assert_success(&submitted);
        let answer: Value = serde_json::from_str(&out(&submitted)).expect("JSON");
        let id = answer["job_id"].as_str().expect("an id");
        client.wait_for_state(id, "running").await;
        assert_success(&errand.run_cli(&["jobs", "cancel", id]).await);
        assert_eq!(client.job(id).await["state"], "cancelled");
        process::assert_gone(id, std::time::Instant::now(), Duration::from_secs(2)).await;
        let followed = errand.run_cli(&["jobs", "follow", id]).await;
        assert_eq!(followed.status.code(), Some(3), "{}", err(&followed));
        assert_success(&errand.run_cli(&["jobs", "retry", id]).await);
        let live = client.get("/jobs?state=live").await;
        assert_eq!(live.items()[0]["retry_of"], id);
        let again = live.items()[0]["id"].as_str().expect("an id").to_owned();
        assert_success(&errand.run_cli(&["jobs", "cancel", &again]).await);
        errand.finish().await;
    }

    async fn keys_are_made_used_listed_and_revoked(setup: Setup) {
        let errand = setup.start().await;
        let made = errand.run_cli(&["keys", "create", "--name", "ci", "--scopes", "jobs:read", "--json"]).await;
        assert_success(&made);
        let made: Value = serde_json::from_str(&out(&made)).expect("JSON");
        let secret = made["key"].as_str().expect("the secret");
        assert_eq!(errand.client().with_key(secret).get("/jobs").await.status, 200);
        let id = made["id"].as_str().expect("an id");
        let listed = errand.run_cli(&["keys", "list"]).await;
        assert!(out(&listed).contains("ci") && !out(&listed).contains(secret), "{}", out(&listed));
        assert_success(&errand.run_cli(&["keys", "revoke", id]).await);
        errand.finish().await;
    }

    async fn ctrl_c_leaves_the_job_running_and_says_how_to_see_it_again(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("gated", &programs.gated_engine("gated", "before", "after")).start().await;
        let command = errand.cli(&["submit", "task", "go", "--engine", "gated", "--follow"]);
        let mut child = tokio::process::Command::from(command)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let first = wait::bounded("the first line", lines.next_line()).await.expect("text");
        assert_eq!(first.as_deref(), Some("before"));
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::INT).expect("the signal is sent");
        let output = wait::bounded("its end", child.wait_with_output()).await.expect("a status");
        assert_eq!(output.status.code(), Some(130), "{}", err(&output));
        let id = errand.client().get("/jobs").await.items()[0]["id"].as_str().expect("an id").to_owned();
        assert!(err(&output).contains(&format!("jobs follow {id}")), "{}", err(&output));
        programs.open_gate("gated");
        errand.client().wait_for_completion(&id).await;
        errand.finish().await;
    }

    async fn the_doctor_looks_at_the_keys_of_users_tokens(setup: Setup) {
        let (provider, key) = (IdentityProvider::start().await, SigningKey::ec("e1"));
        provider.publish(&[&key]);
        let errand = setup.section("auth", &provider.settings()).start().await;
        let said = async || {
            let output = errand.run_cli(&["doctor"]).await;
            let line = out(&output).lines().find(|line| line.contains("users' tokens")).map(str::to_owned);
            (line.unwrap_or_else(|| panic!("{}", out(&output))), output.status.code())
        };
        let (healthy, _) = said().await;
        assert_eq!(healthy, "✓ users' tokens: the key set at auth.jwks_url has e1 (ES256)");
        provider.publish(&[&SigningKey::secret("s", b"no place for a secret")]);
        let (useless, status) = said().await;
        assert!(useless.starts_with("✗") && useless.contains("RS256, ES256 or EdDSA") && status == Some(1), "{useless}");
        provider.fail();
        let (away, status) = said().await;
        assert!(away.starts_with("✗") && away.contains("500") && status == Some(1), "{away}");
        errand.finish().await;
    }

    async fn the_doctor_finds_a_healthy_server_healthy(setup: Setup) {
        let errand = setup.start().await;
        let output = errand.run_cli(&["doctor"]).await;
        assert!(out(&output).contains("echo"), "{}\n{}", out(&output), err(&output));
        errand.finish().await;
    }
}

embedded_only! {
    async fn the_doctor_looks_at_a_database_without_changing_it(setup: Setup) {
        let errand = setup.start().await;
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("new.db");
        let url = format!("sqlite://{}", file.display());
        let output = errand.run_cli(&["doctor", "--database-url", &url]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(out(&output).contains("there is no file"), "{}", out(&output));
        assert!(!file.exists());
        std::fs::write(&file, "").expect("an empty database");
        let output = errand.run_cli(&["doctor", "--database-url", &url]).await;
        assert!(out(&output).contains("✗ migrations: ") && out(&output).contains("errand migrate"), "{}", out(&output));
        assert_eq!(std::fs::metadata(&file).expect("there").len(), 0);
        assert_success(&errand.run_cli(&["migrate", "--database-url", &url]).await);
        let output = errand.run_cli(&["doctor", "--database-url", &url]).await;
        assert!(out(&output).contains("✓ migrations: up to date"), "{}", out(&output));
        errand.finish().await;
    }

    async fn a_database_that_refuses_is_told_at_once_with_its_reason(setup: Setup) {
        let errand = setup.start().await;
        // Port 9 discards: nothing listens there.
        let url = "postgres://errand:hunter2@127.0.0.1:9/errand";
        let output = errand.run_cli(&["migrate", "--database-url", url]).await;
        assert_eq!(output.status.code(), Some(1));
        let said = err(&output);
        assert!(said.contains("127.0.0.1:9") && said.contains("refused") && !said.contains("hunter2"), "{said}");
        errand.finish().await;
    }

    async fn a_key_that_was_revoked_is_told_at_the_next_start(setup: Setup) {
        let mut errand = setup.start().await;
        let keys = errand.run_cli(&["keys", "list", "--json"]).await;
        let keys: Value = serde_json::from_str(&out(&keys)).expect("JSON");
        let id = keys["items"][0]["id"].as_str().expect("an id").to_owned();
        assert_success(&errand.run_cli(&["keys", "revoke", &id]).await);
        errand.sigterm().await;
        let data = errand.data_dir().display().to_string();
        let command = errand.cli(&["dev", "--listen", "127.0.0.1:0", "--data-dir", &data]);
        let mut command = tokio::process::Command::from(command);
        let output = wait::bounded("its refusal", command.kill_on_drop(true).output()).await.expect("it starts");
        assert_eq!(output.status.code(), Some(1), "{}", out(&output));
        assert!(err(&output).contains("was revoked; remove that file"), "{}", err(&output));
        errand.finish().await;
    }

    async fn the_curl_line_that_dev_prints_works_when_pasted(setup: Setup) {
        let errand = setup.start().await;
        let printed = errand.output();
        let start = printed.find("curl ").unwrap_or_else(|| panic!("a curl line in:\n{printed}"));
        // The line may be folded with backslashes, as a shell takes it.
        let mut line = String::new();
        for part in printed[start..].lines() {
            line.push_str(part);
            line.push('\n');
            if !part.ends_with('\\') {
                break;
            }
        }
        let pasted = tokio::task::spawn_blocking(move || std::process::Command::new("sh").args(["-c", &line]).output());
        let output = wait::bounded("curl", pasted).await.expect("no panic").expect("sh starts");
        assert_success(&output);
        assert!(out(&output).contains("\"completed\""), "{}\n{}", out(&output), err(&output));
        errand.finish().await;
    }

    async fn a_server_that_is_not_there_is_said_so(setup: Setup) {
        let errand = setup.start().await;
        let mut command = errand.cli(&["jobs", "list"]);
        command.env("ERRAND_URL", "http://127.0.0.1:9");
        let run = tokio::task::spawn_blocking(move || command.output());
        let output = wait::bounded("the command", run).await.expect("no panic").expect("it starts");
        assert!(!output.status.success());
        assert!(err(&output).contains("errand dev"), "{}", err(&output));
        errand.finish().await;
    }

    async fn wrong_configuration_is_reported_whole_before_anything_starts(setup: Setup) {
        let errand = setup.start().await;
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("errand.toml");
        std::fs::write(&file, "[worker]\nconcurency = 3\nlease_seconds = 0\n").expect("a file");
        let mut command = errand.cli(&["dev", "--listen", "127.0.0.1:0"]);
        command.current_dir(directory.path()).env_remove("ERRAND_URL").env_remove("ERRAND_API_KEY");
        let run = tokio::task::spawn_blocking(move || command.output());
        let output = wait::bounded("the command", run).await.expect("no panic").expect("it starts");
        assert!(!output.status.success());
        assert!(err(&output).contains("concurency") && err(&output).contains("lease_seconds"), "{}", err(&output));
        errand.finish().await;
    }
}
