//! The composition: the only place that knows which adapters run.

use std::{sync::Arc, time::Duration};

use crate::{
    adapter::{
        clock::SystemClock,
        memory::{MemoryBus, MemoryGates, MemoryQueue},
        redis::{self, Redis},
        sql::{self, Migration},
    },
    config::Config,
    domain::{Stream, WorkerId},
    port::{
        Bus, BusMessage, Clock, Gates, Queue, Ready, Store, Topic,
        store::{Consequences, Stop},
    },
    telemetry::metric,
    vault::{SealingKey, Vault},
    wire::control::Signal,
};

pub use crate::adapter::{redis::ServerInfo, sql::Schema};

/// Why a backend can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database.
    #[error(transparent)]
    Database(#[from] sql::OpenError),
    /// `redis.url` can't be used.
    #[error("Redis can't be used: redis.url {0}")]
    RedisUrl(String),
    /// The key that is kept in the database is none.
    #[error("the key in the database that seals secrets can't be read; set [secrets] keys")]
    SealingKey,
    /// Nobody answers at `redis.url`.
    #[error("Redis does not answer")]
    Redis(#[from] redis::Failure),
}

/// Jobs due later than this are left to the sweep, which tells the queue of them as their time comes near: what is
/// scheduled for next year need not lie in memory until then.
const QUEUE_HORIZON: Duration = Duration::from_secs(600);

/// The ports, chosen by configuration.
#[derive(Clone)]
pub struct Backend {
    /// Truth.
    pub store: Arc<dyn Store>,
    /// What is due.
    pub queue: Arc<dyn Queue>,
    /// Who is told.
    pub bus: Arc<dyn Bus>,
    /// Who may call which destination.
    pub gates: Arc<dyn Gates>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What seals secrets.
    pub vault: Arc<Vault>,
}

/// The configured keys, and the one that the installation made for itself, if it ever did: what that sealed opens still. It is
/// made where none is configured.
async fn open_vault(config: &Config, store: &dyn Store) -> Result<Vault, OpenError> {
    let mut keys: Vec<_> = config.secrets.keys.iter().filter_map(|key| SealingKey::parse(key.expose())).collect();
    let fresh = keys.is_empty().then(SealingKey::generate);
    let kept = store.sealing_key(fresh.as_deref()).await.map_err(sql::OpenError::from)?;
    keys.extend(kept.as_deref().and_then(SealingKey::parse));
    let mut keys = keys.into_iter();
    let first = keys.next().ok_or(OpenError::SealingKey)?;
    Ok(Vault::new(first, keys.collect()))
}

impl OpenError {
    /// Whether the database is merely away, or not up yet: it is worth trying again.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_passing())
    }
}

impl Backend {
    /// Opens the database at `database_url`, bringing its schema up to date, and the queue, bus and gates that go with the
    /// configuration: on Redis if `redis.url` is set, which may be away; else in this process.
    ///
    /// # Errors
    /// [`OpenError`], with the part that failed.
    pub async fn open(config: &Config, database_url: &str) -> Result<Self, OpenError> {
        Self::open_with(config, database_url, Migration::Apply).await
    }

    /// The same without a change to the schema: for one process of many. A schema that is behind is an error; one that is
    /// ahead is not, so that old processes go on beside new ones.
    ///
    /// # Errors
    /// [`OpenError`], with the part that failed.
    pub async fn join(config: &Config, database_url: &str) -> Result<Self, OpenError> {
        Self::open_with(config, database_url, Migration::Expect).await
    }

    async fn open_with(config: &Config, database_url: &str, migration: Migration) -> Result<Self, OpenError> {
        let redis = Redis::open(&config.redis).map_err(OpenError::RedisUrl)?;
        let options = sql::OpenOptions {
            migration,
            max_connections: config.database.max_connections,
            renewal_connections: config.database.renewal_connections,
            acquire_timeout: Duration::from_secs(config.database.acquire_timeout_seconds.into()),
            answer_timeout: Duration::from_secs(config.database.answer_timeout_seconds.into()),
            idle_transaction: Duration::from_secs(config.database.idle_transaction_seconds.into()),
            interrupted_marker: config.texts.locale.interrupted_marker().to_owned(),
        };
        let (store, _) = sql::open(database_url, &options).await?;
        let (queue, bus, gates): (Arc<dyn Queue>, Arc<dyn Bus>, Arc<dyn Gates>) = match redis {
            Some(redis) => (Arc::new(redis.queue()), Arc::new(redis.bus()), Arc::new(redis.gates())),
            None => {
                (Arc::new(MemoryQueue::default()), Arc::new(MemoryBus::default()), Arc::new(MemoryGates::default()))
            }
        };
        let vault = Arc::new(open_vault(config, store.as_ref()).await?);
        Ok(Self { store, queue, bus, gates, clock: Arc::new(SystemClock), vault })
    }

