//! `errand dev`: api, relay and worker in one process.

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use errand_common::{
    backend::Backend,
    config::{Config, Secret},
    domain::ApiKeyId,
    port::store::{NewApiKey, Scope},
    telemetry::metric::Metrics,
    wire::{credential, engine::EngineInfo},
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::database;
use crate::{
    arguments::Global,
    dev::{self, Absent, Banner, DataDir},
    exit,
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
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Where the database file and the API key are kept
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Print what it serves as one line of JSON, for programs
    #[arg(long)]
    json: bool,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port, such as 127.0.0.1:8080".to_owned())
}

/// What ended the wait.
enum Ended {
    Asked,
    Worker(anyhow::Error),
    Api(anyhow::Error),
}

impl Dev {
    pub(crate) async fn run(self, global: &Global, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let config = self.config(global)?;
        let drain_seconds = config.worker.drain_seconds;
        let mut signals = Signals::listen()?;
        // The lock is held until the end.
        let data = DataDir::open(&self.data_dir)?;
        let parts = tokio::select! {
            started = self.start(config, &data, &mut screen) => started?,
            () = signals.next() => return Ok(ExitCode::from(exit::INTERRUPTED)),
        };
        parts.serve(&mut signals, &mut screen, drain_seconds).await
    }

    fn config(&self, global: &Global) -> anyhow::Result<Config> {
        let mut config = settings::load(global)?;
        if let Some(listen) = self.listen {
            config.server.listen = listen;
        }
        if config.redis.url.take().is_some() {
            tracing::warn!("redis.url is set; `errand dev` keeps its queue and bus in this process");
        }
        Ok(config)
    }

    /// The listener comes first: a port that is taken is found out before anything is touched.
    async fn start(&self, mut config: Config, data: &DataDir, screen: &mut Screen) -> anyhow::Result<Parts> {
        let listener = bind(config.server.listen).await?;
        let address = listener.local_addr()?;
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
        let parts = Parts::start(backend, Arc::new(config.clone()), listener, guard_program, sole_holder)?;
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
            program: settings::program(),
            client_options,
            database,
            engines,
            absent,
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

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!(
                "{address} is in use by another program; choose another with --listen ({}:0 takes any free port)",
                address.ip()
            )
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("{address} may not be used by this user; choose a port above 1023 with --listen")
        }
        Err(error) => {
            Err(error).with_context(|| format!("{address} can't be listened on; choose another with --listen"))
        }
    }
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
    let table = errand_worker::engine::build(&config.engines, guard_program);
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

/// What runs.
struct Parts {
    worker: JoinHandle<anyhow::Result<()>>,
    api: JoinHandle<anyhow::Result<()>>,
    upkeep: JoinHandle<()>,
    draining: CancellationToken,
    stop_worker: CancellationToken,
    stop_api: CancellationToken,
}

impl Parts {
    fn start(
        backend: Backend,
        config: Arc<Config>,
        listener: TcpListener,
        guard_program: PathBuf,
        sole_holder: bool,
    ) -> anyhow::Result<Self> {
        let metrics = Metrics::install()?;
        let renderer = metrics.clone();
        let upkeep = tokio::spawn(async move {
            let mut interval = tokio::time::interval(Metrics::UPKEEP);
            loop {
                interval.tick().await;
                metrics.run_upkeep();
            }
        });
        let draining = CancellationToken::new();
        let (stop_worker, stop_api) = (CancellationToken::new(), CancellationToken::new());
        let worker = errand_worker::run(errand_worker::RunOptions {
            backend: backend.clone(),
            config: config.clone(),
            guard_program,
            sole_holder,
            shutdown: stop_worker.clone(),
        });
        let api = errand_api::serve(errand_api::ServeOptions {
            backend,
            config,
            listener,
            metrics: Some(Arc::new(move || renderer.render())),
            draining: draining.clone(),
            shutdown: stop_api.clone(),
        });
        Ok(Self {
            worker: tokio::spawn(async move { Ok(worker.await?) }),
            api: tokio::spawn(async move { Ok(api.await?) }),
            upkeep,
            draining,
            stop_worker,
            stop_api,
        })
    }

    /// Until asked to stop, or until a part ends by itself: then the other is stopped too.
    async fn serve(
        mut self,
        signals: &mut Signals,
        screen: &mut Screen,
        drain_seconds: u32,
    ) -> anyhow::Result<ExitCode> {
        let ended = tokio::select! {
            () = signals.next() => Ended::Asked,
            done = &mut self.worker => Ended::Worker(reason("the worker", done)),
            done = &mut self.api => Ended::Api(reason("the api", done)),
        };
        if matches!(ended, Ended::Asked) {
            let note = format!("stopping: runs have up to {drain_seconds} s to finish; Ctrl-C again stops at once");
            // A terminal that is gone must not keep the drain from happening.
            let _ = screen.note(&note);
        }
        let done = tokio::select! {
            done = self.drain(&ended) => done,
            () = signals.next() => return Ok(ExitCode::from(exit::INTERRUPTED)),
        };
        match ended {
            Ended::Asked => done.map(|()| ExitCode::SUCCESS),
            Ended::Worker(error) | Ended::Api(error) => Err(error),
        }
    }

    /// The worker first: while its runs finish, the api still shows them to those who watch, and says that it is not
    /// ready for more.
    async fn drain(&mut self, ended: &Ended) -> anyhow::Result<()> {
        self.draining.cancel();
        self.stop_worker.cancel();
        let mut done = Ok(());
        if !matches!(ended, Ended::Worker(_)) {
            done = (&mut self.worker).await.context("the worker broke").and_then(|done| done);
        }
        self.stop_api.cancel();
        if !matches!(ended, Ended::Api(_)) {
            done = done.and((&mut self.api).await.context("the api broke").and_then(|done| done));
        }
        self.upkeep.abort();
        done
    }
}

/// Why a part ended that should not have.
fn reason(part: &str, done: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Error {
    match done {
        Ok(Ok(())) => anyhow::anyhow!("{part} ended by itself"),
        Ok(Err(error)) => error.context(format!("{part} failed")),
        Err(error) => anyhow::Error::from(error).context(format!("{part} broke")),
    }
}

/// Ctrl-C and the request of a supervisor to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = taken.local_addr().expect("an address");
        let message = bind(address).await.expect_err("taken").to_string();
        assert!(message.starts_with(&format!("{address} is in use")), "{message}");
        assert!(message.contains("--listen"), "{message}");
    }
}
