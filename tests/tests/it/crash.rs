//! What a killed or frozen process leaves behind: nothing that runs, and nothing lost.

use std::time::{Duration, Instant};

use errand_tests::{
    Mode, Setup, all_modes, process,
    program::{Programs, SPAWNER},
    sse::{self, Sse, visible_text},
    wait,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const AT_ONCE: Duration = Duration::from_secs(2);

const fn lease_seconds(setup: &Setup) -> u32 {
    if matches!(setup.mode(), Mode::Embedded) { 600 } else { 3 }
}

/// On its own file a starting `dev` knows that no holder lives and waits for no lease: this one would outlast the test.
/// On a shared database it has to wait.
fn with_lease(setup: Setup) -> Setup {
    let seconds = lease_seconds(&setup);
    setup.section("worker", &format!("lease_seconds = {seconds}"))
}

all_modes! {
    async fn a_task_cut_off_by_kill_9_finishes_as_attempt_2_and_its_watcher_misses_nothing(setup: Setup) {
        let programs = Programs::new();
        let engine = programs.gated_engine("gated", "the first half", "the second half");
        let mut errand = with_lease(setup).engine("gated", &engine).start().await;
        let task = errand.client().submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        let mut stream = Sse::of_job(errand.client(), &task.id).await;
        let mut seen = stream.take_until(|frame| frame.kind() == "text").await;
        assert!(!process::of_task(&task.id).is_empty());

        let killed = Instant::now();
        errand.kill9_worker(0);
        process::assert_gone(&task.id, killed, AT_ONCE).await;
        if errand.setup().mode() == Mode::Cluster {
            // The api lives on, and so does the watcher's connection.
            errand.restart_workers().await;
            programs.open_gate("gated");
        } else {
            seen.extend(stream.rest().await);
            errand.restart().await;
            programs.open_gate("gated");
            let position = seen.last().and_then(|frame| frame.id.clone()).expect("a position");
            stream = Sse::of_job_after(errand.client(), &task.id, &position).await;
        }
        seen.extend(stream.rest().await);
        assert!(seen.iter().all(|frame| frame.event.as_deref() != Some("snapshot")), "{seen:#?}");
        sse::assert_gap_free(&seen, 1);
        assert_eq!(visible_text(&seen), "the first half\nthe second half\n", "the first run's text is retracted");

        let job = errand.client().wait_for_completion(&task.id).await;
        assert_eq!(job["attempt"], 2);
        let timeline = errand.client().timeline(&task.id).await;
        let retrying = timeline.iter().find(|event| event["type"] == "retrying").expect("the crash is in the timeline");
        assert_eq!(retrying["class"], "crash", "{retrying}");
        let said: Vec<_> =
            errand.client().messages(&task.session_id).await.iter().map(|message| message["content"].clone()).collect();
        assert_eq!(said, [json!("x"), json!("the first half\nthe second half\n")]);
        errand.finish().await;
    }

    async fn what_was_waiting_at_a_kill_9_runs_once_after_it(setup: Setup) {
        let programs = Programs::new();
        let lease = lease_seconds(&setup);
        let mut errand = setup
            .section("worker", &format!("concurrency = 1\nlease_seconds = {lease}"))
            .engine("gated", &programs.gated_engine("gated", "a", "b"))
            .start()
            .await;
        let client = errand.client();
        let active = client.submit_task(&json!({"prompt": "first", "engineType": "gated"})).await;
        client.wait_for_text(&active.id, "a").await;
        let mut waiting = Vec::new();
        for number in 0..20 {
            waiting.push(client.submit_task(&json!({"prompt": format!("number {number}")})).await);
        }
        let soon = (chrono::Utc::now() + chrono::TimeDelta::seconds(1)).to_rfc3339();
        waiting.push(client.submit_task(&json!({"prompt": "scheduled", "runAt": soon})).await);
        errand.kill9();
        programs.open_gate("gated");
        errand.restart().await;
        let client = errand.client();
        assert_eq!(client.wait_for_completion(&active.id).await["attempt"], 2);
        for task in &waiting {
            assert_eq!(client.wait_for_completion(&task.id).await["attempt"], 1);
            let timeline = client.timeline(&task.id).await;
            assert_eq!(timeline.iter().filter(|event| event["type"] == "started").count(), 1, "{timeline:#?}");
        }
        errand.finish().await;
    }

    async fn the_engine_of_a_frozen_worker_ends_before_its_lease(setup: Setup) {
        let programs = Programs::new();
        let errand = setup
            .section("worker", "lease_seconds = 5")
            .engine("gated", &programs.gated_engine("gated", "a", "b"))
            .start()
            .await;
        let client = errand.client();
        let task = client.submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        client.wait_for_text(&task.id, "a").await;
        let frozen = Instant::now();
        errand.signal_worker(0, Signal::STOP);
        process::assert_gone(&task.id, frozen, Duration::from_secs(5)).await;
        programs.open_gate("gated");
        errand.signal_worker(0, Signal::CONT);
        client.wait_for_completion(&task.id).await;
        let frames = client.events(&task.id).await;
        sse::assert_gap_free(&frames, 1);
        assert_eq!(visible_text(&frames), "a\nb\n");
        errand.finish().await;
    }

    async fn a_program_that_must_not_run_twice_ends_ambiguous_after_a_crash(setup: Setup) {
        let programs = Programs::new();
        let engine = format!("{}\nrerun = \"never\"", programs.gated_engine("gated", "a", "b"));
        let mut errand = with_lease(setup).engine("gated", &engine).start().await;
        let task = errand.client().submit_task(&json!({"prompt": "x", "engineType": "gated"})).await;
        errand.client().wait_for_text(&task.id, "a").await;
        errand.kill9_worker(0);
        errand.restart_workers().await;
        let job = errand.client().wait_for_end(&task.id).await;
        assert_eq!((&job["state"], &job["failure"]["class"]), (&json!("failed"), &json!("ambiguous")), "{job:#}");
        errand.finish().await;
    }
}

/// On its own file only: a start that can't know itself alone kills nothing.
#[test]
fn what_outlives_a_guard_that_was_killed_with_its_worker_is_gone_after_the_restart() {
    errand_tests::run::run(async {
        let programs = Programs::new();
        let engine = programs.engine("spawner", SPAWNER);
        let mut errand = with_lease(Setup::new(env!("CARGO_BIN_EXE_errand-under-test"), Mode::Embedded))
            .engine("spawner", &engine)
            .start()
            .await;
        let task = errand.client().submit_task(&json!({"prompt": "x", "engineType": "spawner"})).await;
        Sse::of_job(errand.client(), &task.id).await.take_until(|frame| frame.kind() == "text").await;

        // Frozen, the worker can't see that its guard is gone.
        errand.signal_worker(0, Signal::STOP);
        let guard = process::of_task(&task.id).into_iter().find(|process| process.command.contains(" guard "));
        let guard = Pid::from_raw(guard.expect("a guard").pid).expect("a process id");
        kill_process(guard, Signal::KILL).expect("the guard is killed");
        errand.kill9();
        let survivors = wait::until("the program is gone and its children are not", || async {
            let alive = process::of_task(&task.id);
            let program = alive.iter().any(|process| process.command.contains("spawner"));
            (!program && !alive.is_empty()).then_some(alive)
        })
        .await;

        errand.restart().await;
        wait::until("the survivors are gone", || async {
            process::of_task(&task.id).iter().all(|process| !survivors.contains(process)).then_some(())
        })
        .await;
        errand.client().delete(&format!("/agent/tasks/{}", task.id)).await;
        process::assert_gone(&task.id, Instant::now(), AT_ONCE).await;
        errand.finish().await;
    });
}
