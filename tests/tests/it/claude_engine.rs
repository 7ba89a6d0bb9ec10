//! The engines that run Claude Code, with a program that stands in for it.

use std::path::Path;

use errand_tests::claude::world::World;

async fn world() -> Option<World> {
    let (program, guard) = (env!("CARGO_BIN_EXE_fake-claude"), env!("CARGO_BIN_EXE_errand-under-test"));
    Some(World::new(Path::new(program), Path::new(guard)).await)
}

errand_tests::claude_cases!(super::world);
