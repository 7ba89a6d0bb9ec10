//! A private Redis for each test process, and servers of one's own for tests that hurt them.

mod cluster;
mod sentinel;

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::OnceCell,
};

pub use cluster::RedisCluster;
pub use sentinel::RedisSentinel;

use crate::watchdog::Watchdog;

/// How long a server may take to answer.
const BOOT: Duration = Duration::from_secs(30);

/// A running server on loopback, without persistence. It ends with this process, even if that is killed.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    directory: tempfile::TempDir,
    arguments: Vec<String>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    server: Child,
    _watchdog: Watchdog,
}

/// Chooses the Redis that fleets share.
const TOPOLOGY: &str = "ERRAND_TEST_REDIS";

/// Where the Redis is that the fleets of this test process share: one server, or what the environment variable
/// `ERRAND_TEST_REDIS` names: `cluster` or `sentinel`.
///
/// # Panics
/// If it can't be booted, or the variable names something else.
pub async fn shared_url() -> String {
    match std::env::var(TOPOLOGY).as_deref() {
        Err(_) | Ok("" | "standalone") => Redis::shared().await.url(),
        Ok("cluster") => RedisCluster::shared().await.url(),
        Ok("sentinel") => RedisSentinel::shared().await.url(),
        Ok(other) => panic!("{TOPOLOGY} is standalone, cluster or sentinel, not {other:?}"),
    }
}

impl Redis {
    /// The server of this test process; booted by whoever asks first. Tests keep apart by [`unique_prefix`].
    ///
    /// # Panics
    /// If it can't be booted; the message says what is missing.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Redis> = OnceCell::const_new();
        SHARED.get_or_init(|| async { Self::boot().await.unwrap_or_else(|error| panic!("no Redis: {error:#}")) }).await
    }

    /// Boots a server of its own.
    ///
    /// # Errors
    /// If its program is missing or fails.
    pub async fn boot() -> Result<Self> {
        Self::boot_with(&[]).await
    }

    /// Boots a server with settings of its own beside those of all.
    async fn boot_with(settings: &[(&str, &str)]) -> Result<Self> {
        let all = [("bind", "127.0.0.1"), ("save", ""), ("appendonly", "no"), ("repl-diskless-sync-delay", "0")];
        let arguments = all.iter().chain(settings).flat_map(|(key, value)| [format!("--{key}"), (*value).to_owned()]);
        let directory = tempfile::Builder::new().prefix("errand-redis-").tempdir()?;
        Self::run(directory, arguments.collect()).await
    }

    /// Runs the program in this directory, with these arguments and a port.
    async fn run(directory: tempfile::TempDir, arguments: Vec<String>) -> Result<Self> {
        let mut redis = Self { port: free_port()?, directory, arguments, running: None };
        redis.start().await?;
        Ok(redis)
    }

    /// Where it is, as `redis.url` takes it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port it listens on, now and after a restart.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Starts it on the same port; nothing if it runs.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub async fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        let log_path = self.directory.path().join("log");
        let log = fs::File::options().create(true).append(true).open(&log_path)?;
        let server = Command::new("redis-server")
            .args(&self.arguments)
            .args(["--port", &self.port.to_string()])
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("redis-server did not start; install it (Debian and Ubuntu: apt-get install redis-server)")?;
        let watchdog = Watchdog::over(server.id(), "KILL", Some(self.directory.path()))?;
        self.running = Some(Running { server, _watchdog: watchdog });
        let started = Instant::now();
        while self.ask(&["PING"]).await.is_err() {
            if started.elapsed() > BOOT {
                let log = fs::read_to_string(log_path).unwrap_or_default();
                bail!("redis-server answered nothing within {BOOT:?}; its log:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// SIGKILL. What it held is lost.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill9(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.server.kill().expect("a child can be killed");
        running.server.wait().expect("a child can be waited for");
    }

    /// SIGKILL, then a new one in its place, empty.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill9();
        self.start().await
    }

    /// Stops it in mid-air: it accepts connections and answers nothing.
    pub fn sigstop(&self) {
        self.signal(Signal::STOP);
    }

    /// Undoes [`Redis::sigstop`].
    pub fn sigcont(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let running = self.running.as_ref().expect("it runs");
        let pid = i32::try_from(running.server.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("a child can be signalled");
    }

    /// Empties all of it.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn flushall(&self) -> Result<()> {
        self.ask(&["FLUSHALL"]).await.map(drop)
    }

    /// Sends one command; the answer as it stands on the wire.
    ///
    /// # Errors
    /// If there is no answer, or an error.
    pub async fn ask(&self, command: &[&str]) -> Result<String> {
        ask(self.port, command).await
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.kill9();
        }
    }
}

/// A `redis.key_prefix` that no other test uses.
#[must_use]
pub fn unique_prefix() -> String {
    format!("t{}", uuid::Uuid::new_v4().simple())
}

/// Sends one command to a server on loopback; the answer as it stands on the wire, errors aside.
async fn ask(port: u16, command: &[&str]) -> Result<String> {
    let exchange = async {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
        let mut request = format!("*{}\r\n", command.len());
        for word in command {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        stream.write_all(request.as_bytes()).await?;
        read_answer(&mut stream).await
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await??;
    ensure!(!answer.starts_with('-'), "{command:?}: {answer}");
    Ok(answer)
}

/// Lines, of which some say how many more, or how many bytes, belong to them.
async fn read_answer(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut answer = Vec::new();
    let mut open = 1_u64;
    while open > 0 {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line).await? > 0, "the server closed the connection");
        let size = line.trim_end().get(1..).and_then(|digits| digits.parse::<u64>().ok());
        answer.extend_from_slice(line.as_bytes());
        open -= 1;
        match (line.as_bytes()[0], size) {
            (b'*', Some(parts)) => open += parts,
            (b'$', Some(bytes)) => {
                (&mut *stream).take(bytes + 2).read_to_end(&mut answer).await?;
            }
            _ => {}
        }
    }
    Ok(String::from_utf8(answer)?)
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
