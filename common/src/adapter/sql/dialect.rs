//! The whole difference between the two databases.
//!
//! Shared SQL is written with `$1` parameters and a few words in braces:
//!
//! | word | PostgreSQL | SQLite |
//! |---|---|---|
//! | `{now}` | microseconds by `clock_timestamp()` | the same by `unixepoch('subsec')` |
//! | `{for update}` / `{skip locked}` | row locks | nothing: a write transaction is alone |
//! | `{hex: id}` | the digits of an id, from its text | the same, by `hex()` |
//! | `{field: column name}` | that field of a column of JSON text, as text | the same |
//! | `{rows: id uuid, n int}` | `json_to_recordset($1)` | `json_each($1)` |
//!
//! A batch is one JSON parameter that the database turns into rows, so one statement text serves any batch size.

use std::{future::Future, sync::OnceLock};

use uuid::Uuid;

use crate::{domain::Timestamp, port::StoreError};

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flavor {
    Postgres,
    Sqlite,
}

/// One statement, rendered once for each database that asks.
pub(crate) struct Sql {
    template: &'static str,
    postgres: OnceLock<String>,
    sqlite: OnceLock<String>,
}

impl Sql {
    pub(crate) const fn new(template: &'static str) -> Self {
        Self { template, postgres: OnceLock::new(), sqlite: OnceLock::new() }
    }

    pub(crate) fn text(&'static self, flavor: Flavor) -> &'static str {
        match flavor {
            Flavor::Postgres => self.postgres.get_or_init(|| render(self.template, flavor)),
            Flavor::Sqlite => self.sqlite.get_or_init(|| render(self.template, flavor)),
        }
    }
}

fn render(template: &str, flavor: Flavor) -> String {
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let (word, after) = after.split_once('}').expect("statements close their braces");
        out.push_str(&match word.split_once(':') {
            Some(("rows", columns)) => rows(columns, flavor),
            Some(("hex", column)) => hex(column.trim(), flavor),
            Some(("field", which)) => field(which.trim(), flavor),
            _ => word_text(word, flavor).to_owned(),
        });
        rest = after;
    }
    out.push_str(rest);
    out
}

fn word_text(word: &str, flavor: Flavor) -> &'static str {
    match (word, flavor) {
        ("now", Flavor::Postgres) => "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
        ("now", Flavor::Sqlite) => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
        ("for update", Flavor::Postgres) => "FOR UPDATE",
        ("skip locked", Flavor::Postgres) => "FOR UPDATE SKIP LOCKED",
        ("for update" | "skip locked", Flavor::Sqlite) => "",
        ("take turn", Flavor::Postgres) => "FROM pg_advisory_xact_lock(hashtextextended($1, 0))",
        // A transaction that writes is alone there from its beginning.
        ("take turn", Flavor::Sqlite) => "WHERE $1 IS NOT NULL",
        _ => panic!("no such word in a statement: {word}"),
    }
}

/// An id as 32 hexadecimal digits in lower case.
fn hex(column: &str, flavor: Flavor) -> String {
    match flavor {
        Flavor::Postgres => format!("replace(CAST({column} AS text), '-', '')"),
        Flavor::Sqlite => format!("lower(hex({column}))"),
    }
}

/// A field of a JSON object that a column holds as text.
fn field(which: &str, flavor: Flavor) -> String {
    let (column, name) = which.split_once(' ').expect("a field is in a column and has a name");
    match flavor {
        Flavor::Postgres => format!("({column}::json->>'{name}')"),
        Flavor::Sqlite => format!("({column}->>'{name}')"),
    }
}

fn rows(columns: &str, flavor: Flavor) -> String {
    let columns =
        columns.split(',').map(|column| column.trim().split_once(' ').expect("a column of rows has a name and a type"));
    match flavor {
        Flavor::Postgres => {
            let columns: Vec<_> =
                columns.map(|(name, kind)| format!("{name} {}", if kind == "int" { "bigint" } else { kind })).collect();
            format!("json_to_recordset($1::json) AS r({})", columns.join(", "))
        }
        Flavor::Sqlite => {
            let columns: Vec<_> = columns
                .map(|(name, kind)| match kind {
                    "uuid" => format!("unhex(value->>'{name}', '-') AS {name}"),
                    _ => format!("value->>'{name}' AS {name}"),
                })
                .collect();
            format!("(SELECT {} FROM json_each($1)) AS r", columns.join(", "))
        }
    }
}

/// A value for a statement.
#[derive(Clone, Debug)]
pub(crate) enum Param {
    Int(Option<i64>),
    Text(Option<String>),
    Uuid(Option<Uuid>),
}

impl From<i64> for Param {
    fn from(value: i64) -> Self {
        Self::Int(Some(value))
    }
}

impl From<u64> for Param {
    fn from(value: u64) -> Self {
        Self::Int(Some(value.try_into().unwrap_or(i64::MAX)))
    }
}

impl From<u32> for Param {
    fn from(value: u32) -> Self {
        Self::Int(Some(i64::from(value)))
    }
}
impl From<Option<i64>> for Param {
    fn from(value: Option<i64>) -> Self {
        Self::Int(value)
    }
}
impl From<Timestamp> for Param {
    fn from(value: Timestamp) -> Self {
        Self::Int(Some(value.micros()))
    }
}
impl From<Option<Timestamp>> for Param {
    fn from(value: Option<Timestamp>) -> Self {
        Self::Int(value.map(Timestamp::micros))
    }
}
impl From<&str> for Param {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}
impl From<String> for Param {
    fn from(value: String) -> Self {
        Self::Text(Some(value))
    }
}
impl From<Option<String>> for Param {
    fn from(value: Option<String>) -> Self {
        Self::Text(value)
    }
}
impl From<Uuid> for Param {
    fn from(value: Uuid) -> Self {
        Self::Uuid(Some(value))
    }
}
impl From<Option<Uuid>> for Param {
    fn from(value: Option<Uuid>) -> Self {
        Self::Uuid(value)
    }
}

