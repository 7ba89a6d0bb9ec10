//! One running Errand: the real program, as one process or as a cluster, in a directory of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    thread,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    Client, Mode, Setup,
    postgres::Postgres,
    redis,
    server::{Role, Server},
    wait::bounded,
};

/// Variables of ours that the program is given; everything else is cleared, as on a fresh machine.
const KEPT_VARIABLES: &[&str] = &["PATH"];

/// How much of a log a failure shows.
const TAIL_LINES: usize = 60;

/// The tenant of the key in use, as in `errand dev`.
const TENANT: &str = "dev";

/// A running Errand. Ends with [`Errand::finish`].
#[derive(Debug)]
pub struct Errand {
    setup: Setup,
    directory: TempDir,
    /// One `dev`; or the apis, then the workers.
    servers: Vec<Server>,
    key: String,
    client: Option<Client>,
    expected_errors: Vec<String>,
    finished: bool,
}

impl Errand {
    /// Starts the program and waits until it serves.
    ///
    /// # Panics
    /// If it doesn't in time; the message holds the end of its log.
    pub async fn start(mut setup: Setup) -> Self {
        if setup.mode() != Mode::Embedded && setup.database_url.is_none() {
            let url = Postgres::shared().await.create_database().await.expect("a database for the test");
            setup = setup.on_database(url);
        }
        if setup.mode() == Mode::Cluster && setup.redis_url.is_none() {
            setup = setup.on_redis(redis::shared_url().await);
        }
        let directory = tempfile::Builder::new().prefix("errand-test-").tempdir().expect("a directory for the test");
        setup.write(&directory.path().join("errand.toml")).expect("errand.toml");
        let server = |role| {
            let directory = directory.path().to_owned();
            move |(number, arguments): (usize, &Vec<String>)| Server::new(role, number, arguments, &directory)
        };
        let servers = match setup.mode() {
            Mode::Embedded | Mode::DevOnPostgres => vec![server(Role::Dev)((0, &vec![]))],
            Mode::Cluster => {
                let apis = setup.apis.iter().enumerate().map(server(Role::Api));
                apis.chain(setup.workers.iter().enumerate().map(server(Role::Worker))).collect()
            }
        };
        let mut errand = Self {
            setup,
            directory,
            servers,
            key: String::new(),
            client: None,
            expected_errors: Vec::new(),
            finished: false,
        };
        if errand.setup.mode() == Mode::Cluster {
            errand.prepare_database().await;
        }
        errand.restart().await;
        errand
    }

    /// As an operator does before the first start: the schema, and a key.
    async fn prepare_database(&mut self) {
        self.run_to_success(&["migrate"]).await;
        let scopes = "jobs:read,jobs:write,jobs:cancel,approve,admin,fleet";
        let arguments = ["keys", "create", "--tenant", TENANT, "--name", "of the test", "--scopes", scopes];
        self.key = self.run_to_success(&arguments).await.trim().to_owned();
    }

    /// Runs a command straight on the database; what it printed.
    async fn run_to_success(&self, arguments: &[&str]) -> String {
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::null());
        let output = run(command, arguments).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "errand {arguments:?}: {}\n{said}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts again what does not run, on the data that is there and on new ports.
    pub async fn restart(&mut self) {
        self.launch(|_| true, false).await;
    }

    /// Starts again what does not run, where it listened before.
    pub async fn restart_in_place(&mut self) {
        self.launch(|_| true, true).await;
    }

    /// Starts the workers again that don't run; where one process is everything, that.
    pub async fn restart_workers(&mut self) {
        self.launch(|role| role != Role::Api, false).await;
    }

