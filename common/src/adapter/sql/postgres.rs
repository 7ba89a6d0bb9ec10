//! PostgreSQL.

use sqlx::{Executor, PgPool, Postgres, Row, SqlSafeStr, Transaction, postgres::PgRow};
use uuid::Uuid;

use super::{
    dialect::{Dialect, Flavor, Param, Sql, SqlRow, SqlTx, driver},
    patience::{Patience, PatientTx},
};
use crate::port::StoreError;

pub(crate) struct PostgresDialect {
    pub(crate) pool: PgPool,
    /// For renewals alone; opened when the first is made.
    pub(crate) renewals: PgPool,
    /// For each answer.
    pub(crate) patience: Patience,
}

driver!(Postgres, PgRow, Flavor::Postgres);

impl PostgresDialect {
    async fn begin_on(&self, pool: &PgPool) -> Result<PatientTx<Transaction<'static, Postgres>>, StoreError> {
        let begin = async { pool.begin().await.map_err(error) };
        Ok(PatientTx { tx: self.patience.with(begin).await?, patience: self.patience })
    }
}

impl Dialect for PostgresDialect {
    type Row = PgRow;
    type Tx = PatientTx<Transaction<'static, Postgres>>;

    async fn begin(&self) -> Result<Self::Tx, StoreError> {
        self.begin_on(&self.pool).await
    }

    async fn begin_renewal(&self) -> Result<Self::Tx, StoreError> {
        self.begin_on(&self.renewals).await
    }

    async fn read(&self, sql: &'static Sql, params: Vec<Param>) -> Result<Vec<PgRow>, StoreError> {
        self.patience.with(async { query(sql, params).fetch_all(&self.pool).await.map_err(error) }).await
    }

    async fn prepare(&self, sql: &'static Sql) -> Result<(), StoreError> {
        (&self.pool).prepare(sql.text(Flavor::Postgres).into_sql_str()).await.map(drop).map_err(error)
    }

    async fn columns(&self) -> Result<Vec<String>, StoreError> {
        static COLUMNS: Sql = Sql::new(
            "SELECT table_name || '.' || column_name || CASE is_nullable WHEN 'NO' THEN ' not null' ELSE '' END AS name \
             FROM information_schema.columns WHERE table_schema = current_schema() AND table_name NOT LIKE '\\_sqlx%' \
             ORDER BY 1",
        );
        self.read(&COLUMNS, vec![]).await?.iter().map(|row| row.text("name")).collect()
    }
}

/// Which of three kinds an error is, by its SQLSTATE (PostgreSQL manual, appendix A).
pub(crate) fn error(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::ColumnNotFound(_) => {
            StoreError::Corrupt(error.to_string())
        }
        sqlx::Error::Database(database) => {
            let state = database.code().unwrap_or_default();
            // 08 connection, 28 and 3D refused to let us in, 53 resources, 57 an operator's doing, 58 its system, 40 rolled
            // back by the server, 55P03 lock not available, 25006 read-only, 25P03 idle for too long.
            let passing = ["08", "28", "3D", "53", "57", "58", "40", "55P03", "25006", "25P03"]
                .iter()
                .any(|class| state.starts_with(class));
            if passing { StoreError::Unavailable(error.into()) } else { StoreError::Refused(error.into()) }
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => StoreError::Unavailable(error.into()),
        _ => StoreError::Refused(error.into()),
    }
}
