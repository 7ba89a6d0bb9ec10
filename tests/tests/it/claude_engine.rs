//! The engines that run Claude Code, with a program that stands in for it.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use errand_common::domain::FailureClass;
use errand_tests::{
    claude::world::{Kind, Run, World, allowing, turn},
    run::run,
};

const GUARD: &str = env!("CARGO_BIN_EXE_errand-under-test");

async fn world() -> Option<World> {
    Some(World::new(Path::new(env!("CARGO_BIN_EXE_fake-claude")), Path::new(GUARD)).await)
}

errand_tests::claude_cases!(super::world);

#[test]
fn a_program_that_closes_its_output_and_stays_is_ended() {
    run(async {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("stays");
        let script = "#!/bin/sh\ntrap '' TERM\nexec >&-\nwhile :; do sleep 1; done\n";
        fs::write(&program, script).expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
        let world = World::new(&program, Path::new(GUARD)).await;
        let ended = Run::start(world.engine(Kind::Cli, "a"), turn("hello"), allowing()).ended().await;
        let failure = ended.end.expect_err("it said nothing");
        assert_eq!(failure.class, FailureClass::Crash, "{failure}");
    });
}
