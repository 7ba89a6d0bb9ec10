//! One running Errand: the real program, in a directory of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    Client, Setup, Store,
    postgres::Postgres,
    wait::{self, bounded},
    watchdog::Watchdog,
};

/// Variables of ours that the program is given; everything else is cleared, as on a fresh machine.
const KEPT_VARIABLES: &[&str] = &["PATH"];

/// How much of a log a failure shows.
const TAIL_LINES: usize = 60;

/// A running Errand. Ends with [`Errand::finish`].
#[derive(Debug)]
pub struct Errand {
    setup: Setup,
    directory: TempDir,
    runs: usize,
    server: Option<Server>,
    client: Option<Client>,
    expected_errors: Vec<String>,
    finished: bool,
}

#[derive(Debug)]
struct Server {
    child: Child,
    _watchdog: Watchdog,
}

impl Errand {
    /// Starts the program and waits until it serves.
    ///
    /// # Panics
    /// If it doesn't in time; the message holds the end of its log.
    pub async fn start(mut setup: Setup) -> Self {
        if setup.store() == Store::Postgres && setup.database_url.is_none() {
            let url = Postgres::shared().await.create_database().await.expect("a database for the test");
            setup = setup.on_database(url);
        }
        let directory = tempfile::Builder::new().prefix("errand-test-").tempdir().expect("a directory for the test");
        setup.write(&directory.path().join("errand.toml")).expect("errand.toml");
        let mut errand = Self {
            setup,
            directory,
            runs: 0,
            server: None,
            client: None,
            expected_errors: Vec::new(),
            finished: false,
        };
        errand.launch("127.0.0.1:0").await;
        errand
    }

    /// Starts it again on its data, on a new port.
    pub async fn restart(&mut self) {
        assert!(self.server.is_none(), "stop it before it is started again");
        self.launch("127.0.0.1:0").await;
    }

    /// Starts it again on its data, where it listened before.
    pub async fn restart_in_place(&mut self) {
        assert!(self.server.is_none(), "stop it before it is started again");
        let address = self.url().trim_start_matches("http://").to_owned();
        self.launch(&address).await;
    }

    async fn launch(&mut self, listen: &str) {
        self.runs += 1;
        let create = |file: PathBuf| fs::File::create(file).expect("a log file");
        let mut command = self.command();
        command
            .args(["dev", "--listen", listen, "--data-dir"])
            .arg(self.data_dir())
            .stdin(Stdio::null())
            .stdout(create(self.output_file()))
            .stderr(create(self.log_file(self.runs)));
        if let Some(url) = &self.setup.database_url {
            command.env("ERRAND_DATABASE_URL", url);
        }
        let child = command.spawn().expect("the program starts");
        let watchdog = Watchdog::over(child.id(), "KILL", None).expect("a watchdog");
        self.server = Some(Server { child, _watchdog: watchdog });

        let started = Instant::now();
        let url = loop {
            if let Some(url) = self.printed_url() {
                break url;
            }
            let exited = self.server.as_mut().and_then(|server| server.child.try_wait().ok().flatten());
            assert!(exited.is_none(), "the program ended at once ({exited:?}); its log:\n{}", self.log_tail());
            assert!(started.elapsed() < wait::PATIENCE, "no URL was printed; the log:\n{}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let key = fs::read_to_string(self.data_dir().join("key")).expect("the key in the data directory");
        let client = Client::new(&url, key.trim());
        wait::until("it is ready", || async {
            client.get_root("/readyz").await.is_some_and(|answer| answer.status == 200).then_some(())
        })
        .await;
        self.client = Some(client);
    }

    fn printed_url(&self) -> Option<String> {
        const SCHEME: &str = "http://";
        let output = fs::read_to_string(self.output_file()).ok()?;
        let start = output.find("http://127.0.0.1:")?;
        let address: String = output[start + SCHEME.len()..]
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == '.' || *c == ':')
            .collect();
        // The line may be half written.
        output[start..].contains('\n').then(|| format!("{SCHEME}{address}"))
    }

    /// The program with a cleared environment, in the test's directory.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.setup.program);
        command.env_clear().current_dir(self.directory.path());
        for name in KEPT_VARIABLES {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(self.setup.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The command line of a client of this server: its URL and key are in the environment.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = self.command();
        command
            .args(arguments)
            .env("ERRAND_URL", self.url())
            .env("ERRAND_API_KEY", self.client().key())
            .stdin(Stdio::null());
        command
    }

    /// Runs the command line to its end.
    pub async fn run_cli(&self, arguments: &[&str]) -> Output {
        let mut command = self.cli(arguments);
        let run = tokio::task::spawn_blocking(move || command.output());
        bounded(format!("errand {arguments:?}"), run).await.expect("no panic").expect("the program starts")
    }

    /// A client with the key that `errand dev` printed.
    ///
    /// # Panics
    /// Never after the start.
    #[must_use]
    pub fn client(&self) -> &Client {
        self.client.as_ref().expect("started")
    }

    /// Where it listens, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> &str {
        self.client().base()
    }

    /// The configuration it runs with.
    #[must_use]
    pub const fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The test's directory: `errand.toml`, the data and the logs.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where `errand dev` keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The server's process id.
    ///
    /// # Panics
    /// If it was stopped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.as_ref().expect("the server runs").child.id()
    }

