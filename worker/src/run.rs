//! The worker put together: owns every task, from the first registration to a graceful end.

use std::{collections::HashMap, future::Future, path::PathBuf, sync::Arc, time::Duration};

use errand_common::{backend::Backend, config::Config, domain::WorkerId, port::store::WorkerInfo, telemetry::metric};
use tokio::{
    sync::mpsc,
    task::{Id, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    control,
    directory::Directory,
    engine::{self, EngineTable},
    execute::Executor,
    fetch::Fetcher,
    handler::{self, HandlerTable},
    health::Health,
    lease::{self, Keeper},
    pace::Backoff,
    refill::Refiller,
    registry::Registry,
    runner,
    sweep::Sweeper,
    warm::Warm,
    writer::Writer,
};

/// What a worker needs.
#[derive(Clone)]
pub struct RunOptions {
    /// The four ports.
    pub backend: Backend,
    /// The configuration.
    pub config: Arc<Config>,
    /// The program that becomes the guard of engines' processes: ours.
    pub guard_program: PathBuf,
    /// No other holder of leases can live: all leases are ended as crashes at start.
    pub sole_holder: bool,
    /// Says how the worker is, from its start to its end.
    pub health: Arc<Health>,
    /// The process is a worker and nothing else: an operator may drain it, which ends it.
    pub drainable: bool,
    /// Cancelled when the worker is to stop.
    pub shutdown: CancellationToken,
}

/// A worker ended otherwise than by a graceful stop. Its leases pass by themselves.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A part of the worker ended or panicked: a defect of Errand. The worker stops rather than limps.
    #[error(
        "the worker's {part} ended unexpectedly: {why}; the worker stops, and others take over when its leases pass"
    )]
    PartEnded {
        /// Which.
        part: &'static str,
        /// How.
        why: String,
    },
    /// Runs were still not over when every grace had passed.
    #[error("runs did not end within the drain; they are dropped, and start again when their leases pass")]
    DrainOverrun,
}

/// Runs a worker until `shutdown`, or until an operator asks for its end, then drains it: claims nothing more, lets runs finish for `drain_seconds`, hands back
/// what is left without spending an attempt, and releases its registration.
///
/// # Errors
/// [`RunError`]: the worker ended, but not gracefully.
pub async fn run(options: RunOptions) -> Result<(), RunError> {
    let engines = engine::build(&options.config, options.guard_program.clone());
    run_with(options, engines).await
}

async fn run_with(options: RunOptions, engines: EngineTable) -> Result<(), RunError> {
    let RunOptions { backend, config, sole_holder, drainable, health, shutdown, .. } = options;
    let engines = Arc::new(engines);
    let directory = Directory::new(&backend, &config);
    let handlers = handler::table(engines.clone(), &directory, &config);
    let info = WorkerInfo { drainable, ..worker_info(&config, &engines, &handlers).await };
    tracing::info!(worker_id = %info.id, queues = ?info.queues, concurrency = info.concurrency, "worker starts");
    announce_metrics();
    let keeper = Keeper {
        backend: backend.clone(),
        registry: Arc::default(),
        info,
        lease: Duration::from_secs(config.worker.lease_seconds.into()),
        health: health.clone(),
    };
    if shutdown.run_until_cancelled(register(&keeper)).await.is_none() {
        health.drain();
        return Ok(());
    }
    health.renewed(true);
    tracing::info!(worker_id = %keeper.info.id, "worker is registered");
    let mut sweeper = Sweeper::new(backend.clone(), keeper.info.id, &config, sole_holder);
    if sole_holder {
        sweeper.rescue_all(&shutdown).await;
    }
    Parts::start(&backend, &config, handlers, keeper, sweeper).supervise(shutdown).await
}

/// Says from the start what may come in a burst: a counter that begins with it shows no increase to alert on.
fn announce_metrics() {
    metrics::counter!(metric::LEASES_LOST_TOTAL).increment(0);
    metrics::counter!(metric::STALE_WRITES_REJECTED_TOTAL).increment(0);
}

