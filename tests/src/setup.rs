//! What an [`Errand`] is started with.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use crate::{Errand, redis};

/// What runs, and on what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// `errand dev`: one process on a file in its data directory.
    Embedded,
    /// `errand api` and `errand worker`, on a database of their own on the PostgreSQL of this test process and with keys of
    /// their own in its Redis.
    Cluster,
    /// `errand dev` on such a database.
    DevOnPostgres,
}

/// A configuration under construction.
#[derive(Clone, Debug)]
pub struct Setup {
    pub(crate) program: PathBuf,
    pub(crate) database_url: Option<String>,
    pub(crate) variables: Vec<(String, String)>,
    /// Of one worker alone: its number, name, value.
    pub(crate) worker_variables: Vec<(usize, String, String)>,
    pub(crate) redis_url: Option<String>,
    pub(crate) redis_prefix: String,
    /// The arguments of each.
    pub(crate) apis: Vec<Vec<String>>,
    pub(crate) workers: Vec<Vec<String>>,
    mode: Mode,
    sections: BTreeMap<String, String>,
}

impl Setup {
    /// The database that the server is given, if it is not its own file.
    #[must_use]
    pub fn database_url(&self) -> Option<&str> {
        self.database_url.as_deref()
    }

    /// A test's own: an `echo` engine without delay, few connections, and leases short enough to be waited for.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>, mode: Mode) -> Self {
        let empty = Self {
            program: program.into(),
            database_url: None,
            variables: Vec::new(),
            worker_variables: Vec::new(),
            redis_url: None,
            redis_prefix: redis::unique_prefix(),
            apis: vec![vec![]],
            workers: vec![vec![]],
            mode,
            sections: BTreeMap::new(),
        };
        empty
            .section("database", "max_connections = 4")
            .section("worker", "lease_seconds = 5")
            .engine("echo", "type = \"echo\"\nword_delay_ms = 0")
            .default_engine("echo")
    }

    /// What will run.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// So many apis in a cluster instead of one.
    #[must_use]
    pub fn apis(mut self, apis: usize) -> Self {
        self.apis = vec![vec![]; apis];
        self
    }

    /// In a cluster, one api for each of these, serving those parts.
    #[must_use]
    pub fn apis_serving(mut self, parts: &[&str]) -> Self {
        self.apis = parts.iter().map(|parts| vec!["--serve".to_owned(), (*parts).to_owned()]).collect();
        self
    }

    /// So many workers in a cluster instead of one.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = vec![vec![]; workers];
        self
    }

    /// In a cluster, one worker for each of these, taking from those queues.
    #[must_use]
    pub fn workers_taking_from(mut self, queues: &[&str]) -> Self {
        self.workers = queues.iter().map(|queues| vec!["--queues".to_owned(), (*queues).to_owned()]).collect();
        self
    }

    /// Replaces one table of the configuration: its name without brackets, and its lines.
    #[must_use]
    pub fn section(mut self, name: &str, lines: &str) -> Self {
        self.sections.insert(name.to_owned(), lines.to_owned());
        self
    }

    /// Adds or replaces an engine.
    #[must_use]
    pub fn engine(self, name: &str, lines: &str) -> Self {
        self.section(&format!("engines.{name}"), lines)
    }

    /// Names the engine of those who name none.
    #[must_use]
    pub fn default_engine(self, name: &str) -> Self {
        self.section("engines", &format!("default = {name:?}"))
    }

    /// Adds an environment variable to those the program starts with.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an environment variable to those of a cluster's `number`th worker alone.
    #[must_use]
    pub fn variable_of_worker(mut self, number: usize, name: &str, value: &str) -> Self {
        self.worker_variables.push((number, name.to_owned(), value.to_owned()));
        self
    }

    /// Runs on this database instead of a fresh one of the test's own server.
    #[must_use]
    pub fn on_database(mut self, url: String) -> Self {
        self.database_url = Some(url);
        self
    }

    /// Uses this Redis, with keys of its own there, instead of that of the test process.
    #[must_use]
    pub fn on_redis(mut self, url: String) -> Self {
        self.redis_url = Some(url);
        self
    }

    /// Starts the program and waits until it serves.
    ///
    /// # Panics
    /// If it doesn't within the harness's patience; the message holds the end of its log.
    pub async fn start(self) -> Errand {
        Errand::start(self).await
    }

    pub(crate) fn write(&self, file: &Path) -> std::io::Result<()> {
        let mut text = String::new();
        for (name, lines) in &self.sections {
            let _ = write!(text, "[{name}]\n{lines}\n\n");
        }
        std::fs::write(file, text)
    }
}
