//! Messages to the agents of a gateway: over the one connection that a worker keeps, and over a connection for each call.
//!
//! Both clients are ours, so that only the connections differ, and both speak to the same kind of fake gateway.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use clap::Args;
use errand_common::config::{Config, Secret};
use errand_tests::fake_gateway::{FakeGateway, Options as FakeOptions};
use errand_worker::gateway::{Access, DevicesInMemory, Gateway, Gateways, Message, Settings, Target};
use futures::{TryStreamExt, stream};
use tokio::time::Instant;
use uuid::Uuid;

use crate::report::Report;

/// Bounds one message.
const LIMIT: Duration = Duration::from_secs(60);
/// How many times as fast one connection is, at least.
const RATIO: f64 = 2.0;

/// What is measured.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Messages, each with the call that ensures its session
    #[arg(long, default_value_t = 1_000)]
    messages: usize,
    /// Sessions that they go to
    #[arg(long, default_value_t = 100)]
    sessions: usize,
    /// Messages on their way at once
    #[arg(long, default_value_t = 32)]
    at_once: usize,
}

/// One way of calling, measured.
struct Measured {
    seconds: f64,
    connections: usize,
    said: usize,
}

/// Measures both ways, one after the other.
///
/// # Errors
/// If a message is not delivered.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let pooled = measure(options, Way::Pooled).await?;
    let connecting = measure(options, Way::ConnectionPerCall).await?;
    let ratio = connecting.seconds / pooled.seconds;
    #[expect(clippy::cast_precision_loss, reason = "far fewer than a float counts exactly")]
    let rate = |measured: &Measured| options.messages as f64 / measured.seconds;
    let wrong: Vec<String> = [&pooled, &connecting]
        .iter()
        .filter(|measured| measured.said != options.messages)
        .map(|measured| format!("{} in the histories", measured.said))
        .collect();
    let several = if pooled.connections == 1 { vec![] } else { vec![pooled.connections] };
    Ok(Report::new(format!("gateway: {} messages to {} sessions", options.messages, options.sessions))
        .figure("over one connection", rate(&pooled), "messages/s")
        .count("connections opened", pooled.connections)
        .figure("with a connection for each call", rate(&connecting), "messages/s")
        .count("connections opened", connecting.connections)
        .figure("one connection by many", ratio, "times")
        .promise("each message once", &wrong)
        .promise("one connection", &several)
        .at_most(format!("at least {RATIO} times as fast"), RATIO / ratio, 1.0))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Pooled,
    ConnectionPerCall,
}

async fn measure(options: &Options, way: Way) -> Result<Measured> {
    let fake_options = FakeOptions { turn: Duration::from_millis(1), ..FakeOptions::default() };
    let token = fake_options.token.clone().map(Secret::new);
    let fake = FakeGateway::with(fake_options).await;
    let target = Target::new(Uuid::nil(), &fake.url(), token, Access::Device, false)?;
    let devices = Arc::new(DevicesInMemory::default());
    let mut config = Config::default();
    config.outbound.allow = vec!["127.0.0.0/8".parse()?];
    let pool = || Gateways::new(Settings::new(&config), devices.clone());
    let shared = pool();
    let started = Instant::now();
    stream::iter((0..options.messages).map(Ok))
        .try_for_each_concurrent(options.at_once, |number| {
            let (shared, pool, target) = (&shared, &pool, &target);
            async move {
                let session = format!("agent:main:{}", number % options.sessions);
                match way {
                    Way::Pooled => {
                        let gateway = shared.gateway(target)?;
                        ensure(&gateway, &session).await?;
                        send(&gateway, &session, number).await
                    }
                    Way::ConnectionPerCall => {
                        let (first, second) = (pool(), pool());
                        ensure(&first.gateway(target)?, &session).await?;
                        first.close().await;
                        send(&second.gateway(target)?, &session, number).await?;
                        second.close().await;
                        Ok(())
                    }
                }
            }
        })
        .await?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(Measured { seconds, connections: fake.connections(), said: fake.said_in_all() })
}

async fn ensure(gateway: &Gateway, session: &str) -> Result<()> {
    gateway.ensure_session(session, Some(session)).await?;
    Ok(())
}

async fn send(gateway: &Gateway, session: &str, number: usize) -> Result<()> {
    let key = number.to_string();
    let message =
        Message { text: "a nudge", key: &key, deliver: true, timeout: None, commands: false, in_doubt: false };
    let turn = gateway.turn(session).await;
    turn.deliver(&message, Instant::now() + LIMIT).await.map_err(|why| anyhow!("{key}: {why}"))?;
    Ok(())
}
