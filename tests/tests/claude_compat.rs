//! The engines that run Claude Code, with the real program, on a model's server of ours: `ERRAND_COMPAT=1` runs it.
//!
//! The program is installed from its registry into the build's directory, at the version below; nothing of it is kept here.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use errand_tests::{
    claude::{
        fleet,
        world::{Kind, World},
    },
    cluster_only,
};

/// The package of the program for this machine.
const PACKAGE: &str = "@anthropic-ai/claude-agent-sdk-linux-x64";
/// The version that the engines are held against.
const VERSION: &str = "0.3.329";

/// The program, if it is asked for.
fn program() -> Option<&'static Path> {
    if std::env::var_os("ERRAND_COMPAT").is_none() {
        // Past the test runner's capture: a suite that is skipped must not look like one that was run.
        use std::io::Write;
        static TOLD: std::sync::Once = std::sync::Once::new();
        TOLD.call_once(|| {
            let words = "\nSKIPPED: nothing here was run with the real Claude Code; set ERRAND_COMPAT=1 to install and run it\n";
            std::io::stderr().write_all(words.as_bytes()).ok();
        });
        return None;
    }
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    Some(PROGRAM.get_or_init(|| install(Path::new(env!("CARGO_TARGET_TMPDIR")))))
}

async fn world() -> Option<World> {
    Some(World::new(program()?, Path::new(env!("CARGO_BIN_EXE_errand-under-test"))).await)
}

/// Installs the program below `folder`, unless it is there.
fn install(folder: &Path) -> PathBuf {
    let home = folder.join(format!("claude-code-{VERSION}"));
    let program = home.join("node_modules").join(PACKAGE).join("claude");
    if !program.exists() {
        std::fs::create_dir_all(&home).expect("a folder");
        let wanted = format!("{PACKAGE}@{VERSION}");
        let npm = Command::new("npm")
            .args(["install", "--no-save", "--no-audit", "--no-fund", "--prefix"])
            .arg(&home)
            .arg(&wanted)
            .output()
            .expect("npm is needed to install Claude Code");
        assert!(npm.status.success(), "npm install {wanted}: {}", String::from_utf8_lossy(&npm.stderr));
    }
    program
}

errand_tests::claude_cases!(super::world);

// Whole fleets: two apis and two workers.
cluster_only! {
    async fn tasks_of_a_session_run_on_the_sdk_engine(setup: Setup) {
        if let Some(program) = program() {
            fleet::tasks_of_a_session_run(setup, program, Kind::Sdk).await;
        }
    }

    async fn tasks_of_a_session_run_on_the_cli_engine(setup: Setup) {
        if let Some(program) = program() {
            fleet::tasks_of_a_session_run(setup, program, Kind::Cli).await;
        }
    }

    async fn a_killed_turn_goes_on_with_the_other_worker_on_the_sdk_engine(setup: Setup) {
        if let Some(program) = program() {
            fleet::a_killed_turn_goes_on_with_the_other_worker(setup, program, Kind::Sdk).await;
        }
    }

    async fn a_killed_turn_goes_on_with_the_other_worker_on_the_cli_engine(setup: Setup) {
        if let Some(program) = program() {
            fleet::a_killed_turn_goes_on_with_the_other_worker(setup, program, Kind::Cli).await;
        }
    }

    async fn a_cancelled_turn_leaves_nothing_but_what_it_said_on_the_sdk_engine(setup: Setup) {
        if let Some(program) = program() {
            fleet::a_cancelled_turn_leaves_nothing_but_what_it_said(setup, program, Kind::Sdk).await;
        }
    }

    async fn a_cancelled_turn_leaves_nothing_but_what_it_said_on_the_cli_engine(setup: Setup) {
        if let Some(program) = program() {
            fleet::a_cancelled_turn_leaves_nothing_but_what_it_said(setup, program, Kind::Cli).await;
        }
    }

    async fn a_cancelled_tool_is_gone_on_the_sdk_engine(setup: Setup) {
        if let Some(program) = program() {
            fleet::a_cancelled_tool_is_gone(setup, program, Kind::Sdk).await;
        }
    }

    async fn a_cancelled_tool_is_gone_on_the_cli_engine(setup: Setup) {
        if let Some(program) = program() {
            fleet::a_cancelled_tool_is_gone(setup, program, Kind::Cli).await;
        }
    }

    async fn an_approval_through_another_api_reaches_the_warm_process(setup: Setup) {
        if let Some(program) = program() {
            fleet::an_approval_through_another_api_reaches_the_warm_process(setup, program).await;
        }
    }

    async fn a_parked_task_whose_worker_is_killed_goes_on_with_the_other(setup: Setup) {
        if let Some(program) = program() {
            fleet::a_parked_task_whose_worker_is_killed_goes_on_with_the_other(setup, program).await;
        }
    }

    async fn a_warm_task_whose_worker_is_killed_finds_its_decision(setup: Setup) {
        if let Some(program) = program() {
            fleet::a_warm_task_whose_worker_is_killed_finds_its_decision(setup, program).await;
        }
    }
}
