//! The client of gateways, on real sockets, against the fake gateway and all of its misbehaviour.

mod connect;
mod message;
mod request;
mod watch;

use std::{sync::Arc, time::Duration};

use errand_common::config::{self, Config, Secret};
use errand_tests::fake_gateway::{FakeGateway, Options};
use errand_worker::gateway::{Access, DevicesInMemory, Gateway, Gateways, Settings, Target};
use tokio::time::Instant;
use uuid::Uuid;

/// How long a request waits for its answer in these tests, in seconds: long enough for a loaded machine, short enough to be
/// waited out.
const LIMIT: u64 = 2;

/// Settings for loopback, with short limits.
fn settings(change: impl FnOnce(&mut config::Gateways)) -> Settings {
    let mut config = Config::default();
    config.outbound.allow = vec!["127.0.0.0/8".parse().expect("a network")];
    config.gateways.request_timeout_seconds = 2;
    config.gateways.handshake_timeout_seconds = 2;
    config.gateways.reconnect_max_ms = 50;
    change(&mut config.gateways);
    Settings::new(&config)
}

/// A worker's pool beside one fake.
struct World {
    fake: FakeGateway,
    devices: Arc<DevicesInMemory>,
    pool: Gateways,
    id: Uuid,
}

impl World {
    async fn new() -> Self {
        Self::with(Options::default(), |_| {}).await
    }

    async fn with(options: Options, change: impl FnOnce(&mut config::Gateways)) -> Self {
        let fake = FakeGateway::with(options).await;
        let devices = Arc::new(DevicesInMemory::default());
        let pool = Gateways::new(settings(change), devices.clone());
        Self { fake, devices, pool, id: Uuid::now_v7() }
    }

    fn target(&self, token: Option<&str>, access: Access) -> Target {
        let token = token.map(|token| Secret::new(token.to_owned()));
        Target::new(self.id, &self.fake.url(), token, access, false).expect("a gateway's URL")
    }

    /// With the right token, as a device.
    fn gateway(&self) -> Gateway {
        let token = Options::default().token;
        self.pool.gateway(&self.target(token.as_deref(), Access::Device)).expect("room")
    }

    /// Another worker of the same installation.
    fn another_worker(&self, change: impl FnOnce(&mut config::Gateways)) -> Gateways {
        Gateways::new(settings(change), self.devices.clone())
    }
}

fn soon(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}
