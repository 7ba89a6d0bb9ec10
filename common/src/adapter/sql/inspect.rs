//! Looking at a database without changing it.

use std::{path::PathBuf, str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions, Connection,
    migrate::{AppliedMigration, Migrate, Migrator},
    postgres::PgConnectOptions,
    sqlite::SqliteConnectOptions,
};

use super::open::{self, OpenError};

/// How a database's schema stands to the one this program needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Schema {
    /// The SQLite file is not there.
    NoFile(PathBuf),
    /// It lacks so many migrations; all of them if it was never migrated.
    Behind(usize),
    /// It is the one that is needed.
    Current,
    /// It holds a migration that this program does not know: one of a newer version.
    Newer(i64),
    /// This migration was begun and did not finish, or is not the one that this program knows by its number.
    Broken(i64),
}

/// Looks at the schema of the database at `url`; makes nothing and migrates nothing.
///
/// # Errors
/// [`OpenError`]: it can't be reached within `patience`, or refuses us.
pub async fn inspect(url: &str, patience: Duration) -> Result<Schema, OpenError> {
    match open::kind(url)? {
        open::Kind::Postgres => postgres(url, patience).await,
        open::Kind::Sqlite => sqlite(url).await,
    }
}

async fn postgres(url: &str, patience: Duration) -> Result<Schema, OpenError> {
    let options = PgConnectOptions::from_str(url).map_err(|error| OpenError::Url(error.to_string()))?;
    let mut connection = open::first_connection(&options, patience).await?;
    let known = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
    let there: bool = sqlx::query_scalar(known).fetch_one(&mut connection).await.map_err(OpenError::Look)?;
    let schema = compare(&open::POSTGRES, there, &mut connection).await?;
    // What was to be read has been read.
    let _ = connection.close().await;
    Ok(schema)
}

async fn sqlite(url: &str) -> Result<Schema, OpenError> {
    let options = SqliteConnectOptions::from_str(url).map_err(|error| OpenError::Url(error.to_string()))?;
    let file = options.get_filename().to_owned();
    if !file.exists() {
        return Ok(Schema::NoFile(file));
    }
    let place = file.display().to_string();
    let connect = options.create_if_missing(false).read_only(true);
    let mut connection = connect.connect().await.map_err(|source| OpenError::Connect { place, source })?;
    let known = "SELECT count(*) > 0 FROM sqlite_master WHERE name = '_sqlx_migrations'";
    let there: bool = sqlx::query_scalar(known).fetch_one(&mut connection).await.map_err(OpenError::Look)?;
    let schema = compare(&open::SQLITE, there, &mut connection).await?;
    // What was to be read has been read.
    let _ = connection.close().await;
    Ok(schema)
}

async fn compare(known: &Migrator, there: bool, connection: &mut impl Migrate) -> Result<Schema, OpenError> {
    if !there {
        return Ok(Schema::Behind(known.iter().count()));
    }
    let dirty = connection.dirty_version(&known.table_name).await.map_err(OpenError::Migrate)?;
    let applied = connection.list_applied_migrations(&known.table_name).await.map_err(OpenError::Migrate)?;
    Ok(judge(known, dirty, &applied))
}

fn judge(known: &Migrator, dirty: Option<i64>, applied: &[AppliedMigration]) -> Schema {
    if let Some(version) = dirty {
        return Schema::Broken(version);
    }
    for migration in applied {
        match known.iter().find(|known| known.version == migration.version) {
            None => return Schema::Newer(migration.version),
            Some(known) if known.checksum != migration.checksum => return Schema::Broken(migration.version),
            Some(_) => {}
        }
    }
    match known.iter().count().saturating_sub(applied.len()) {
        0 => Schema::Current,
        lacking => Schema::Behind(lacking),
    }
}
