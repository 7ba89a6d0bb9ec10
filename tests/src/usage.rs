//! The usage records that a cluster's database holds.

use std::collections::HashMap;

use sqlx::{Connection, PgConnection};

use crate::{Errand, wait};

/// What the records of one job say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Records {
    /// Runs of which all is known.
    pub known: usize,
    /// Runs of which something is not.
    pub unknown: usize,
    /// Tokens in, of both.
    pub input: u64,
    /// Tokens out.
    pub output: u64,
}

async fn connection(errand: &Errand) -> PgConnection {
    let url = errand.setup().database_url().expect("a cluster has a database");
    PgConnection::connect(url).await.expect("a connection")
}

/// By job.
///
/// # Panics
/// If the database doesn't answer.
pub async fn records(errand: &Errand) -> HashMap<String, Records> {
    let rows: Vec<(uuid::Uuid, i64, i64, i64, i64)> = sqlx::query_as(
        "SELECT job_id, count(*) FILTER (WHERE unknown = 0), count(*) FILTER (WHERE unknown <> 0), \
         sum(input_tokens)::bigint, sum(output_tokens)::bigint FROM usage_records GROUP BY job_id",
    )
    .fetch_all(&mut connection(errand).await)
    .await
    .expect("records");
    let count = |number: i64| usize::try_from(number).expect("a count");
    let tokens = |number: i64| u64::try_from(number).expect("tokens");
    let records = |(id, known, unknown, input, output): (uuid::Uuid, i64, i64, i64, i64)| {
        let (known, unknown) = (count(known), count(unknown));
        (id.to_string(), Records { known, unknown, input: tokens(input), output: tokens(output) })
    };
    rows.into_iter().map(records).collect()
}

/// Waits until no run holds a job: a cancelled one tells what it spent with its release, a moment after its job has ended.
///
/// # Panics
/// If the database doesn't answer.
pub async fn until_all_are_released(errand: &Errand) {
    let mut database = connection(errand).await;
    let started = std::time::Instant::now();
    loop {
        let held = "SELECT count(*) FROM jobs WHERE lease_until IS NOT NULL";
        let held: i64 = sqlx::query_scalar(held).fetch_one(&mut database).await.expect("a count");
        if held == 0 {
            return;
        }
        assert!(started.elapsed() < wait::PATIENCE, "{held} jobs are still held");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
