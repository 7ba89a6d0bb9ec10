//! Opening a database by its URL.

use std::{str::FromStr, sync::Arc, time::Duration};

use sqlx::{
    Connection, Executor, PgConnection,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    SqlStore,
    dialect::{Dialect, Sql, SqlRow, params},
    inspect::{Schema, inspect},
    patience::Patience,
    postgres::PostgresDialect,
    sqlite::SqliteDialect,
    statement,
};
use crate::port::{Store, StoreError};

/// Whether opening may change the schema.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Migration {
    /// What is lacking is applied; who else migrates at the same time is waited for.
    Apply,
    /// Nothing is changed. A schema that is behind is an error; one that is ahead is taken as it is, so that old
    /// processes go on beside new ones.
    Expect,
}

/// How to open.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Whether the schema may be changed.
    pub migration: Migration,
    /// Most connections to PostgreSQL, or readers of SQLite.
    pub max_connections: u32,
    /// Connections to PostgreSQL beside those, for renewals alone.
    pub renewal_connections: u32,
    /// Longest wait for one.
    pub acquire_timeout: Duration,
    /// Longest wait for one answer of PostgreSQL.
    pub answer_timeout: Duration,
    /// Longest pause within a transaction before PostgreSQL ends it: a process that is stopped or cut off must not keep its
    /// locks from the others.
    pub idle_transaction: Duration,
    /// Ends the text of an interrupted answer in the history.
    pub interrupted_marker: String,
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither `postgres://…` nor `sqlite://…`, or malformed.
    #[error("the database URL can't be used: {0}")]
    Url(String),
    /// It can't be reached, or refuses us.
    #[error("can't connect to the database at {place}")]
    Connect {
        /// Host and port, or the file.
        place: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// Nothing came back.
    #[error("the database at {place} did not answer within {seconds} s")]
    Silent {
        /// Host and port.
        place: String,
        /// Waited so long.
        seconds: u64,
    },
    /// It answers, and what it says can't be used.
    #[error("can't look at the database")]
    Look(#[source] sqlx::Error),
    /// Its schema can't be brought up to date.
    #[error("can't migrate the database")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// Its schema is older than this program needs.
    #[error("the database lacks {0} of the migrations that this version needs; run `errand migrate` first")]
    Behind(usize),
    /// Its schema is in a state that no version leaves behind.
    #[error("migration {0} of the database is half done or was changed; restore a backup made before it")]
    Broken(i64),
    /// It is open but does not answer.
    #[error("can't read from the database")]
    Read(#[from] StoreError),
}

impl OpenError {
    /// Whether the database is merely away, or not up yet: it is worth trying again. A wrong password or name is not.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Silent { .. } => true,
            Self::Connect { source, .. } | Self::Look(source) => is_passing(source),
            Self::Migrate(sqlx::migrate::MigrateError::Execute(source)) => is_passing(source),
            Self::Read(StoreError::Unavailable(_)) => true,
            Self::Url(_) | Self::Migrate(_) | Self::Behind(_) | Self::Broken(_) | Self::Read(_) => false,
        }
    }
}

/// Of the SQLSTATEs: 08 connection, 53 resources, 57P shutting down or starting up.
fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        sqlx::Error::Database(database) => {
            let state = database.code().unwrap_or_default();
            ["08", "53", "57P"].iter().any(|class| state.starts_with(class))
        }
        _ => false,
    }
}

/// What the tests compare between the two databases.
#[async_trait::async_trait]
pub trait SchemaCheck: Send + Sync {
    /// Prepares every statement; the names and errors of those that fail.
    async fn refused_statements(&self) -> Vec<String>;
    /// The same with statements of another version of the program, one a line: its name, a tab, its text as in the source.
    async fn refused_of(&self, statements: &str) -> Vec<String>;
    /// `table.column not null`, sorted.
    async fn columns(&self) -> Result<Vec<String>, StoreError>;
}

