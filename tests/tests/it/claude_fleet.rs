//! Whole fleets whose engines run Claude Code, with a program that stands in for it.

use std::path::Path;

use errand_tests::{
    Task, both_modes,
    claude::{
        fleet::{self, Fleet},
        model::{TOKENS, prompt},
        world::Kind,
    },
    cluster_only,
    usage::{Records, records, until_all_are_released},
    wait,
};
use futures::future::join_all;
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_fake-claude");

fn program() -> &'static Path {
    Path::new(PROGRAM)
}

both_modes! {
    async fn tasks_of_a_session_run_on_the_sdk_engine(setup: Setup) {
        fleet::tasks_of_a_session_run(setup, program(), Kind::Sdk).await;
    }

    async fn tasks_of_a_session_run_on_the_cli_engine(setup: Setup) {
        fleet::tasks_of_a_session_run(setup, program(), Kind::Cli).await;
    }

    async fn a_cancelled_turn_leaves_nothing_but_what_it_said_on_the_sdk_engine(setup: Setup) {
        fleet::a_cancelled_turn_leaves_nothing_but_what_it_said(setup, program(), Kind::Sdk).await;
    }

    async fn a_cancelled_turn_leaves_nothing_but_what_it_said_on_the_cli_engine(setup: Setup) {
        fleet::a_cancelled_turn_leaves_nothing_but_what_it_said(setup, program(), Kind::Cli).await;
    }

    async fn a_cancelled_tool_is_gone(setup: Setup) {
        fleet::a_cancelled_tool_is_gone(setup, program(), Kind::Sdk).await;
    }

    async fn a_budget_ends_a_task_that_goes_on_and_on(setup: Setup) {
        let fleet = Fleet::start(setup, program(), Kind::Sdk, "").await;
        let client = fleet.client();
        let again = json!({"tool": {"name": "Bash", "input": {"command": "echo again"}}});
        // One answer costs 30 tokens and 0.0002 dollars: the second goes beyond either.
        for budget in [json!({"maxCostUsd": 0.0003}), json!({"maxTokens": 40})] {
            let prompt = prompt("again", &json!([again, again, again, again]));
            let task = client.submit_task(&json!({"prompt": prompt, "budget": budget})).await;
            let job = client.wait_for_end(&task.id).await;
            assert_eq!((&job["failure"]["code"], &job["attempt"]), (&json!("BUDGET_EXCEEDED"), &json!(1)), "{job:#}");
            assert!(job["failure"]["message"].as_str().is_some_and(|said| said.contains("larger one")), "{job:#}");
            assert_eq!(fleet.model.asked(&prompt), 2, "{budget}");
        }
        fleet.errand.finish().await;
    }

    async fn a_question_that_the_program_withdraws_is_closed_and_the_turn_goes_on(setup: Setup) {
        let fleet = Fleet::start(setup, program(), Kind::Sdk, "").await;
        let client = fleet.client();
        // The stand-in withdraws the question about this one.
        let tool = json!({"name": "Bash", "input": {"command": "rm x", "withdraw_after_ms": 1_500}});
        let task = fleet.submit(&prompt("use it", &json!([{"tool": tool}, {"text": ["Never mind."]}])), None, &[]).await;
        client.wait_for_state(&task.id, "awaiting_approval").await;
        let job = client.wait_for_completion(&task.id).await;
        assert_eq!((&job["result"]["summary"], &job["attempt"]), (&json!("Never mind."), &json!(1)), "{job:#}");
        let timeline = client.timeline(&task.id).await;
        let resolved: Vec<_> = timeline.iter().filter(|event| event["type"] == "approval_resolved").collect();
        assert_eq!(resolved.iter().map(|event| &event["state"]).collect::<Vec<_>>(), ["withdrawn"], "{timeline:#?}");
        let late = client.post(&format!("/agent/tasks/{}/approve", task.id), &json!({"approved": true})).await;
        assert_eq!((late.status, &late.body["code"]), (400, &json!("not_awaiting_approval")), "{late:?}");
        fleet.errand.finish().await;
    }
}

