//! `errand dev`: api, relay and worker in one process.

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use errand_common::{
    backend::Backend,
    config::{Auth, Config, Secret},
    domain::ApiKeyId,
    port::store::{NewApiKey, Scope},
    wire::{credential, engine::EngineInfo},
};

use super::database;
use crate::{
    arguments::{self, Global},
    dev::{self, Absent, Banner, DataDir},
    exit,
    process::{self, Parts, Signals},
    screen::Screen,
    settings,
};

/// Where the data of `errand dev` is, unless told otherwise.
pub(crate) const DATA_DIR: &str = ".errand";

const TENANT: &str = "dev";
/// Engines that don't say in this time whether they are available are listed as such.
const ENGINE_PATIENCE: Duration = Duration::from_secs(2);

/// What its help says at the end.
const HELP: &str = "It reads errand.toml and variables such as ERRAND_WORKER__CONCURRENCY=8; without a database URL it \
    needs no service.\nERRAND_LOG sets what is logged (warn, or errand_worker=debug,info), ERRAND_LOG_FORMAT=json how.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Dev {
    /// Address and port; port 0 takes any free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", value_parser = arguments::address)]
    listen: Option<SocketAddr>,
    /// Where the database file and the API key are kept
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Print what it serves as one line of JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Dev {
    pub(crate) async fn run(self, global: &Global, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let config = self.config(global)?;
        let note = format!(
            "stopping: runs have up to {} s to finish; Ctrl-C again stops at once",
            config.worker.drain_seconds
        );
        let mut signals = Signals::listen()?;
        // The lock is held until the end.
        let data = DataDir::open(&self.data_dir)?;
        let parts = tokio::select! {
            started = self.start(config, &data, &mut screen) => started?,
            () = signals.next() => return Ok(ExitCode::from(exit::INTERRUPTED)),
        };
        // A terminal that is gone must not keep the drain from happening.
        parts.serve(&mut signals, || drop(screen.note(&note))).await
    }

    fn config(&self, global: &Global) -> anyhow::Result<Config> {
        let mut config = settings::load(global)?;
        if let Some(listen) = self.listen {
            config.server.listen = listen;
        }
        if config.outbound.allow.is_empty() {
            config.outbound.allow = dev::this_machine();
        }
        if config.redis.url.take().is_some() {
            tracing::warn!("redis.url is set; `errand dev` keeps its queue and bus in this process");
        }
        Ok(config)
    }

    /// The listener comes first: a port that is taken is found out before anything is touched.
    async fn start(&self, mut config: Config, data: &DataDir, screen: &mut Screen) -> anyhow::Result<Parts> {
        let listener = process::bind(config.server.listen, "--listen").await?;
        let operations = process::bind_operations(config.metrics.listen).await?;
        let address = listener.local_addr()?;
        config.server.public_url.get_or_insert_with(|| dev::local_url(address));
        let absent = dev::detect(&mut config.engines, settings::variable).await;
        let configured = config.database.url.as_ref().map(|url| url.expose().to_owned());
        let database_url = configured.unwrap_or_else(|| data.database_url());
        let sole_holder = data.owns(&database_url);
        config.database.url = Some(Secret::new(database_url.clone()));
        let backend = database::open(&config, &database_url).await?;
        let key = data.key()?;
        keep_key(&backend, &key, data).await?;

        let guard_program = errand_worker::guard::default_program();
        let engines = find_engines(&config, guard_program.clone()).await;
        let database =
            if sole_holder { data.database().display().to_string() } else { dev::without_password(&database_url) };
        let config = Arc::new(config);
        let (mut parts, metrics) = Parts::new(&config, "dev")?;
        // The worker stops first: while its runs finish, the api still shows them to those who watch, and says that it is
        // not ready for more.
        let health: Arc<errand_worker::Health> = Arc::default();
        parts.add("the worker", |shutdown| {
            errand_worker::run(errand_worker::RunOptions {
                backend: backend.clone(),
                config: config.clone(),
                guard_program,
                sole_holder,
                // Its api would be left without a worker.
                drainable: false,
                health: health.clone(),
                shutdown,
            })
        });
        // Who calls before that would be told that no worker has the engine; callers wait at the listener meanwhile. The worker
        // registers as soon as the store lets it.
        drop(tokio::time::timeout(ENGINE_PATIENCE, health.started()).await);
        let draining = parts.draining().clone();
        parts.add("the api", |shutdown| {
            errand_api::serve(errand_api::ServeOptions {
                backend,
                config: config.clone(),
                listener,
                operations,
                metrics: Some(metrics),
                draining,
                shutdown,
            })
        });
        self.announce(screen, &config, address, &key, database, &engines, &absent)?;
        Ok(parts)
    }

    #[expect(clippy::too_many_arguments, reason = "the banner is where everything meets")]
    fn announce(
        &self,
        screen: &mut Screen,
        config: &Config,
        address: SocketAddr,
        key: &str,
        database: String,
        engines: &[EngineInfo],
        absent: &[Absent],
    ) -> io::Result<()> {
        let url = dev::local_url(address);
        let mut client_options = String::new();
        if address.port() != 8080 || !address.ip().is_loopback() && !address.ip().is_unspecified() {
            client_options += &format!(" --url {url}");
        }
        if self.data_dir != *DATA_DIR {
            client_options += &format!(" --data-dir {}", settings::quoted(&self.data_dir.to_string_lossy()));
        }
        let banner = Banner {
            url,
            key,
            also_taken: &also_taken(&config.auth),
            program: settings::program(),
            client_options,
            database,
            engines,
            absent,
            allowed: &config.outbound.allow,
            default_engine: config.engines.default.as_deref().unwrap_or("echo"),
        };
        let printed = if self.json { banner.print_json(screen) } else { banner.print(screen) };
        match printed {
            // Nobody reads it: no reason not to serve.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

/// What is taken beside the key of the data directory: as `errand api` does, whatever is configured.
fn also_taken(auth: &Auth) -> Vec<&'static str> {
    let credentials = [
        (auth.bootstrap_key.is_some(), "auth.bootstrap_key, of tenant \"default\""),
        (auth.jwt_secret.is_some(), "users' tokens, verified with auth.jwt_secret"),
        (auth.jwks_url.is_some(), "users' tokens, verified with the keys at auth.jwks_url"),
    ];
    credentials.into_iter().filter_map(|(configured, what)| configured.then_some(what)).collect()
}

/// Stores the key of the data directory; one that is stored stays as it is.
async fn keep_key(backend: &Backend, key: &str, data: &DataDir) -> anyhow::Result<()> {
    let new = NewApiKey {
        id: ApiKeyId::new(),
        tenant: TENANT.to_owned(),
        name: "errand dev".to_owned(),
        prefix: credential::indexed_prefix(key).to_owned(),
        hash: credential::hash_key(key),
        scopes: Scope::ALL.to_vec(),
    };
    backend.store.create_key(new, None, backend.clock.now()).await.context("the API key can't be stored")?;
    let valid =
        backend.store.keys_by_prefix(credential::indexed_prefix(key)).await.context("the API key can't be read")?;
    if !valid.iter().any(|known| known.hash == credential::hash_key(key)) {
        let file = data.key_file();
        bail!("the API key in {} was revoked; remove that file, and `errand dev` makes a new key", file.display());
    }
    Ok(())
}

async fn find_engines(config: &Config, guard_program: PathBuf) -> Vec<EngineInfo> {
    let table = errand_worker::engine::build(config, guard_program);
    let described = errand_worker::engine::describe(&table, &config.engines);
    tokio::time::timeout(ENGINE_PATIENCE, described).await.unwrap_or_else(|_| {
        let late = config.engines.table.iter().map(|(name, engine)| EngineInfo {
            name: name.clone(),
            engine_type: engine.type_name().to_owned(),
            available: false,
            reason: Some("did not answer yet".to_owned()),
            queue: engine.queue().to_owned(),
            capabilities: serde_json::json!({}),
        });
        late.collect()
    })
}
