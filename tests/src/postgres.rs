//! One private PostgreSQL for each test process, and one database for each test.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::OnceCell;

use crate::{port, watchdog::Watchdog};

/// What a server promises about power cuts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// None: a test's data may be lost with the machine, and commits are quick.
    Volatile,
    /// A commit survives a crash of the server, but not of the machine: it has been handed to the kernel.
    Crashes,
    /// As shipped: every commit is on the disk.
    Durable,
}

/// A running server. It ends with this process, even if that is killed.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    durability: Durability,
    directory: PathBuf,
    server: Option<Server>,
}

#[derive(Debug)]
struct Server {
    process: Child,
    _watchdog: Watchdog,
}

/// How a server is stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// Sessions are ended, the log is closed.
    Fast,
    /// At once: the next start recovers from the log, as after a crash.
    Immediate,
}

/// How long the server may take to accept connections.
const BOOT: Duration = Duration::from_secs(60);

impl Postgres {
    /// The server of this test process; booted by whoever asks first.
    ///
    /// # Panics
    /// If it can't be booted; the message says what is missing.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async {
                Self::boot(Durability::Volatile).await.unwrap_or_else(|error| panic!("no PostgreSQL: {error:#}"))
            })
            .await
    }

    /// Boots a server of its own.
    ///
    /// # Errors
    /// If its programs are missing or fail.
    pub async fn boot(durability: Durability) -> Result<Self> {
        let programs = find_programs()?;
        // Not below the build directory: the server's own user must be able to reach it.
        let directory = tempfile::Builder::new().prefix("errand-pg-").tempdir()?.keep();
        let data = directory.join("data");
        if is_root() {
            let owned = Command::new("chown").arg("postgres").arg(&directory).status()?;
            ensure!(owned.success(), "chown {} to the user postgres failed", directory.display());
        }
        let initdb = as_server_user(&programs.join("initdb"))
            .args(["--auth=trust", "--username=errand", "--encoding=UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(&data)
            .current_dir(&directory)
            .output()
            .context("initdb did not start")?;
        ensure!(initdb.status.success(), "initdb failed: {}", String::from_utf8_lossy(&initdb.stderr));

        let mut postgres = Self { port: port::free()?, durability, directory, server: None };
        postgres.start().await?;
        Ok(postgres)
    }

    /// Starts it where it was, and waits until it serves.
    ///
    /// # Errors
    /// If it doesn't.
    pub async fn start(&mut self) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(self.directory.join("log"))?;
        let mut server = as_server_user(&find_programs()?.join("postgres"));
        server.arg("-D").arg(self.directory.join("data")).args(["-p", &self.port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=400"] {
            server.args(["-c", setting]);
        }
        let relaxed: &[&str] = match self.durability {
            Durability::Volatile => &["fsync=off", "synchronous_commit=off", "full_page_writes=off"],
            Durability::Crashes => &["fsync=off"],
            Durability::Durable => &[],
        };
        for setting in relaxed {
            server.args(["-c", setting]);
        }
        let process = server
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("postgres did not start")?;
        let watchdog = Watchdog::over(process.id(), "QUIT", Some(&self.directory))?;
        self.server = Some(Server { process, _watchdog: watchdog });
        self.wait_until_ready().await
    }

    /// Stops it, and waits until it has.
    ///
    /// # Errors
    /// If it doesn't.
    pub async fn stop(&mut self, how: Shutdown) -> Result<()> {
        let Some(mut server) = self.server.take() else { return Ok(()) };
        let signal = match how {
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        };
        signal_to(&server.process, signal);
        let stopped = async {
            while server.process.try_wait()?.is_none() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            std::io::Result::Ok(())
        };
        tokio::time::timeout(BOOT, stopped).await.context("the server did not stop")??;
        Ok(())
    }

    async fn wait_until_ready(&self) -> Result<()> {
        let attempts = async {
            while PgConnection::connect(&self.url("postgres")).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(BOOT, attempts).await.is_err() {
            let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            bail!("the server accepted no connection within {BOOT:?}; its log:\n{log}");
        }
        Ok(())
    }

    /// The port it listens on, after a restart too.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where a database of this server is.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://errand@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes an empty database and says where it is.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn create_database(&self) -> Result<String> {
        let name = format!("t_{}", uuid::Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&self.url("postgres")).await?;
        connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await?;
        connection.close().await?;
        Ok(self.url(&name))
    }
}

impl Drop for Postgres {
    /// The watchdog only acts when the process ends; the shared server lives as long as that.
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            // At once, but by itself: a killed server would leave its shared memory behind.
            signal_to(&server.process, Signal::QUIT);
            let _ = server.process.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn signal_to(process: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(process.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// PostgreSQL refuses to run as root; `setpriv` becomes its user without a process of its own in between.
fn as_server_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
    command
}

/// The directory with `initdb` and `postgres`: in `PATH`, or the newest where distributions put them.
fn find_programs() -> Result<PathBuf> {
    let has_both = |directory: &Path| directory.join("initdb").exists() && directory.join("postgres").exists();
    let path = env::var_os("PATH").unwrap_or_default();
    if let Some(directory) = env::split_paths(&path).find(|directory| has_both(directory)) {
        return Ok(directory);
    }
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            let programs = entry.path().join("bin");
            has_both(&programs).then_some((version, programs))
        })
        .collect();
    versions.sort();
    let Some((_, newest)) = versions.pop() else {
        bail!(
            "initdb and postgres are neither in PATH nor below /usr/lib/postgresql; install the PostgreSQL server \
             (Debian and Ubuntu: apt-get install postgresql)"
        );
    };
    Ok(newest)
}
