//! A database that takes calls and never answers, as behind a cut network.

use std::time::{Duration, Instant};

use errand_common::{adapter::sql, port::StoreError};
use errand_tests::postgres::Postgres;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection, Row};

use super::{LEASE, options, plain_job};

/// The server's processes behind connections to this database, without the one that asks.
async fn backends(connection: &mut PgConnection) -> Vec<Pid> {
    let rows =
        sqlx::query("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
            .fetch_all(connection)
            .await
            .unwrap();
    rows.iter().filter_map(|row| Pid::from_raw(row.get("pid"))).collect()
}

/// Frozen while this lives.
struct Frozen(Vec<Pid>);

impl Frozen {
    fn new(pids: Vec<Pid>) -> Self {
        pids.iter().for_each(|pid| kill_process(*pid, Signal::STOP).unwrap());
        Self(pids)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_hang_are_replaced_while_they_still_hang() {
    let url = Postgres::shared().await.create_database().await.unwrap();
    let hasty = sql::OpenOptions { max_connections: 3, answer_timeout: Duration::from_secs(2), ..options() };
    let (store, _) = sql::open(&url, &hasty).await.unwrap();
    let worker = errand_common::domain::WorkerId::new();
    let renew = || store.take_duty("any", worker, LEASE);
    // All of both pools are open.
    futures::future::join_all((0..3).map(|_| renew())).await;
    let fences = [errand_common::domain::Fence {
        job_id: plain_job().id,
        session_id: None,
        claim: 1,
        token: errand_common::domain::LeaseToken::random(),
    }];
    store.renew(LEASE, &fences).await.unwrap();

    let mut operator = PgConnection::connect(&url).await.unwrap();
    let frozen = Frozen::new(backends(&mut operator).await);
    assert!(frozen.0.len() >= 2, "a connection of each pool at least: {:?}", frozen.0);
    let begun = Instant::now();
    let patience = Duration::from_millis(300);
    // By itself: nobody above gives this one up.
    let silence = store.take_duty("any", worker, LEASE).await;
    assert!(matches!(silence, Err(StoreError::Unavailable(_))), "{silence:?}");
    let (mut answered, mut renewed) = (false, false);
    while !(answered && renewed) {
        assert!(begun.elapsed() < Duration::from_secs(15), "answered: {answered}, renewed: {renewed}");
        answered |= tokio::time::timeout(patience, store.ping()).await.is_ok_and(|answer| answer.is_ok());
        renewed |= tokio::time::timeout(patience, store.renew(LEASE, &fences)).await.is_ok_and(|answer| answer.is_ok());
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "it took {:?}", begun.elapsed());
}