    async fn launch(&mut self, wanted: impl Fn(Role) -> bool, in_place: bool) {
        let lying = |server: &Server| !server.is_running() && wanted(server.role);
        let started: Vec<usize> = (0..self.servers.len()).filter(|index| lying(&self.servers[*index])).collect();
        assert!(!started.is_empty(), "all of it runs; stop something before it is started again");
        // Side by side: each takes its time.
        for index in &started {
            let mut command = self.command();
            let server = &mut self.servers[*index];
            let of_worker = self.setup.worker_variables.iter().filter(|(number, ..)| *number == server.number);
            if server.role == Role::Worker {
                command.envs(of_worker.map(|(_, name, value)| (name, value)));
            }
            let address = in_place.then(|| server.url().trim_start_matches("http://").to_owned());
            server.start(command, address.as_deref());
        }
        for index in started {
            self.servers[index].wait_until_ready().await;
        }
        let serving = &self.servers[0];
        if serving.role == Role::Dev {
            let key = fs::read_to_string(serving.data_dir().join("key")).expect("the key in the data directory");
            key.trim().clone_into(&mut self.key);
        }
        self.client = Some(Client::new(serving.url(), &self.key));
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
        if let Some(url) = &self.setup.database_url {
            command.env("ERRAND_DATABASE_URL", url);
        }
        if let Some(url) = &self.setup.redis_url {
            command.env("ERRAND_REDIS_URL", url).env("ERRAND_REDIS__KEY_PREFIX", &self.setup.redis_prefix);
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
        run(self.cli(arguments), arguments).await
    }

    /// A client of the first api.
    ///
    /// # Panics
    /// Never after the start.
    #[must_use]
    pub fn client(&self) -> &Client {
        self.client.as_ref().expect("started")
    }

    /// A client of the `number`th api, from 0.
    #[must_use]
    pub fn client_of(&self, number: usize) -> Client {
        Client::new(self.api(number).url(), &self.key)
    }

    /// Where the first api listens, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> &str {
        self.client().base()
    }

    /// A client of what the `number`th worker answers about itself; `errand dev` answers for its own.
    #[must_use]
    pub fn worker_client(&self, number: usize) -> Client {
        Client::new(self.worker(number).url(), &self.key)
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
        self.servers[0].data_dir()
    }

    /// What the current run of `errand dev` printed for people.
    #[must_use]
    pub fn output(&self) -> String {
        self.servers[0].output()
    }

    fn index(&self, role: Role, number: usize) -> usize {
        let indices = self.servers.iter().enumerate().filter(|(_, server)| [role, Role::Dev].contains(&server.role));
        indices.map(|(index, _)| index).nth(number).unwrap_or_else(|| panic!("there is no {role:?} number {number}"))
    }

    fn api(&self, number: usize) -> &Server {
        &self.servers[self.index(Role::Api, number)]
    }

    fn worker(&self, number: usize) -> &Server {
        &self.servers[self.index(Role::Worker, number)]
    }

    fn worker_mut(&mut self, number: usize) -> &mut Server {
        let index = self.index(Role::Worker, number);
        &mut self.servers[index]
    }

    /// The process id of the `number`th worker; of all, where one process is everything.
    ///
    /// # Panics
    /// If it was stopped.
    #[must_use]
    pub fn worker_pid(&self, number: usize) -> u32 {
        self.worker(number).pid()
    }

    /// Kills everything without a word.
    pub fn kill9(&mut self) {
        for server in self.servers.iter_mut().filter(|server| server.is_running()) {
            server.kill9();
        }
    }

    /// Kills the `number`th worker without a word; where one process is everything, that.
    pub fn kill9_worker(&mut self, number: usize) {
        self.worker_mut(number).kill9();
    }

    /// Kills the `number`th api without a word; where one process is everything, that.
    pub fn kill9_api(&mut self, number: usize) {
        let index = self.index(Role::Api, number);
        self.servers[index].kill9();
    }

    /// Asks everything to stop, and waits until it has. The status of the first that failed, if one did.
    ///
    /// # Panics
    /// If it doesn't in time.
    pub async fn sigterm(&mut self) -> ExitStatus {
        let running = || self.servers.iter().filter(|server| server.is_running());
        running().for_each(|server| server.signal(Signal::TERM));
        let mut statuses = Vec::new();
        for server in self.servers.iter_mut().filter(|server| server.is_running()) {
            statuses.push(server.wait_for_exit().await);
        }
        let failed = statuses.iter().find(|status| !status.success());
        *failed.or(statuses.last()).expect("something runs")
    }