/// Opens the database and, if its options say so, creates the SQLite file and applies what migrations it lacks. The
/// second value sees the same database with the eyes of the tests that compare the two.
///
/// # Errors
/// [`OpenError`], with the part that failed.
pub async fn open(url: &str, options: &OpenOptions) -> Result<(Arc<dyn Store>, Arc<dyn SchemaCheck>), OpenError> {
    if options.migration == Migration::Expect {
        match inspect(url, options.acquire_timeout).await? {
            Schema::Current | Schema::Newer(_) => {}
            Schema::Behind(lacking) => return Err(OpenError::Behind(lacking)),
            Schema::Broken(version) => return Err(OpenError::Broken(version)),
            Schema::NoFile(file) => return Err(OpenError::Url(format!("there is no file {}", file.display()))),
        }
    }
    match kind(url)? {
        Kind::Postgres => finish(postgres(url, options).await?, options).await,
        Kind::Sqlite => finish(sqlite(url, options).await?, options).await,
    }
}

/// Which of the two databases.
pub(super) enum Kind {
    Postgres,
    Sqlite,
}

/// Which database a URL means.
pub(super) fn kind(url: &str) -> Result<Kind, OpenError> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        Ok(Kind::Postgres)
    } else if url.starts_with("sqlite:") {
        Ok(Kind::Sqlite)
    } else {
        Err(OpenError::Url("it must start with postgres:// or sqlite://".to_owned()))
    }
}

/// The migrations of each database.
pub(super) static POSTGRES: Migrator = sqlx::migrate!("../migrations/postgres");
pub(super) static SQLITE: Migrator = sqlx::migrate!("../migrations/sqlite");

/// One connection outside any pool: a pool tries until its time is up and then tells of that alone, this one tells at
/// once why it can't be had.
pub(super) async fn first_connection(
    options: &PgConnectOptions,
    patience: Duration,
) -> Result<PgConnection, OpenError> {
    let place = || format!("{}:{}", options.get_host(), options.get_port());
    match tokio::time::timeout(patience, PgConnection::connect_with(options)).await {
        Ok(connected) => connected.map_err(|source| OpenError::Connect { place: place(), source }),
        Err(_) => Err(OpenError::Silent { place: place(), seconds: patience.as_secs() }),
    }
}

async fn finish<D: Dialect>(
    dialect: D,
    options: &OpenOptions,
) -> Result<(Arc<dyn Store>, Arc<dyn SchemaCheck>), OpenError> {
    let rows = dialect.read(&statement::EPOCH, params![]).await?;
    let epoch = rows.first().ok_or_else(|| StoreError::Corrupt("meta has no epoch".to_owned()))?.text("value")?;
    let store = Arc::new(SqlStore {
        dialect,
        epoch: epoch.into(),
        interrupted_marker: options.interrupted_marker.as_str().into(),
    });
    Ok((store.clone(), store))
}

/// Most readers of one SQLite file: each has a page cache of its own, and more of them than cores read no faster.
const SQLITE_READERS: u32 = 4;

/// Every statement finds its rows by index, a batch at a time. The planner can't know how few a batch brings, and while
/// its statistics lag behind a burst it would read whole tables for each. A plan that can't avoid what is off looks so
/// costly that it would be compiled first, for longer than it runs.
const BY_INDEX: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off";

/// A connection that was used so recently is taken for alive.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// A connection that does not answer in this time is dropped.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

