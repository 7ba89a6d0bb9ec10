//! A fleet: apis and workers as processes of their own, over a PostgreSQL and a Redis of their own, each process with its
//! own links to both, so that anything can be killed, frozen, or cut off from anything.

mod member;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, bail};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

pub use member::{Kill, Member, Role, Service, migrate, supervise};

use crate::{
    Client,
    postgres::{Durability, Postgres},
    proxy::Mode,
    redis::Redis,
};

/// The fleet's first key.
const KEY: &str = "errand_fleet_0123456789abcdefghijklmnopqrstuv";

/// How long the fleet may take to be ready.
const READY: Duration = Duration::from_secs(60);

/// What a fleet consists of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The `errand` that is tested.
    pub program: PathBuf,
    /// The chaos program: with `stamp` it is what command tasks run.
    pub stamper: PathBuf,
    /// How many apis.
    pub apis: usize,
    /// How many workers.
    pub workers: usize,
    /// How many jobs each worker runs at once.
    pub concurrency: u32,
    /// How long a claim holds, and how long a stopping worker lets its runs finish.
    pub lease_seconds: u32,
    /// How long the `echo` engine takes for a word.
    pub word_delay_ms: u32,
}

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    /// The workers.
    pub workers: Vec<Arc<Member>>,
    /// The apis.
    pub apis: Vec<Arc<Member>>,
    /// The database.
    pub postgres: Mutex<Postgres>,
    /// The index.
    pub redis: Mutex<Redis>,
    database_url: String,
    directory: TempDir,
}

/// What all processes of a fleet share.
struct Blueprint {
    program: PathBuf,
    directory: PathBuf,
    postgres: SocketAddr,
    database: String,
    redis: SocketAddr,
    settings: String,
}

impl Fleet {
    /// Boots all of it and waits until every process is ready.
    ///
    /// # Errors
    /// If something doesn't start.
    pub async fn boot(plan: &Plan) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("errand-fleet-").tempdir()?;
        let postgres = Postgres::boot(Durability::Crashes).await?;
        let redis = Redis::boot().await?;
        let database_url = postgres.create_database().await?;
        migrate(&plan.program, &database_url)?;
        let blueprint = Blueprint {
            program: plan.program.clone(),
            directory: directory.path().to_owned(),
            postgres: local(postgres.port()),
            database: database_url.rsplit('/').next().unwrap_or_default().to_owned(),
            redis: local(redis.port()),
            settings: settings(plan, &stamps(directory.path())),
        };
        let mut apis = Vec::new();
        for number in 0..plan.apis {
            apis.push(Arc::new(Member::new(Role::Api, number, &blueprint).await?));
        }
        let mut workers = Vec::new();
        for number in 0..plan.workers {
            workers.push(Arc::new(Member::new(Role::Worker, number, &blueprint).await?));
        }
        let fleet =
            Self { workers, apis, postgres: Mutex::new(postgres), redis: Mutex::new(redis), database_url, directory };
        for member in fleet.members() {
            member.start()?;
        }
        fleet.until_ready().await?;
        Ok(fleet)
    }

    /// All processes.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.apis.iter().chain(&self.workers)
    }

    /// A client of each api, with a key that may do everything.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        self.apis.iter().map(|api| Client::new(&api.url(), KEY)).collect()
    }

    /// Changes what all links to a server do.
    pub fn link_all(&self, service: Service, mode: Mode) {
        for member in self.members() {
            member.link(service, mode);
        }
    }

    /// Waits until every process says that it is ready.
    ///
    /// # Errors
    /// If one doesn't; the message holds its log.
    pub async fn until_ready(&self) -> Result<()> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        let started = Instant::now();
        for member in self.members() {
            while !member.is_ready(&http).await {
                if started.elapsed() > READY {
                    bail!("{} is not ready after {READY:?}; its log:\n{}", member.name(), member.log());
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// A connection to the database that no fault of a link concerns.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn database(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.database_url).await?)
    }

    /// Where the programs of command tasks stamp.
    #[must_use]
    pub fn stamps(&self) -> PathBuf {
        stamps(self.directory.path())
    }
}

fn stamps(directory: &Path) -> PathBuf {
    directory.join("stamps")
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn settings(plan: &Plan, stamps: &Path) -> String {
    let Plan { stamper, concurrency, lease_seconds, word_delay_ms, .. } = plan;
    format!(
        "[worker]\nlease_seconds = {lease_seconds}\nconcurrency = {concurrency}\ndrain_seconds = {lease_seconds}\n\n\
         [auth]\nbootstrap_key = \"{KEY}\"\n\n\
         [outbound]\nallow = [\"127.0.0.0/8\"]\n\n\
         [gateways]\nrequest_timeout_seconds = 2\nreconnect_max_ms = 500\n\n\
         [engines]\ndefault = \"echo\"\n\n\
         [engines.echo]\ntype = \"echo\"\nword_delay_ms = {word_delay_ms}\n\n\
         [engines.program]\ntype = \"command\"\ncommand = [{:?}, \"stamp\", {:?}]\n",
        stamper.display().to_string(),
        stamps.display().to_string(),
    )
}