cluster_only! {
    async fn an_approval_through_another_api_reaches_the_warm_process(setup: Setup) {
        fleet::an_approval_through_another_api_reaches_the_warm_process(setup, program()).await;
    }

    async fn a_parked_task_whose_worker_is_killed_goes_on_with_the_other(setup: Setup) {
        fleet::a_parked_task_whose_worker_is_killed_goes_on_with_the_other(setup, program()).await;
    }

    async fn a_warm_task_whose_worker_is_killed_finds_its_decision(setup: Setup) {
        fleet::a_warm_task_whose_worker_is_killed_finds_its_decision(setup, program()).await;
    }

    async fn a_killed_turn_goes_on_with_the_other_worker_on_the_sdk_engine(setup: Setup) {
        fleet::a_killed_turn_goes_on_with_the_other_worker(setup, program(), Kind::Sdk).await;
    }

    async fn a_killed_turn_goes_on_with_the_other_worker_on_the_cli_engine(setup: Setup) {
        fleet::a_killed_turn_goes_on_with_the_other_worker(setup, program(), Kind::Cli).await;
    }

    async fn every_kind_of_end_leaves_one_record_a_run(setup: Setup) {
        let mut fleet = Fleet::start(setup, program(), Kind::Sdk, "approval_warm_seconds = 0").await;
        let client = fleet.client().clone();
        let harmless = json!({"name": "Bash", "input": {"command": "echo harmless"}});
        let asks = json!({"name": "Bash", "input": {"command": "true"}});
        let whole = prompt("two requests", &json!([{"tool": harmless}, {"text": ["Done."]}]));
        let parked = prompt("asks", &json!([{"tool": asks}, {"tool": asks}, {"text": ["Done."]}]));
        let failed = prompt("fails", &json!([{"tool": harmless}, {"status": 400}]));
        let speaks = json!({"text": ["Once upon"], "stall": true});
        let cancelled = prompt("stopped", &json!([speaks]));
        let killed = prompt("killed", &json!([speaks, {"text": ["Again."]}]));
        let mut tasks = Vec::new();
        for prompt in [&whole, &parked, &failed, &cancelled, &killed] {
            tasks.push(fleet.submit(prompt, None, &[]).await);
        }
        let [whole_task, parked_task, failed_task, cancelled_task, killed_task] = &tasks[..] else { unreachable!() };
        client.wait_for_completion(&whole_task.id).await;
        assert_eq!(client.wait_for_end(&failed_task.id).await["state"], "failed");
        client.wait_for_text(&cancelled_task.id, "Once upon").await;
        client.delete(&format!("/agent/tasks/{}", cancelled_task.id)).await;
        fleet.parked(parked_task).await;
        let approve = format!("/agent/tasks/{}/approve", parked_task.id);
        assert_eq!(client.post(&approve, &json!({"approved": true})).await.status, 200);
        client.wait_for_completion(&parked_task.id).await;
        client.wait_for_text(&killed_task.id, "Once upon").await;
        let holder = fleet.runner(killed_task).await;
        fleet.kill(holder, killed_task).await;
        client.wait_for_completion(&killed_task.id).await;
        until_all_are_released(&fleet.errand).await;

        let records = records(&fleet.errand).await;
        let of = |task: &Task| records.get(&task.id).copied().unwrap_or_default();
        let kept = |known, unknown, input: u64, output: u64| Records {
            known, unknown, input: input * TOKENS.0, output: output * TOKENS.1,
        };
        assert_eq!(of(whole_task), kept(1, 0, 2, 2));
        assert_eq!(of(parked_task), kept(2, 0, 3, 3), "one record of the run that was parked, one of the run that went on");
        assert_eq!(of(failed_task), kept(1, 0, 1, 1), "what was refused costs nothing");
        assert_eq!(of(cancelled_task), kept(0, 1, 1, 0), "nobody knows what the rest of the answer cost");
        assert_eq!(of(killed_task), kept(1, 1, 1, 1), "nor anything of what the killed run spent");

        // The server's count, less the refused request and exactly the one of the killed run.
        let asked: usize = [&whole, &parked, &failed, &cancelled, &killed].map(|prompt| fleet.model.asked(prompt)).iter().sum();
        assert_eq!(asked, fleet.model.requests().len());
        let total = client.get("/agent/usage").await.body["total"].clone();
        let told = u64::try_from(asked - 2).expect("few") * TOKENS.0;
        assert_eq!((&total["inputTokens"], &total["unknown"], &total["records"]), (&json!(told), &json!(2), &json!(7)), "{total}");
        fleet.errand.finish().await;
    }

    async fn under_kills_and_cancels_the_sums_are_the_servers_count_less_the_unknown_runs(setup: Setup) {
        const TASKS: usize = 40;
        let mut fleet = Fleet::start(setup, program(), Kind::Sdk, "concurrency = 4").await;
        let client = fleet.client().clone();
        let slow = json!({"text": ["one ", "two ", "three"], "pause_ms": 100});
        let prompts: Vec<String> = (0..TASKS).map(|_| prompt("count", &json!([slow, slow, slow, slow, slow]))).collect();
        let tasks = join_all(prompts.iter().map(|prompt| {
            let body = json!({"prompt": prompt, "maxAttempts": 5});
            let client = &client;
            async move { client.submit_task(&body).await }
        }))
        .await;
        for (number, begun) in [(0, 10), (1, 25)] {
            let model = &fleet.model;
            wait::until("work is under way", || async { (model.requests().len() >= begun).then_some(()) }).await;
            fleet.errand.kill9_worker(number);
            fleet.errand.restart_workers().await;
            // Some that run, some that wait, some that have ended.
            for task in tasks.iter().skip(number).step_by(10) {
                assert_eq!(client.delete(&format!("/agent/tasks/{}", task.id)).await.status, 200);
            }
        }
        let jobs: Vec<Value> = join_all(tasks.iter().map(|task| client.wait_for_end(&task.id))).await;
        until_all_are_released(&fleet.errand).await;

        let records = records(&fleet.errand).await;
        let (mut known, mut unknown, mut of_unknown) = (0, 0, 0);
        for ((task, prompt), job) in tasks.iter().zip(&prompts).zip(&jobs) {
            let (asked, kept) = (fleet.model.asked(prompt), records.get(&task.id).copied().unwrap_or_default());
            // One request a run; of one that was cut off the beginning may be known.
            let lost = asked.saturating_sub(usize::try_from(kept.input / TOKENS.0).expect("few"));
            assert!(lost <= kept.unknown, "{asked} requests, {kept:?}: {job:#}");
            assert_eq!(kept.input % TOKENS.0, 0, "{kept:?}");
            assert!(job["state"] != "completed" || kept.known > 0, "its last run is not recorded: {kept:?} {job:#}");
            (known, unknown, of_unknown) = (known + kept.known, unknown + kept.unknown, of_unknown + lost);
        }
        let requests = fleet.model.requests().len();
        println!("{requests} requests, {known} known records, {unknown} unknown with {of_unknown} requests");
        assert!(unknown > 0 && of_unknown > 0, "nothing was cut off: the test shows nothing");
        let total = client.get("/agent/usage").await.body["total"].clone();
        let told = u64::try_from(requests - of_unknown).expect("few") * TOKENS.0;
        assert_eq!((&total["inputTokens"], &total["unknown"]), (&json!(told), &json!(unknown)), "{total}");
        let completed = jobs.iter().filter(|job| job["state"] == "completed").count();
        assert!(completed >= TASKS * 7 / 10, "only {completed} of {TASKS} completed");
        fleet.errand.finish().await;
    }
}
