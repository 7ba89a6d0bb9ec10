//! One process of a fleet, in a directory of its own, with its own links to the servers.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::Blueprint;
use crate::{
    chaos::history::Micros,
    port,
    proxy::{Mode, Proxy},
    watchdog::Watchdog,
};

/// What a process of the fleet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// `errand api`
    Api,
    /// `errand worker`
    Worker,
}

/// A server that processes reach through links of their own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Service {
    /// The database.
    Postgres,
    /// The index.
    Redis,
}

/// One process of the fleet, over all its lives.
#[derive(Debug)]
pub struct Member {
    role: Role,
    name: String,
    program: PathBuf,
    directory: PathBuf,
    /// Where it serves: an api its routes, a worker its metrics.
    address: SocketAddr,
    postgres: Proxy,
    redis: Proxy,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: Option<Running>,
    /// It is to run: if it has ended by itself, it is started again.
    wanted: bool,
    lives: u32,
    ended_by_itself: u32,
}

#[derive(Debug)]
struct Running {
    child: Child,
    _watchdog: Watchdog,
}

/// Whatever takes its place, it is gone before: two faults may hit one process at the same time.
impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A SIGKILL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kill {
    /// The worker, as it called itself in that life; `None`: it had not told yet.
    pub worker: Option<Uuid>,
    /// When.
    pub at: Micros,
}

/// Longest wait for a process that was asked to stop.
const STOP: Duration = Duration::from_secs(30);

/// How soon a process that has ended by itself is started again.
const SUPERVISION: Duration = Duration::from_millis(300);

