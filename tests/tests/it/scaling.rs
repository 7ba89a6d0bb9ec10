//! What an autoscaler of workers asks for, and the trial that an installation is tested with.

use errand_tests::{both_modes, cluster_only, program::Programs, wait};
use serde_json::{Value, json};

both_modes! {
    async fn scaling_counts_what_waits_what_runs_and_who_is_busy_until_all_is_done(setup: Setup) {
        let programs = Programs::new();
        let errand = setup
            .section("worker", "concurrency = 1\nlease_seconds = 3")
            .engine("gated", &programs.gated_engine("gated", "a", "b"))
            .start()
            .await;
        let client = errand.client();
        let scaling = async |late: u32| {
            let path = format!("/scaling?queues=default,elsewhere&late_seconds={late}");
            client.get_root(&path).await.expect("an answer").body
        };
        let first = client.submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        client.wait_for_text(&first.id, "a").await;
        let second = client.submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        let busy = wait::until("one runs, one has waited a second", || async {
            let numbers = scaling(1).await;
            (numbers["busy_workers"] == 1 && numbers["late_workers"] == 1).then_some(numbers)
        })
        .await;
        let counted = ["queued", "running", "work", "live_workers"].map(|name| busy[name].clone());
        assert_eq!(counted, [1, 1, 2, 1].map(Value::from), "{busy}");
        assert!(busy["oldest_age_seconds"].as_f64() >= Some(1.0), "{busy}");
        assert_eq!(scaling(86_400).await["late_workers"], 0, "late is what the caller calls late");

        programs.open_gate("gated");
        client.wait_for_completion(&first.id).await;
        client.wait_for_completion(&second.id).await;
        wait::until("nobody is busy", || async {
            let numbers = scaling(1).await;
            (numbers["work"] == 0 && numbers["busy_workers"] == 0 && numbers["live_workers"] == 1).then_some(())
        })
        .await;
        errand.finish().await;
    }

    async fn scaling_without_the_name_of_a_queue_is_refused(setup: Setup) {
        let errand = setup.start().await;
        for query in ["", "?queues=", "?queues=a&late_seconds=0", "?queues=a&colour=red"] {
            let answer = errand.client().get_root(&format!("/scaling{query}")).await.expect("an answer");
            assert_eq!(answer.status, 400, "{query}: {answer:?}");
        }
        errand.finish().await;
    }

    async fn a_trial_sees_a_task_through_or_says_how_it_ended(setup: Setup) {
        let programs = Programs::new();
        let errand = setup.engine("broken", &programs.engine("broken", "exit 3\n")).start().await;
        let trial = errand.run_cli(&["trial"]).await;
        let said = String::from_utf8_lossy(&trial.stdout).into_owned();
        assert!(trial.status.success() && said.starts_with("completed after "), "{trial:?}");
        let trial = errand.run_cli(&["trial", "--engine", "broken"]).await;
        let said = String::from_utf8_lossy(&trial.stdout).into_owned();
        assert_eq!(trial.status.code(), Some(1), "{trial:?}");
        assert!(said.starts_with("failed after "), "{trial:?}");
        errand.finish().await;
    }
}

cluster_only! {
    async fn a_trial_finds_the_streams_where_relays_serve_them(setup: Setup) {
        let errand = setup.apis_serving(&["rest", "relay"]).start().await;
        let relay = errand.client_of(1);
        let alone = errand.run_cli(&["trial", "--timeout-seconds", "20"]).await;
        assert_eq!(alone.status.code(), Some(1), "the first api serves no streams: {alone:?}");
        let trial = errand.run_cli(&["trial", "--relay-url", relay.base()]).await;
        assert!(trial.status.success(), "{trial:?}");
        errand.finish().await;
    }
}
