//! Errand against a real gateway, with a model's server of ours: `ERRAND_COMPAT=1` runs it.
//!
//! The gateway is installed from its package into the build's directory; nothing of it is kept here. One gateway serves all
//! steps of a test, since it takes half a minute to start.
//!
//! * `client`: the client of gateways alone. `fleet`: operations from the API to the agent, and what may die in between.

mod client;
mod fleet;

use std::{path::Path, sync::Arc, time::Duration};

use errand_common::config::{Config, Secret};
use errand_tests::{
    fake_openai::FakeOpenAi,
    real_gateway::{Programs, RealGateway},
};
use errand_worker::gateway::{Access, DevicesInMemory, Gateways, Settings, Target};
use uuid::Uuid;

/// A gateway takes half a minute to start on a quiet machine, and a few starts are tried.
const LIMIT: Duration = Duration::from_secs(2_400);

/// Whether to run; says so if not, past the test runner's capture.
fn wanted() -> bool {
    let wanted = std::env::var_os("ERRAND_COMPAT").is_some();
    if !wanted {
        use std::io::Write;
        static TOLD: std::sync::Once = std::sync::Once::new();
        TOLD.call_once(|| {
            let words =
                "\nSKIPPED: nothing here was run with a real gateway; set ERRAND_COMPAT=1 to install and run it\n";
            std::io::stderr().write_all(words.as_bytes()).ok();
        });
    }
    wanted
}

async fn start(model: &FakeOpenAi, approves: bool) -> RealGateway {
    let programs = Programs::install(Path::new(env!("CARGO_TARGET_TMPDIR")));
    RealGateway::start(programs, &model.base_url(), approves).await
}

/// A worker's pool; each has the same device if it is given the same store.
fn pool(devices: &Arc<DevicesInMemory>) -> Gateways {
    let mut config = Config::default();
    config.outbound.allow = vec!["127.0.0.0/8".parse().expect("a network")];
    config.gateways.reconnect_max_ms = 1_000;
    config.gateways.refused_seconds = 1;
    Gateways::new(Settings::new(&config), devices.clone())
}

fn target(url: &str, token: Option<&str>) -> Target {
    let token = token.map(|token| Secret::new(token.to_owned()));
    Target::new(Uuid::nil(), url, token, Access::Device, false).expect("a gateway's URL")
}