impl Member {
    /// Prepares a process; it does not run yet.
    pub(super) async fn new(role: Role, number: usize, blueprint: &Blueprint) -> Result<Self> {
        let name = match role {
            Role::Api => format!("api-{number}"),
            Role::Worker => format!("worker-{number}"),
        };
        let directory = blueprint.directory.join(&name);
        fs::create_dir_all(&directory)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port::free()?));
        let postgres = Proxy::start(blueprint.postgres).await?;
        let redis = Proxy::start(blueprint.redis).await?;
        let section = match role {
            Role::Api => "server",
            Role::Worker => "metrics",
        };
        let text = format!(
            "[{section}]\nlisten = \"{address}\"\n\n\
             [database]\nurl = \"postgres://errand@{}/{}\"\nmax_connections = 8\nacquire_timeout_seconds = 3\n\n\
             [redis]\nurl = \"redis://{}\"\n\n{}",
            postgres.address(),
            blueprint.database,
            redis.address(),
            blueprint.settings,
        );
        fs::write(directory.join("errand.toml"), text)?;
        Ok(Self {
            role,
            name,
            program: blueprint.program.clone(),
            directory,
            address,
            postgres,
            redis,
            state: Mutex::default(),
        })
    }

    /// What it is.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it serves, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what its link to a server does.
    pub fn link(&self, service: Service, mode: Mode) {
        match service {
            Service::Postgres => self.postgres.set(mode),
            Service::Redis => self.redis.set(mode),
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// If the system can't.
    pub fn start(&self) -> io::Result<()> {
        let mut state = self.state();
        state.wanted = true;
        self.spawn(&mut state)
    }

    fn spawn(&self, state: &mut State) -> io::Result<()> {
        state.lives += 1;
        let log = fs::File::create(self.log_file(state.lives))?;
        let mut command = Command::new(&self.program);
        let role = match self.role {
            Role::Api => "api",
            Role::Worker => "worker",
        };
        command.arg(role).current_dir(&self.directory).env_clear();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        // The one before it frees its port first.
        state.running = None;
        let child = command.spawn()?;
        let watchdog = Watchdog::over(child.id(), "KILL", None)?;
        state.running = Some(Running { child, _watchdog: watchdog });
        Ok(())
    }

    /// Starts it again if it has ended though nobody asked it to, as whoever runs a fleet would.
    ///
    /// # Errors
    /// If the system can't.
    pub fn supervise(&self) -> io::Result<()> {
        let mut state = self.state();
        let ended = match &mut state.running {
            Some(running) => running.child.try_wait()?.is_some(),
            None => false,
        };
        if !(state.wanted && ended) {
            return Ok(());
        }
        state.ended_by_itself += 1;
        self.spawn(&mut state)
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// If the system can't.
    pub fn kill(&self) -> io::Result<Kill> {
        let worker = self.worker_id();
        let mut state = self.state();
        state.wanted = false;
        let at = chrono::Utc::now().timestamp_micros();
        state.running = None;
        Ok(Kill { worker, at })
    }

    /// SIGTERM, and waits until it has ended.
    ///
    /// # Errors
    /// If it doesn't in time, or not with success.
    pub async fn stop(&self) -> Result<()> {
        self.state().wanted = false;
        self.signal(Signal::TERM);
        let asked = Instant::now();
        loop {
            let ended = match &mut self.state().running {
                Some(running) => running.child.try_wait()?,
                None => return Ok(()),
            };
            if let Some(status) = ended {
                self.state().running = None;
                ensure!(status.success(), "{} ended with {status} when it was asked to stop", self.name);
                return Ok(());
            }
            if asked.elapsed() > STOP {
                self.kill()?;
                anyhow::bail!("{} did not stop within {STOP:?} and was killed", self.name);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a signal, if it runs.
    pub fn signal(&self, signal: Signal) {
        let pid = self.state().running.as_ref().and_then(|running| i32::try_from(running.child.id()).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // It may just have ended.
            let _ = kill_process(pid, signal);
        }
    }

    /// Whether it says that it is ready.
    pub async fn is_ready(&self, http: &reqwest::Client) -> bool {
        let request = http.get(format!("{}/readyz", self.url())).timeout(Duration::from_secs(2));
        request.send().await.is_ok_and(|answer| answer.status() == 200)
    }

    /// What it counts by now, as `/metrics` has it; `None`: it doesn't answer.
    pub async fn metrics(&self, http: &reqwest::Client) -> Option<String> {
        let request = http.get(format!("{}/metrics", self.url())).timeout(Duration::from_millis(500));
        request.send().await.ok()?.error_for_status().ok()?.text().await.ok()
    }

    /// Its life: 1 after the first start.
    #[must_use]
    pub fn life(&self) -> u32 {
        self.state().lives
    }

    /// How often it has ended though nobody asked it to.
    #[must_use]
    pub fn ended_by_itself(&self) -> u32 {
        self.state().ended_by_itself
    }

    /// What it wrote in all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        (1..=self.life()).filter_map(|life| fs::read_to_string(self.log_file(life)).ok()).collect()
    }

    /// The random name that a worker gave itself in its present life; `None`: it has not told yet.
    #[must_use]
    pub fn worker_id(&self) -> Option<Uuid> {
        const MARK: &str = "worker_id=";
        let log = fs::read_to_string(self.log_file(self.life())).ok()?;
        let line = log.lines().find(|line| line.contains("worker starts"))?;
        let start = line.find(MARK)? + MARK.len();
        line.get(start..start + Uuid::nil().to_string().len())?.parse().ok()
    }

    fn log_file(&self, life: u32) -> PathBuf {
        self.directory.join(format!("log-{life}"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Keeps processes running that should be.
pub async fn supervise(members: &[Arc<Member>]) {
    loop {
        for member in members {
            if let Err(error) = member.supervise() {
                eprintln!("{} can't be started: {error}", member.name());
            }
        }
        sleep(SUPERVISION).await;
    }
}

/// Runs `errand migrate` on the database.
///
/// # Errors
/// If it fails.
pub fn migrate(program: &Path, database_url: &str) -> Result<()> {
    let output = Command::new(program)
        .arg("migrate")
        .env("ERRAND_DATABASE_URL", database_url)
        .output()
        .with_context(|| format!("{} did not start", program.display()))?;
    ensure!(output.status.success(), "errand migrate failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