async fn worker_info(config: &Config, engines: &EngineTable, handlers: &HandlerTable) -> WorkerInfo {
    // The store sets the times.
    let unset = errand_common::domain::Timestamp::default();
    WorkerInfo {
        id: WorkerId::new(),
        host: host_name(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        queues: config.worker.queues.clone(),
        kinds: handlers.iter().map(|(kind, handler)| (kind.clone(), handler.version())).collect(),
        engines: engine::describe(engines, &config.engines).await,
        concurrency: config.worker.concurrency,
        running: 0,
        draining: false,
        drainable: false,
        started_at: unset,
        alive_until: unset,
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_else(|_| "unknown".to_owned())
}

/// Registers; waits while the store is away.
async fn register(keeper: &Keeper) {
    let mut backoff = Backoff::new();
    while let Err(error) = keeper.register().await {
        tracing::warn!(%error, "the worker can't register yet; trying again");
        tokio::time::sleep(backoff.pause()).await;
    }
}

/// The running parts of a worker. Dropping them ends them all, and with them all runs.
struct Parts {
    tasks: JoinSet<Result<(), String>>,
    names: HashMap<Id, &'static str>,
    /// Stops claiming and sweeping.
    intake: CancellationToken,
    /// Stops what runs need to the end.
    core: CancellationToken,
    registry: Arc<Registry>,
    warm: Arc<Warm>,
    keeper: Arc<Keeper>,
    drain: Duration,
    /// After the drain: to stop runs and write their ends, at most.
    ending: Duration,
}

const RUNNER: &str = "runner";

impl Parts {
    fn start(backend: &Backend, config: &Config, handlers: HandlerTable, keeper: Keeper, sweeper: Sweeper) -> Self {
        let worker = &config.worker;
        let (lease, id, registry) = (keeper.lease, keeper.info.id, keeper.registry.clone());
        let keeper = Arc::new(keeper);
        let grace = Duration::from_millis(worker.stop_grace_ms.into());
        let warm = Warm::new(worker);
        let mut parts = Self {
            tasks: JoinSet::new(),
            names: HashMap::new(),
            intake: CancellationToken::new(),
            core: CancellationToken::new(),
            registry: registry.clone(),
            warm: warm.clone(),
            keeper: keeper.clone(),
            drain: Duration::from_secs(worker.drain_seconds.into()),
            // Ends are tried while the lease holds, so a lease after their grace all of them are over.
            ending: grace + lease + Duration::from_secs(2),
        };
        let concurrency = worker.concurrency.max(1) as usize;
        // Beside those that work: those that wait for a person, as many as can't be parked and as many as are kept warm.
        let at_once = 2 * concurrency + worker.max_warm as usize;
        let (assignments, assigned) = mpsc::channel(concurrency);
        let (writer, loops) = Writer::new(backend, worker);
        let executor = Arc::new(Executor::new(backend.clone(), handlers, writer, warm.clone(), worker));
        let fetcher = Fetcher::new(backend.clone(), registry.clone(), warm, id, worker, assignments);
        let refiller = Refiller::new(backend.clone(), id, worker);
        let (intake, core) = (parts.intake.clone(), parts.core.clone());

        parts.part("lease keeper", keeper.run(core.clone()));
        parts.part("lease watch", lease::watch(registry.clone(), lease, core.clone()));
        parts.part("control listener", control::listen(backend.clone(), registry, id, core.clone()));
        parts.part("event writer", loops.append.run(core));
        parts.part("end writer", loops.finish.run());
        parts.part("intent writer", loops.intend.run());
        parts.part("question writer", loops.question.run());
        parts.part("sweeper", sweeper.run(intake.clone()));
        parts.part("refiller", refiller.run(intake.clone()));
        parts.part("fetcher", fetcher.run(intake));
        parts.fallible(RUNNER, async move {
            runner::run(id, at_once, assigned, executor).await.map_err(|error| error.to_string())
        });
        parts
    }

    fn part(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.fallible(name, async move {
            work.await;
            Ok(())
        });
    }

    fn fallible(&mut self, name: &'static str, work: impl Future<Output = Result<(), String>> + Send + 'static) {
        let task = self.tasks.spawn(work);
        self.names.insert(task.id(), name);
    }

    /// The next part that ended, and how.
    async fn ended(&mut self) -> Option<(&'static str, Result<(), String>)> {
        let (id, outcome) = match self.tasks.join_next_with_id().await? {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => (error.id(), Err(error.to_string())),
        };
        Some((self.names.get(&id).copied().unwrap_or("unnamed part"), outcome))
    }

    async fn supervise(mut self, shutdown: CancellationToken) -> Result<(), RunError> {
        let drain_asked = self.registry.drain_asked().clone();
        let ended = tokio::select! {
            () = shutdown.cancelled() => None,
            () = drain_asked.cancelled() => {
                tracing::info!("an operator asked the worker to drain");
                None
            }
            ended = self.ended() => Some(unexpected(ended)),
        };
        let outcome = match ended {
            None => self.drain().await,
            Some(error) => Err(error),
        };
        // After a graceful end nothing is left; otherwise all runs are dropped, and engines with them.
        self.tasks.shutdown().await;
        outcome
    }

    /// Stops claiming, waits for runs, stops and hands back those that are left, then stops the rest.
    async fn drain(&mut self) -> Result<(), RunError> {
        tracing::info!(running = self.registry.len(), "worker drains: it claims nothing more");
        self.keeper.health.drain();
        self.intake.cancel();
        // So that others see it, whoever asked.
        self.registry.ask_drain();
        self.registry.want_renewal();
        self.warm.drain();
        if self.runs_end_within(self.drain).await?.is_none() {
            tracing::info!(running = self.registry.len(), "the drain is over; the rest is handed back");
            self.registry.drain();
            if self.runs_end_within(self.ending).await?.is_none() {
                return Err(RunError::DrainOverrun);
            }
        }
        self.core.cancel();
        while let Some((part, outcome)) = self.ended().await {
            outcome.map_err(|why| RunError::PartEnded { part, why })?;
        }
        if let Err(error) = self.keeper.release().await {
            tracing::warn!(%error, "the worker could not say good-bye; its registration will lapse");
        }
        tracing::info!("worker stopped");
        Ok(())
    }

    /// Waits for the runner, which ends after the last run. `None`: not in time.
    async fn runs_end_within(&mut self, limit: Duration) -> Result<Option<()>, RunError> {
        let runner = async {
            while let Some((part, outcome)) = self.ended().await {
                outcome.map_err(|why| RunError::PartEnded { part, why })?;
                if part == RUNNER {
                    break;
                }
            }
            Ok(())
        };
        match tokio::time::timeout(limit, runner).await {
            Ok(ended) => ended.map(Some),
            Err(_) => Ok(None),
        }
    }
}

/// Before the shutdown no part ends.
fn unexpected(ended: Option<(&'static str, Result<(), String>)>) -> RunError {
    let (part, outcome) = ended.unwrap_or(("tasks", Ok(())));
    let why = outcome.err().unwrap_or_else(|| "it returned".to_owned());
    tracing::error!(part, why, "a part of the worker ended; the worker stops");
    RunError::PartEnded { part, why }
}

#[cfg(test)]
mod tests;