/// The values of a statement, in order.
macro_rules! params {
    ($($value:expr),* $(,)?) => { vec![$($crate::adapter::sql::dialect::Param::from($value)),*] };
}
pub(crate) use params;

/// A batch as the one JSON parameter of a `{rows: …}`.
pub(crate) fn batch<T: serde::Serialize>(rows: &[T]) -> String {
    serde_json::to_string(rows).expect("rows are plain data")
}

/// A row as read.
pub(crate) trait SqlRow: Send + Sync + 'static {
    fn int(&self, column: &str) -> Result<i64, StoreError>;
    fn opt_int(&self, column: &str) -> Result<Option<i64>, StoreError>;
    fn text(&self, column: &str) -> Result<String, StoreError>;
    fn opt_text(&self, column: &str) -> Result<Option<String>, StoreError>;
    fn uuid(&self, column: &str) -> Result<Uuid, StoreError>;
    fn opt_uuid(&self, column: &str) -> Result<Option<Uuid>, StoreError>;
}

/// A write transaction. Dropped without [`SqlTx::commit`], it never was.
pub(crate) trait SqlTx: Send + 'static {
    type Row: SqlRow;
    fn fetch(
        &mut self,
        sql: &'static Sql,
        params: Vec<Param>,
    ) -> impl Future<Output = Result<Vec<Self::Row>, StoreError>> + Send;
    fn execute(
        &mut self,
        sql: &'static Sql,
        params: Vec<Param>,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;
    fn commit(self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A database, open.
pub(crate) trait Dialect: Send + Sync + 'static {
    type Row: SqlRow;
    type Tx: SqlTx<Row = Self::Row>;
    /// Begins a write transaction.
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, StoreError>> + Send;
    /// Begins a write transaction that keeps somebody alive: it waits for no connection that other work holds.
    fn begin_renewal(&self) -> impl Future<Output = Result<Self::Tx, StoreError>> + Send;
    /// Reads outside of any transaction.
    fn read(
        &self,
        sql: &'static Sql,
        params: Vec<Param>,
    ) -> impl Future<Output = Result<Vec<Self::Row>, StoreError>> + Send;
    /// Checks that a statement is one: parses and plans it without running it.
    fn prepare(&self, sql: &'static Sql) -> impl Future<Output = Result<(), StoreError>> + Send;
    /// Tables and columns with their nullability, sorted: `table.column not null`.
    fn columns(&self) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;
}

/// What the two drivers share word for word; only the types differ.
macro_rules! driver {
    ($database:ty, $row:ty, $flavor:expr) => {
        impl SqlRow for $row {
            fn int(&self, column: &str) -> Result<i64, StoreError> {
                self.try_get(column).map_err(error)
            }
            fn opt_int(&self, column: &str) -> Result<Option<i64>, StoreError> {
                self.try_get(column).map_err(error)
            }
            fn text(&self, column: &str) -> Result<String, StoreError> {
                self.try_get(column).map_err(error)
            }
            fn opt_text(&self, column: &str) -> Result<Option<String>, StoreError> {
                self.try_get(column).map_err(error)
            }
            fn uuid(&self, column: &str) -> Result<Uuid, StoreError> {
                self.try_get(column).map_err(error)
            }
            fn opt_uuid(&self, column: &str) -> Result<Option<Uuid>, StoreError> {
                self.try_get(column).map_err(error)
            }
        }

        impl SqlTx for Transaction<'static, $database> {
            type Row = $row;

            async fn fetch(&mut self, sql: &'static Sql, params: Vec<Param>) -> Result<Vec<$row>, StoreError> {
                query(sql, params).fetch_all(&mut **self).await.map_err(error)
            }

            async fn execute(&mut self, sql: &'static Sql, params: Vec<Param>) -> Result<u64, StoreError> {
                query(sql, params).execute(&mut **self).await.map(|done| done.rows_affected()).map_err(error)
            }

            async fn commit(self) -> Result<(), StoreError> {
                Transaction::commit(self).await.map_err(error)
            }
        }

        fn query(
            sql: &'static Sql,
            params: Vec<Param>,
        ) -> sqlx::query::Query<'static, $database, <$database as sqlx::Database>::Arguments> {
            let mut query = sqlx::query(sql.text($flavor));
            for param in params {
                query = match param {
                    Param::Int(value) => query.bind(value),
                    Param::Text(value) => query.bind(value),
                    Param::Uuid(value) => query.bind(value),
                };
            }
            query
        }
    };
}
pub(crate) use driver;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_each_databases_own() {
        static SQL: Sql = Sql::new("SELECT {now} FROM jobs JOIN {rows: id uuid, n int, t text} ON true {for update}");
        assert_eq!(
            SQL.text(Flavor::Postgres),
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM jobs \
             JOIN json_to_recordset($1::json) AS r(id uuid, n bigint, t text) ON true FOR UPDATE"
        );
        assert_eq!(
            SQL.text(Flavor::Sqlite),
            "SELECT CAST(unixepoch('subsec') * 1000000 AS INTEGER) FROM jobs \
             JOIN (SELECT unhex(value->>'id', '-') AS id, value->>'n' AS n, value->>'t' AS t FROM json_each($1)) AS r ON true "
        );
    }
}
