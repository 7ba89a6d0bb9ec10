//! A private Redis for each test process, and servers of one's own for tests that hurt them.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::OnceCell,
};

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

    /// Boots a server with arguments of its own beside those of all.
    ///
    /// # Errors
    /// If its program is missing or fails.
    pub async fn boot_with(arguments: &[&str]) -> Result<Self> {
        let mut redis = Self {
            port: free_port()?,
            directory: tempfile::Builder::new().prefix("errand-redis-").tempdir()?,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            running: None,
        };
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

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
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
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(&self.arguments)
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
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let mut request = format!("*{}\r\n", command.len());
        for word in command {
            request += &format!("${}\r\n{word}\r\n", word.len());
        }
        request += "*1\r\n$4\r\nQUIT\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await??;
    let answer = answer.strip_suffix("+OK\r\n").unwrap_or(&answer);
    ensure!(!answer.starts_with('-'), "{command:?}: {answer}");
    Ok(answer.to_owned())
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