async fn answers(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    match tokio::time::timeout(ANSWER_LIMIT, connection.ping()).await {
        Ok(answered) => answered,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

async fn postgres(url: &str, options: &OpenOptions) -> Result<PostgresDialect, OpenError> {
    let connect = PgConnectOptions::from_str(url).map_err(|error| OpenError::Url(error.to_string()))?;
    let connect = connect.application_name("errand");
    let mut first = first_connection(&connect, options.acquire_timeout).await?;
    if options.migration == Migration::Apply {
        POSTGRES.run(&mut first).await.map_err(OpenError::Migrate)?;
    }
    let place = format!("{}:{}", connect.get_host(), connect.get_port());
    // The pool has its own.
    let _ = first.close().await;
    let idle: Arc<str> = options.idle_transaction.as_millis().to_string().into();
    let pool_options = PgPoolOptions::new()
        .max_connections(options.max_connections)
        .acquire_timeout(options.acquire_timeout)
        // The pool's own test has no limit of its own, and costs each transaction a round trip.
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for >= TRUSTED_FOR {
                    answers(connection).await?;
                }
                Ok(true)
            })
        })
        // A call that was given up leaves its connection in the middle of an answer that may never come. Without this
        // limit it would keep its place in the pool until the system gives the connection up, for a quarter of an hour.
        .after_release(|connection, _| Box::pin(async move { answers(connection).await.map(|()| true) }))
        .after_connect(move |connection, _| {
            let idle = idle.clone();
            Box::pin(async move {
                connection.execute(BY_INDEX).await?;
                let set = "SELECT set_config('idle_in_transaction_session_timeout', $1, false)";
                sqlx::query(set).bind(&*idle).execute(connection).await.map(drop)
            })
        });
    let renewals = pool_options.clone().max_connections(options.renewal_connections).connect_lazy_with(connect.clone());
    let pool = pool_options.connect_with(connect).await.map_err(|source| OpenError::Connect { place, source })?;
    Ok(PostgresDialect { pool, renewals, patience: Patience(options.answer_timeout) })
}

async fn sqlite(url: &str, options: &OpenOptions) -> Result<SqliteDialect, OpenError> {
    let connect = SqliteConnectOptions::from_str(url)
        .map_err(|error| OpenError::Url(error.to_string()))?
        .create_if_missing(options.migration == Migration::Apply)
        .journal_mode(SqliteJournalMode::Wal)
        // FULL: what was answered with 202 outlives a power cut, not only a crash of ours.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(options.acquire_timeout);
    let place = connect.get_filename().display().to_string();
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(options.acquire_timeout)
        .connect_with(connect.clone())
        .await
        .map_err(|source| OpenError::Connect { place: place.clone(), source })?;
    if options.migration == Migration::Apply {
        SQLITE.run(&writer).await.map_err(OpenError::Migrate)?;
    }
    let readers = SqlitePoolOptions::new()
        .max_connections(options.max_connections.min(SQLITE_READERS))
        .acquire_timeout(options.acquire_timeout)
        .connect_with(connect.read_only(true))
        .await
        .map_err(|source| OpenError::Connect { place, source })?;
    Ok(SqliteDialect { writer, readers })
}

/// Its name and error, if it can't be prepared.
async fn refusal(dialect: &impl Dialect, name: &str, sql: &'static Sql) -> Option<String> {
    dialect.prepare(sql).await.err().map(|error| format!("{name}: {error:?}"))
}

#[async_trait::async_trait]
impl<D: Dialect> SchemaCheck for SqlStore<D> {
    async fn refused_statements(&self) -> Vec<String> {
        let mut refused = Vec::new();
        let parts = [statement::ALL, statement::coordination::ALL, statement::instance::ALL, statement::webhook::ALL];
        for (name, sql) in parts.into_iter().flatten() {
            refused.extend(refusal(&self.dialect, name, sql).await);
        }
        refused
    }

    async fn refused_of(&self, statements: &str) -> Vec<String> {
        let mut refused = Vec::new();
        for (name, text) in statements.lines().filter_map(|line| line.split_once('\t')) {
            // Statements live as long as the program does; this one is a test.
            let sql: &'static Sql = Box::leak(Box::new(Sql::new(text.to_owned().leak())));
            refused.extend(refusal(&self.dialect, name, sql).await);
        }
        refused
    }

    async fn columns(&self) -> Result<Vec<String>, StoreError> {
        self.dialect.columns().await
    }
}
