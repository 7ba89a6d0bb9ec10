//! A primary, its replica, and three sentinels that put the replica in its place.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio::sync::OnceCell;

use super::{BOOT, Redis};

/// What the sentinels call the primary.
const NAME: &str = "mymaster";

/// See the module.
#[derive(Debug)]
pub struct RedisSentinel {
    /// The primary at first.
    pub primary: Redis,
    /// Its replica at first.
    pub replica: Redis,
    sentinels: Vec<Redis>,
}

impl RedisSentinel {
    /// Those of this test process; booted by whoever asks first.
    ///
    /// # Panics
    /// If they can't be booted; the message says what is missing.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<RedisSentinel> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async { Self::boot().await.unwrap_or_else(|error| panic!("no Redis Sentinel: {error:#}")) })
            .await
    }

    /// Boots all five and waits until they know each other, so that a failover can happen.
    ///
    /// # Errors
    /// If the program is missing, or they don't find each other.
    pub async fn boot() -> Result<Self> {
        let primary = Redis::boot_with(&[]).await?;
        let replica = Redis::boot_with(&[("replicaof", &format!("127.0.0.1 {}", primary.port()))]).await?;
        wait_for("the replica", &replica, &["INFO", "replication"], &["master_link_status:up"]).await?;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let directory = tempfile::Builder::new().prefix("errand-sentinel-").tempdir()?;
            let file = directory.path().join("sentinel.conf");
            let port = primary.port();
            let text = format!(
                "bind 127.0.0.1\nsentinel monitor {NAME} 127.0.0.1 {port} 2\nsentinel down-after-milliseconds {NAME} 1000\n\
                 sentinel failover-timeout {NAME} 5000\n"
            );
            fs::write(&file, text)?;
            sentinels.push(Redis::run(directory, vec![file.display().to_string(), "--sentinel".to_owned()]).await?);
        }
        for sentinel in &sentinels {
            let known = ["slaves=1", "sentinels=3"];
            wait_for("a sentinel", sentinel, &["INFO", "sentinel"], &known).await?;
        }
        Ok(Self { primary, replica, sentinels })
    }

    /// Where it is, as `redis.url` takes it.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
        format!("redis+sentinel://{}/{NAME}", hosts.join(","))
    }

    /// Waits until the replica has all that the primary has by now.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn wait_until_replicated(&self) -> Result<()> {
        let sent = offset(&self.primary.ask(&["INFO", "replication"]).await?, "master_repl_offset:");
        let started = Instant::now();
        while offset(&self.replica.ask(&["INFO", "replication"]).await?, "slave_repl_offset:") < sent {
            ensure!(started.elapsed() < BOOT, "not replicated within {BOOT:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Has the sentinels put the replica in the primary's place while that lives.
    ///
    /// # Errors
    /// If they refuse.
    pub async fn fail_over(&self) -> Result<()> {
        self.sentinels[0].ask(&["SENTINEL", "FAILOVER", NAME]).await.map(drop)
    }
}

async fn wait_for(who: &str, server: &Redis, command: &[&str], expected: &[&str]) -> Result<()> {
    let started = Instant::now();
    loop {
        let answer = server.ask(command).await.unwrap_or_default();
        if expected.iter().all(|text| answer.contains(text)) {
            return Ok(());
        }
        ensure!(started.elapsed() < BOOT, "{who} has not said {expected:?} within {BOOT:?}, but {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn offset(info: &str, field: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix(field))?.trim().parse().ok()
}
