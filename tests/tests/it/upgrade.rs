//! The schema of the last release and this one's, by their migrations: what an upgrade finds, and what a rollback leaves.

use std::{collections::BTreeMap, fs, path::PathBuf};

use errand_common::adapter::sql::{Schema, inspect};
use errand_tests::{
    cluster_only,
    destination::{Destination, Reply},
    postgres::Postgres,
};
use serde_json::json;
use sqlx::{Connection, PgConnection, Row, migrate::Migrator};

/// The migrations, in their order.
fn migrations() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/postgres");
    let mut files: Vec<_> =
        fs::read_dir(folder).expect("migrations").map(|file| file.expect("a file").path()).collect();
    files.sort();
    files
}

/// Brings a database to the schema of the first migrations.
async fn migrate(connection: &mut PgConnection, first: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    for file in migrations().iter().take(first) {
        fs::copy(file, folder.path().join(file.file_name().expect("a name"))).expect("copied");
    }
    Migrator::new(folder.path()).await.expect("migrations").run(connection).await.expect("migrated");
}

/// Of each column its type, and whether an insert may leave it out.
async fn columns(connection: &mut PgConnection) -> BTreeMap<(String, String), (String, bool)> {
    let sql = "SELECT table_name::text, column_name::text, data_type::text, \
               is_nullable = 'YES' OR column_default IS NOT NULL AS may_lack \
               FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE '\\_sqlx%'";
    let rows = sqlx::query(sql).fetch_all(connection).await.expect("columns");
    let column = |row: &sqlx::postgres::PgRow| ((row.get(0), row.get(1)), (row.get(2), row.get(3)));
    rows.iter().map(column).collect()
}

#[tokio::test]
async fn an_old_program_finds_all_it_knows_and_may_leave_out_what_it_does_not() {
    let url = Postgres::shared().await.create_database().await.expect("a database");
    let mut connection = PgConnection::connect(&url).await.expect("a connection");
    migrate(&mut connection, 1).await;
    let mut before = columns(&mut connection).await;
    assert!(before.len() > 50, "{before:?}");
    for count in 2..=migrations().len() {
        migrate(&mut connection, count).await;
        let after = columns(&mut connection).await;
        for (column, (kind, may_lack)) in &before {
            let (new_kind, new_may_lack) = after.get(column).unwrap_or_else(|| panic!("{count} takes {column:?} away"));
            assert_eq!(kind, new_kind, "{count} changes {column:?}");
            assert!(!may_lack || *new_may_lack, "{count} asks for {column:?}, which an old program leaves out");
        }
        for ((table, column), (_, may_lack)) in &after {
            let is_new = !before.contains_key(&(table.clone(), column.clone()));
            let was_there = before.keys().any(|(old, _)| old == table);
            assert!(
                !(is_new && was_there) || *may_lack,
                "{count} asks for {table}.{column}, which no old program knows"
            );
        }
        before = after;
    }
}

cluster_only! {
    /// What was made under the last schema is done under this one. The old program is no part of this: `tests/upgrade.py` is.
    async fn what_waited_in_the_last_schema_is_done_in_this_one(setup: Setup) {
        let destination = Destination::start([Reply::answer(200, r#"{"done":true}"#)]).await;
        let url = Postgres::shared().await.create_database().await.expect("a database");
        let mut connection = PgConnection::connect(&url).await.expect("a connection");
        migrate(&mut connection, migrations().len() - 1).await;
        assert_eq!(inspect(&url, std::time::Duration::from_secs(10)).await.expect("looked at"), Schema::Behind(1));
        let id = "0193a5f0-0000-7000-8000-000000000001";
        let job = "INSERT INTO jobs (id, tenant, kind, queue, state, priority, attempt, max_attempts, backoff_base_ms, \
                   backoff_cap_ms, payload, claim, run_at, created_at, version, tail_seq) \
                   VALUES ($1::text::uuid, 'dev', 'http', 'default', 'queued', 2, 1, 3, 20, 50, $2, 0, $3, $3, 1, 1)";
        let event = "INSERT INTO events (job_id, seq, ts, attempt, claim, type, data) \
                     VALUES ($1::text::uuid, 1, $2, 1, 0, 'queued', '{}')";
        let at = chrono::Utc::now().timestamp_micros();
        let payload = json!({"method": "GET", "url": destination.url("/old")}).to_string();
        sqlx::query(job).bind(id).bind(payload).bind(at).execute(&mut connection).await.expect("a job");
        sqlx::query(event).bind(id).bind(at).execute(&mut connection).await.expect("its event");

        // It migrates before it starts, as every harness does.
        let setup = setup.on_database(url).section("outbound", "allow = [\"127.0.0.0/8\"]");
        let errand = setup.start().await;
        let job = errand.client().wait_for_completion(id).await;
        assert_eq!((&job["attempt"], &job["result"]["body"]), (&json!(1), &json!({"done": true})));
        let events = errand.client().events(id).await;
        let numbers: Vec<_> = events.iter().filter_map(|frame| frame.data["seq"].as_i64()).collect();
        assert_eq!(numbers, (1..).take(numbers.len()).collect::<Vec<_>>(), "its stream goes on where it was");
        errand.finish().await;
    }
}
