//! SQLite: one writer, several readers, write-ahead log.

use sqlx::{Executor, Row, SqlSafeStr, Sqlite, SqlitePool, Transaction, sqlite::SqliteRow};
use uuid::Uuid;

use super::dialect::{Dialect, Flavor, Param, Sql, SqlRow, SqlTx, driver};
use crate::port::StoreError;

pub(crate) struct SqliteDialect {
    /// One connection: writers queue here instead of failing with `SQLITE_BUSY`.
    pub(crate) writer: SqlitePool,
    pub(crate) readers: SqlitePool,
}

driver!(Sqlite, SqliteRow, Flavor::Sqlite);

impl Dialect for SqliteDialect {
    type Row = SqliteRow;
    type Tx = Transaction<'static, Sqlite>;

    async fn begin(&self) -> Result<Self::Tx, StoreError> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(error)
    }

    /// There is one writer, and what it does is short.
    async fn begin_renewal(&self) -> Result<Self::Tx, StoreError> {
        self.begin().await
    }

    async fn read(&self, sql: &'static Sql, params: Vec<Param>) -> Result<Vec<SqliteRow>, StoreError> {
        query(sql, params).fetch_all(&self.readers).await.map_err(error)
    }

    async fn prepare(&self, sql: &'static Sql) -> Result<(), StoreError> {
        (&self.readers).prepare(sql.text(Flavor::Sqlite).into_sql_str()).await.map(drop).map_err(error)
    }

    async fn columns(&self) -> Result<Vec<String>, StoreError> {
        static COLUMNS: Sql = Sql::new(
            "SELECT t.name || '.' || c.name || CASE c.\"notnull\" WHEN 1 THEN ' not null' ELSE '' END AS name \
             FROM sqlite_schema t, pragma_table_info(t.name) c \
             WHERE t.type = 'table' AND t.name NOT LIKE '\\_sqlx%' ESCAPE '\\' AND t.name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
             ORDER BY 1",
        );
        self.read(&COLUMNS, vec![]).await?.iter().map(|row| row.text("name")).collect()
    }
}

/// Which of three kinds an error is, by its primary result code (sqlite.org/rescode.html).
pub(crate) fn error(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
            StoreError::Corrupt(error.to_string())
        }
        sqlx::Error::Database(database) => {
            let code: i32 = database.code().and_then(|code| code.parse().ok()).unwrap_or(0);
            // 5 busy, 6 locked, 7 no memory, 8 read-only, 9 interrupted, 10 I/O, 13 full, 14 can't open.
            let passing = [5, 6, 7, 8, 9, 10, 13, 14].contains(&(code & 0xff));
            if passing { StoreError::Unavailable(error.into()) } else { StoreError::Refused(error.into()) }
        }
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            StoreError::Unavailable(error.into())
        }
        _ => StoreError::Refused(error.into()),
    }
}