    /// What the current run printed for people.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read_to_string(self.output_file()).unwrap_or_default()
    }

    /// Kills it without a word.
    pub fn kill9(&mut self) {
        let mut server = self.server.take().expect("the server runs");
        server.child.kill().expect("kill");
        server.child.wait().expect("wait");
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Panics
    /// If it doesn't in time.
    pub async fn sigterm(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_for_exit().await
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// If it doesn't in time.
    pub async fn wait_for_exit(&mut self) -> ExitStatus {
        let mut server = self.server.take().expect("the server runs");
        let started = Instant::now();
        loop {
            if let Some(status) = server.child.try_wait().expect("wait") {
                return status;
            }
            if started.elapsed() > wait::PATIENCE {
                let _ = server.child.kill();
                let _ = server.child.wait();
                panic!("it did not stop within {:?}; its log:\n{}", wait::PATIENCE, self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Freezes it.
    pub fn sigstop(&self) {
        self.signal(Signal::STOP);
    }

    /// Thaws it.
    pub fn sigcont(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it was stopped.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the signal is sent");
    }

    /// The log may hold errors whose line contains `text`.
    pub fn expect_error(&mut self, text: &str) {
        self.expected_errors.push(text.to_owned());
    }

    /// The whole log, of all runs.
    #[must_use]
    pub fn log(&self) -> String {
        (1..=self.runs).filter_map(|run| fs::read_to_string(self.log_file(run)).ok()).collect()
    }

    /// Ends the test.
    ///
    /// # Panics
    /// If a job is unfinished or the log holds an error that was not expected.
    pub async fn finish(mut self) {
        if self.server.is_some() {
            let live = self.client().get("/jobs?state=live&limit=5").await;
            assert_eq!(live.status, 200, "{live:?}");
            assert_eq!(live.body["items"], serde_json::json!([]), "the test left jobs unfinished");
            self.kill9();
        }
        let surprises = self.unexpected_errors();
        assert!(surprises.is_empty(), "errors in the log that nobody expected:\n{}", surprises.join("\n"));
        self.finished = true;
    }

    fn unexpected_errors(&self) -> Vec<String> {
        let is_error = |line: &&str| line.split([' ', '\u{1b}', '"']).any(|word| word.ends_with("ERROR"));
        let is_expected = |line: &&str| self.expected_errors.iter().any(|text| line.contains(text));
        let panics = |line: &&str| line.contains("panicked at");
        let log = self.log();
        log.lines().filter(|line| (is_error(line) || panics(line)) && !is_expected(line)).map(str::to_owned).collect()
    }

    fn output_file(&self) -> PathBuf {
        self.directory.path().join(format!("stdout-{}", self.runs))
    }

    fn log_file(&self, run: usize) -> PathBuf {
        self.directory.path().join(format!("log-{run}"))
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Errand {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.child.kill();
            let _ = server.child.wait();
        }
        if thread::panicking() {
            eprintln!("the end of its log:\n{}", self.log_tail());
        } else {
            assert!(self.finished, "the test must end with `errand.finish().await`");
        }
    }
}
