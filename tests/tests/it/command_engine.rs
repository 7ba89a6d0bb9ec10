//! The `command` engine: any program of the operator's, and whatever it does wrong.

use std::time::{Duration, Instant};

use errand_tests::{Client, both_modes, process, program, program::Programs};
use serde_json::{Value, json};

async fn run(client: &Client, engine: &str) -> Value {
    let body = json!({"prompt": "what to do", "engineType": engine, "maxAttempts": 1});
    let task = client.submit_task(&body).await;
    client.wait_for_end(&task.id).await
}

fn message(job: &Value) -> &str {
    job["failure"]["message"].as_str().unwrap_or_default()
}

both_modes! {
    async fn a_program_is_asked_on_its_input_and_answers_on_its_output(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("repeat", &programs.engine("repeat", program::REPEATER)).start().await;
        let job = run(errand.client(), "repeat").await;
        assert_eq!(job["state"], "completed", "{job:#}");
        assert_eq!(job["result"]["summary"], "what to do");
        errand.finish().await;
    }

    async fn a_program_sees_only_the_environment_it_is_given(setup: Setup) {
        let programs = Programs::new();
        let lines = format!(
            "{}\nenv = [\"PATH\", \"GREETING\"]\ncwd = {:?}",
            programs.engine("reveal", program::REVEALER),
            programs.path("")
        );
        let errand = setup
            .engine("reveal", &lines)
            .variable("GREETING", "good morning")
            .variable("DATABASE_PASSWORD", "a secret of the operator's")
            .start()
            .await;
        let task = errand.client().submit_task(&json!({"prompt": "x", "engineType": "reveal"})).await;
        let job = errand.client().wait_for_completion(&task.id).await;
        let output = job["result"]["summary"].as_str().expect("text");
        for line in [
            "GREETING=good morning".to_owned(),
            format!("ERRAND_TASK_ID={}", task.id),
            format!("ERRAND_SESSION_ID={}", task.session_id),
            "ERRAND_ATTEMPT=1".to_owned(),
        ] {
            assert!(output.lines().any(|seen| seen == line), "{line} in:\n{output}");
        }
        assert!(!output.contains("a secret"), "{output}");
        assert_eq!(output.lines().last(), Some(programs.path("").trim_end_matches('/')));
        errand.finish().await;
    }

    async fn a_failing_program_gives_its_status_and_its_last_words(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("failing", &programs.engine("failing", program::FAILING)).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "x", "engineType": "failing"})).await;
        let job = client.wait_for_end(&task.id).await;
        assert_eq!(job["state"], "failed", "{job:#}");
        assert_eq!(job["failure"]["class"], "fatal");
        assert_eq!(job["failure"]["code"], "EXECUTION_ERROR");
        assert_eq!(job["attempt"], 1, "what failed for good is not tried again");
        assert!(message(&job).contains('3') && message(&job).contains("the disk is on fire"), "{job:#}");
        let events = client.events(&task.id).await;
        let error = events.iter().find(|frame| frame.kind() == "error").expect("an error event");
        assert_eq!(error.data["code"], "EXECUTION_ERROR");
        errand.finish().await;
    }

    async fn a_program_killed_by_a_signal_says_so(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("suicidal", &programs.engine("suicidal", "kill -9 $$")).start().await;
        let job = run(errand.client(), "suicidal").await;
        assert_eq!(job["state"], "failed", "{job:#}");
        assert!(message(&job).contains("signal"), "{job:#}");
        errand.finish().await;
    }

    async fn a_missing_program_is_a_reason_a_person_understands(setup: Setup) {
        let errand =
            setup.engine("gone", "type = \"command\"\ncommand = [\"/nowhere/no-such-program\"]").start().await;
        let job = run(errand.client(), "gone").await;
        assert_eq!(job["state"], "failed", "{job:#}");
        assert!(message(&job).contains("/nowhere/no-such-program"), "{job:#}");
        let engines = errand.client().get("/agent/engines").await;
        let gone = engines.body["engines"].as_array().expect("a list").iter().find(|engine| engine["name"] == "gone");
        assert_eq!(gone.expect("listed")["available"], false, "{engines:?}");
        errand.finish().await;
    }

    async fn a_flooding_program_is_stopped_at_the_limit(setup: Setup) {
        let programs = Programs::new();
        let lines = format!("{}\noutput_limit_kib = 64", programs.engine("flood", program::FLOODER));
        let errand = setup.engine("flood", &lines).start().await;
        let job = run(errand.client(), "flood").await;
        assert_eq!(job["state"], "failed", "{job:#}");
        assert!(message(&job).contains("64"), "it names the limit: {job:#}");
        process::assert_gone(job["id"].as_str().expect("an id"), Instant::now(), Duration::from_secs(2)).await;
        errand.finish().await;
    }

    async fn what_is_no_text_is_replaced_and_the_rest_is_kept(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("garble", &programs.engine("garble", program::GARBLER)).start().await;
        let job = run(errand.client(), "garble").await;
        assert_eq!(job["state"], "completed", "{job:#}");
        let text = job["result"]["summary"].as_str().expect("text");
        assert!(text.starts_with("before \u{fffd}") && text.trim_end().ends_with("after"), "{text:?}");
        assert!(!text.contains('\0'), "{text:?}");
        errand.finish().await;
    }

    async fn a_hanging_program_is_ended_by_its_timeout(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("hang", &programs.engine("hang", program::HANGING)).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "x", "engineType": "hang", "timeoutSeconds": 1})).await;
        let job = client.wait_for_end(&task.id).await;
        assert_eq!(job["state"], "failed", "{job:#}");
        assert_eq!(job["failure"]["class"], "timeout");
        assert_eq!(job["failure"]["code"], "TIMEOUT");
        process::assert_gone(&task.id, Instant::now(), Duration::from_secs(2)).await;
        errand.finish().await;
    }

    async fn a_program_that_ends_leaves_no_daemon_behind(setup: Setup) {
        let programs = Programs::new();
        let script = "cat >/dev/null; setsid sleep 620 & setsid sh -c 'setsid sleep 621 & sleep 622' & echo done";
        let errand = setup.engine("daemons", &programs.engine("daemons", script)).start().await;
        let job = run(errand.client(), "daemons").await;
        assert_eq!(job["state"], "completed", "{job:#}");
        process::assert_gone(job["id"].as_str().expect("an id"), Instant::now(), Duration::from_secs(2)).await;
        errand.finish().await;
    }

    async fn a_program_that_never_reads_does_not_hold_us_up(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("deaf", &programs.engine("deaf", "echo 'I do not care'")).start().await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "word ".repeat(100_000), "engineType": "deaf"})).await;
        let job = client.wait_for_completion(&task.id).await;
        assert_eq!(job["result"]["summary"].as_str().map(str::trim), Some("I do not care"));
        errand.finish().await;
    }
}
