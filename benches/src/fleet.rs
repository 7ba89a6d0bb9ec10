//! A cluster on servers of its own, with every commit on the disk.

use anyhow::{Context, Result, ensure};
use errand_tests::{
    Client, Errand, Mode, Setup,
    postgres::{Durability, Postgres},
    redis::Redis,
};

/// Set in the environment of the processes under load, which are this program: they become `errand`.
pub(crate) const SERVES: &str = "BENCHES_SERVE_ERRAND";

/// A setup of this very program: the defaults, but for an `echo` without its pauses.
pub(crate) fn setup(mode: Mode) -> Result<Setup> {
    let setup = Setup::new(std::env::current_exe()?, mode).variable(SERVES, "1");
    Ok(setup.section("database", "").section("worker", ""))
}

/// PostgreSQL, Redis, and what runs on them; `errand dev` on its file leaves both idle.
pub(crate) struct Fleet {
    pub(crate) postgres: Postgres,
    pub(crate) redis: Redis,
    pub(crate) errand: Errand,
    /// Where the truth is.
    pub(crate) database: String,
}

impl Fleet {
    /// Boots all of it, runs a drill, and ends all of it.
    ///
    /// # Errors
    /// Those of the drill; the ends of all logs are printed.
    pub(crate) async fn drill<T>(setup: Setup, drill: impl AsyncFnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let postgres = Postgres::boot(Durability::Durable).await?;
        let redis = Redis::boot().await?;
        let database = postgres.create_database().await?;
        let setup = match setup.mode() {
            Mode::Embedded => setup,
            Mode::DevOnPostgres => setup.on_database(database.clone()),
            Mode::Cluster => setup.on_database(database.clone()).on_redis(redis.url()),
        };
        let errand = setup.start().await;
        let mut fleet = Self { postgres, redis, errand, database };
        match drill(&mut fleet).await {
            Ok(measured) => {
                fleet.errand.finish().await;
                Ok(measured)
            }
            Err(error) => {
                eprintln!("the ends of its logs:\n{}", fleet.errand.abandon());
                Err(error)
            }
        }
    }

    /// The first api.
    pub(crate) fn client(&self) -> &Client {
        self.errand.client()
    }

    /// A client of another tenant's.
    ///
    /// # Errors
    /// If it gets no key.
    pub(crate) async fn tenant(&self, name: &str) -> Result<Client> {
        let arguments = ["keys", "create", "--tenant", name, "--database-url", &self.database];
        let made = self.errand.run_cli(&arguments).await;
        ensure!(made.status.success(), "no key: {}", String::from_utf8_lossy(&made.stderr));
        let key = String::from_utf8(made.stdout)?;
        Ok(self.client().with_key(key.trim()))
    }

    /// The id of the worker that takes from this queue.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) async fn worker_of(&self, queue: &str) -> Result<String> {
        let workers = self.client().get("/workers").await;
        let takes = |worker: &&serde_json::Value| {
            worker["queues"].as_array().is_some_and(|queues| queues.iter().any(|one| one == queue))
        };
        let id = workers.items().iter().find(takes).and_then(|worker| worker["id"].as_str());
        id.map(str::to_owned).with_context(|| format!("no worker takes from {queue}: {}", workers.text))
    }
}