    /// What answers at `redis.url`; `None` if it is not set.
    ///
    /// # Errors
    /// [`OpenError`]: the URL can't be used, or nobody answers there.
    pub async fn inspect_redis(config: &Config) -> Result<Option<ServerInfo>, OpenError> {
        let Some(redis) = Redis::open(&config.redis).map_err(OpenError::RedisUrl)? else { return Ok(None) };
        Ok(Some(redis.inspect().await?))
    }

    /// How the schema of the database at `database_url` stands, without changing anything.
    ///
    /// # Errors
    /// [`OpenError`]: it can't be reached, or refuses us.
    pub async fn inspect(config: &Config, database_url: &str) -> Result<Schema, OpenError> {
        Ok(sql::inspect(database_url, Duration::from_secs(config.database.acquire_timeout_seconds.into())).await?)
    }

    /// Tells the fleet what a transaction meant: what is due, which runs must stop, what can be seen. Counts what ended.
    /// Failures are logged and left to the sweep.
    pub async fn dispatch(&self, consequences: Consequences) {
        for ended in consequences.ended {
            let labels = [("kind", ended.kind), ("outcome", ended.outcome.to_string())];
            metrics::counter!(metric::JOBS_TOTAL, &labels).increment(1);
        }
        let mut messages = Vec::with_capacity(consequences.stops.len() + 2 * consequences.events.len());
        let stop = |Stop { worker_id, job_id, claim }| (worker_id, Signal::Stop { job_id, claim });
        let decided = |Stop { worker_id, job_id, claim }| (worker_id, Signal::Decided { job_id, claim });
        let stops = consequences.stops.into_iter().map(stop);
        for (worker_id, signal) in stops.chain(consequences.decided.into_iter().map(decided)) {
            if let Ok(text) = serde_json::to_string(&signal) {
                messages.push(BusMessage { topic: Topic::Worker(worker_id), payload: text.into() });
            }
        }
        for event in consequences.events {
            let Ok(text) = serde_json::to_string(&event) else { continue };
            let payload: Arc<str> = text.into();
            if let Some(board) = event.board_id {
                messages.push(BusMessage { topic: Topic::Stream(Stream::Board(board)), payload });
                continue;
            }
            if let Some(session) = event.session_id {
                messages.push(BusMessage { topic: Topic::Stream(Stream::Session(session)), payload: payload.clone() });
            }
            if let Some(job) = event.job_id {
                messages.push(BusMessage { topic: Topic::Stream(Stream::Job(job)), payload });
            }
        }
        // Side by side: a slow queue must not hold up a signal to stop.
        let mut ready = consequences.ready;
        let horizon = self.clock.now().plus(QUEUE_HORIZON);
        ready.retain(|entry| entry.due_at.is_none_or(|at| at <= horizon));
        tokio::join!(self.push(&ready), self.publish(messages));
    }

    /// Sends a signal to a worker. One that is lost is logged; the worker's next renewal finds out.
    pub async fn signal(&self, worker: WorkerId, signal: Signal) {
        if let Ok(text) = serde_json::to_string(&signal) {
            self.publish(vec![BusMessage { topic: Topic::Worker(worker), payload: text.into() }]).await;
        }
    }

    /// Lets workers ask the store for the jobs of a queue that was paused, at once: the index may have dropped them
    /// meanwhile. If the queue can't be told, the sweep finds them.
    pub async fn tell_resumed(&self, queue: &str) {
        if let Err(error) = self.queue.declare_incomplete(&[queue.to_owned()]).await {
            tracing::warn!(%error, queue, "could not tell the queue that it was resumed; the sweep will");
        }
    }

    async fn push(&self, ready: &[Ready]) {
        if !ready.is_empty()
            && let Err(error) = self.queue.push(ready).await
        {
            tracing::warn!(%error, jobs = ready.len(), "could not push to the queue; the sweep will");
        }
    }

    async fn publish(&self, messages: Vec<BusMessage>) {
        if !messages.is_empty()
            && let Err(error) = self.bus.publish(messages).await
        {
            tracing::warn!(%error, "could not publish; watchers will read the store");
        }
    }
}
