//! What one connection for all messages saves, beside a client that connects for each request.
//!
//! Both speak to the same fake gateway, one after the other in one run, with the same greeting, device and requests a nudge:
//! the session, then the message.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use errand_common::config::{Config, Secret};
use errand_tests::fake_gateway::{FakeGateway, Options as Gateway};
use errand_worker::gateway::{Access, DevicesInMemory, Gateways, Message, Settings, Target};
use futures::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use crate::report::Report;

/// How long a message may take.
const LIMIT: Duration = Duration::from_secs(30);

/// What is measured.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Nudges, each way
    #[arg(long, default_value_t = 1_000)]
    nudges: usize,
    /// Sessions they go to
    #[arg(long, default_value_t = 100)]
    sessions: usize,
    /// Nudges at once
    #[arg(long, default_value_t = 16)]
    at_once: usize,
}

/// The clients' common part.
struct World {
    fake: FakeGateway,
    target: Target,
    devices: Arc<DevicesInMemory>,
    settings: Settings,
}

/// # Errors
/// If a nudge does not arrive, or not once.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let gateway = Gateway { turn: Duration::ZERO, ..Gateway::default() };
    let token = gateway.token.clone().map(Secret::new);
    let fake = FakeGateway::with(gateway).await;
    let mut config = Config::default();
    config.outbound.allow = vec!["127.0.0.0/8".parse()?];
    let target = Target::new(Uuid::now_v7(), &fake.url(), token, Access::Device, false)?;
    let world = World { fake, target, devices: Arc::default(), settings: Settings::new(&config) };

    // The device is made and paired before either begins.
    world.pool().gateway(&world.target)?.status().await?;
    let (each, each_connections) = world.measure(options, "each", false).await?;
    let (pooled, pooled_connections) = world.measure(options, "pooled", true).await?;
    let ratio = each.as_secs_f64() / pooled.as_secs_f64().max(f64::EPSILON);
    Ok(Report::new(format!("nudge: {} nudges, {} at once", options.nudges, options.at_once))
        .figure("a connection for each request", each.as_secs_f64(), "s")
        .count("connections it opened", each_connections)
        .figure("one connection for all", pooled.as_secs_f64(), "s")
        .count("connections that opened", pooled_connections)
        .figure("a connection for each request takes longer", ratio, "times")
        .promise(
            "one connection is opened",
            &[pooled_connections].into_iter().filter(|opened| *opened != 1).collect::<Vec<_>>(),
        ))
}

impl World {
    fn pool(&self) -> Gateways {
        Gateways::new(self.settings.clone(), self.devices.clone())
    }

    /// How long all of them took, and how many connections they opened.
    async fn measure(&self, options: &Options, name: &str, is_pooled: bool) -> Result<(Duration, usize)> {
        let (connections, said) = (self.fake.connections(), self.fake.said_in_all());
        let shared = self.pool();
        let started = Instant::now();
        stream::iter(0..options.nudges)
            .map(|number| {
                let session = format!("agent:main:{}", number % options.sessions.max(1));
                let key = format!("{name}-{number}");
                let shared = is_pooled.then_some(&shared);
                async move { self.nudge(shared, &session, &key).await }
            })
            .buffer_unordered(options.at_once.max(1))
            .try_collect::<()>()
            .await?;
        let took = started.elapsed();
        let arrived = self.fake.said_in_all() - said;
        ensure!(arrived == options.nudges, "{arrived} of {} nudges arrived", options.nudges);
        Ok((took, self.fake.connections() - connections))
    }

    async fn nudge(&self, shared: Option<&Gateways>, session: &str, key: &str) -> Result<()> {
        match shared {
            Some(pool) => {
                let gateway = pool.gateway(&self.target)?;
                gateway.ensure_session(session, None).await?;
                say(&gateway, session, key).await
            }
            None => {
                let pool = self.pool();
                pool.gateway(&self.target)?.ensure_session(session, None).await?;
                pool.close().await;
                let pool = self.pool();
                say(&pool.gateway(&self.target)?, session, key).await?;
                pool.close().await;
                Ok(())
            }
        }
    }
}

async fn say(gateway: &errand_worker::gateway::Gateway, session: &str, key: &str) -> Result<()> {
    let message =
        Message { text: "are you there?", key, deliver: true, timeout: None, commands: false, in_doubt: false };
    let turn = gateway.turn(session).await;
    turn.deliver(&message, tokio::time::Instant::now() + LIMIT).await?;
    Ok(())
}