    /// Asks the `number`th worker to stop, and waits until it has; where one process is everything, that.
    ///
    /// # Panics
    /// If it doesn't in time.
    pub async fn sigterm_worker(&mut self, number: usize) -> ExitStatus {
        self.signal_worker(number, Signal::TERM);
        self.wait_for_worker_exit(number).await
    }

    /// Waits until the `number`th worker has ended by itself; where one process is everything, that.
    ///
    /// # Panics
    /// If it doesn't in time.
    pub async fn wait_for_worker_exit(&mut self, number: usize) -> ExitStatus {
        self.worker_mut(number).wait_for_exit().await
    }

    /// Waits until the `number`th api has ended by itself; where one process is everything, that.
    ///
    /// # Panics
    /// If it doesn't in time.
    pub async fn wait_for_api_exit(&mut self, number: usize) -> ExitStatus {
        let index = self.index(Role::Api, number);
        self.servers[index].wait_for_exit().await
    }

    /// Sends a signal to the `number`th worker: `STOP` freezes it, `CONT` thaws it.
    ///
    /// # Panics
    /// If it was stopped.
    pub fn signal_worker(&self, number: usize, signal: Signal) {
        self.worker(number).signal(signal);
    }

    /// Sends a signal to the `number`th api.
    ///
    /// # Panics
    /// If it was stopped.
    pub fn signal_api(&self, number: usize, signal: Signal) {
        self.api(number).signal(signal);
    }

    /// The log may hold errors whose line contains `text`.
    pub fn expect_error(&mut self, text: &str) {
        self.expected_errors.push(text.to_owned());
    }

    /// The whole log, of all processes and runs.
    #[must_use]
    pub fn log(&self) -> String {
        self.servers.iter().map(Server::log).collect()
    }

    /// Ends the test.
    ///
    /// # Panics
    /// If a job is unfinished or the log holds an error that was not expected.
    pub async fn finish(mut self) {
        if self.servers[0].is_running() {
            let live = self.client().get("/jobs?state=live&limit=5").await;
            assert_eq!(live.status, 200, "{live:?}");
            assert_eq!(live.body["items"], serde_json::json!([]), "the test left jobs unfinished");
        }
        self.kill9();
        let surprises = self.unexpected_errors();
        assert!(surprises.is_empty(), "errors in the log that nobody expected:\n{}", surprises.join("\n"));
        self.finished = true;
    }

    /// Ends it whatever it was doing, unseen: for a caller that failed and says why itself. Where its logs would have been
    /// read is lost with its directory, so their ends are returned.
    #[must_use]
    pub fn abandon(mut self) -> String {
        self.kill9();
        self.finished = true;
        self.log_tails()
    }

    fn unexpected_errors(&self) -> Vec<String> {
        let is_error = |line: &&str| line.split([' ', '\u{1b}', '"']).any(|word| word.ends_with("ERROR"));
        let is_expected = |line: &&str| self.expected_errors.iter().any(|text| line.contains(text));
        let panics = |line: &&str| line.contains("panicked at");
        let log = self.log();
        log.lines().filter(|line| (is_error(line) || panics(line)) && !is_expected(line)).map(str::to_owned).collect()
    }

    fn log_tails(&self) -> String {
        let tail = |server: &Server| {
            let log = server.log();
            let lines: Vec<&str> = log.lines().collect();
            format!("{}:\n{}\n", server.name(), lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
        };
        self.servers.iter().map(tail).collect()
    }
}

async fn run(mut command: Command, arguments: &[&str]) -> Output {
    let run = tokio::task::spawn_blocking(move || command.output());
    bounded(format!("errand {arguments:?}"), run).await.expect("no panic").expect("the program starts")
}

impl Drop for Errand {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the end of its logs:\n{}", self.log_tails());
        } else {
            assert!(self.finished, "the test must end with `errand.finish().await`");
        }
    }
}
