//! One process of the program under test, and its lives.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Client, wait, watchdog::Watchdog};

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Everything.
    Dev,
    /// The API of a cluster.
    Api,
    /// A worker of a cluster.
    Worker,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Api => "api",
            Self::Worker => "worker",
        }
    }
}

/// A process that can be started again after it has ended.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) role: Role,
    pub(crate) number: usize,
    arguments: Vec<String>,
    directory: PathBuf,
    runs: usize,
    running: Option<Running>,
    url: Option<String>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    _watchdog: Watchdog,
}

impl Server {
    /// The `number`th of its role, with arguments of its own and its logs in `directory`. Not started yet.
    pub(crate) fn new(role: Role, number: usize, arguments: &[String], directory: &Path) -> Self {
        Self {
            role,
            number,
            arguments: arguments.to_vec(),
            directory: directory.to_owned(),
            runs: 0,
            running: None,
            url: None,
        }
    }

    pub(crate) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Where it answers: a worker only about itself. No slash at the end.
    pub(crate) fn url(&self) -> &str {
        self.url.as_deref().expect("it was started")
    }

    /// Starts it, at `address` or where it likes; `command` holds all that is not the role's own.
    pub(crate) fn start(&mut self, mut command: Command, address: Option<&str>) {
        assert!(self.running.is_none(), "{} runs; stop it before it is started again", self.name());
        self.runs += 1;
        self.url = None;
        let address = address.unwrap_or("127.0.0.1:0");
        command.arg(self.role.name()).args(&self.arguments);
        match self.role {
            Role::Dev => command.args(["--listen", address, "--data-dir"]).arg(self.data_dir()),
            Role::Api => command.args(["--listen", address]),
            Role::Worker => command.env("ERRAND_METRICS__LISTEN", address),
        };
        let create = |file: PathBuf| fs::File::create(file).expect("a log file");
        command.stdin(Stdio::null()).stdout(create(self.output_file())).stderr(create(self.log_file(self.runs)));
        let child = command.spawn().expect("the program starts");
        let watchdog = Watchdog::over(child.id(), "KILL", None).expect("a watchdog");
        self.running = Some(Running { child, _watchdog: watchdog });
    }

    /// Waits until it says that it is ready.
    ///
    /// # Panics
    /// If it doesn't in time; the message holds the end of its log.
    pub(crate) async fn wait_until_ready(&mut self) {
        let started = Instant::now();
        loop {
            if self.url.is_none() {
                self.url = self.printed_url();
            }
            if let Some(url) = &self.url {
                let ready = Client::new(url, "").get_root("/readyz").await;
                if ready.is_some_and(|answer| answer.status == 200) {
                    return;
                }
            }
            let exited = self.running.as_mut().and_then(|running| running.child.try_wait().ok().flatten());
            assert!(exited.is_none(), "{} ended at once ({exited:?}); its log:\n{}", self.name(), self.log());
            assert!(started.elapsed() < wait::PATIENCE, "{} is not ready; its log:\n{}", self.name(), self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `dev` prints it for people, the roles of a cluster say it in their log.
    fn printed_url(&self) -> Option<String> {
        const SCHEME: &str = "http://";
        let file = if self.role == Role::Dev { self.output_file() } else { self.log_file(self.runs) };
        let output = fs::read_to_string(file).ok()?;
        let start = output.find("http://127.0.0.1:")?;
        let address: String = output[start + SCHEME.len()..]
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == '.' || *c == ':')
            .collect();
        // The line may be half written.
        output[start..].contains('\n').then(|| format!("{SCHEME}{address}"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().expect("it runs").child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the signal is sent");
    }

    /// Kills it without a word.
    pub(crate) fn kill9(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.child.kill().expect("kill");
        running.child.wait().expect("wait");
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// If it doesn't in time.
    pub(crate) async fn wait_for_exit(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("it runs");
        let started = Instant::now();
        loop {
            if let Some(status) = running.child.try_wait().expect("wait") {
                return status;
            }
            if started.elapsed() > wait::PATIENCE {
                let _ = running.child.kill();
                let _ = running.child.wait();
                panic!("{} did not stop within {:?}; its log:\n{}", self.name(), wait::PATIENCE, self.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Where `dev` keeps its data.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// What its current run printed for people.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.output_file()).unwrap_or_default()
    }

    /// Its log, of all runs.
    pub(crate) fn log(&self) -> String {
        (1..=self.runs).filter_map(|run| fs::read_to_string(self.log_file(run)).ok()).collect()
    }

    /// `worker-0`
    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.role.name(), self.number)
    }

    fn output_file(&self) -> PathBuf {
        self.directory.join(format!("{}-stdout-{}", self.name(), self.runs))
    }

    fn log_file(&self, run: usize) -> PathBuf {
        self.directory.join(format!("{}-log-{run}", self.name()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}
