//! All gateways of a worker.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use errand_common::domain::FailureClass;
use futures::future::join_all;
use tokio_util::task::AbortOnDropHandle;

use super::{Devices, Gateway, GatewayFailure, Settings, Target, Unanswered, failure::code};

/// How often connections that nobody uses are looked for, at least.
const LONGEST_ROUND: Duration = Duration::from_secs(30);

/// The connections of a worker: one for each gateway and credential, made when it is wanted, closed when nobody uses it.
pub struct Gateways {
    pool: Arc<Pool>,
    _keeper: AbortOnDropHandle<()>,
}

struct Pool {
    settings: Arc<Settings>,
    devices: Arc<dyn Devices>,
    /// By the target's fingerprint.
    links: Mutex<HashMap<[u8; 32], Gateway>>,
}

impl Gateways {
    /// Without any connection yet. Must be called within a runtime.
    #[must_use]
    pub fn new(settings: Settings, devices: Arc<dyn Devices>) -> Self {
        let round = (settings.idle / 4).clamp(Duration::from_millis(100), LONGEST_ROUND);
        let pool = Arc::new(Pool { settings: Arc::new(settings), devices, links: Mutex::default() });
        let keeper = tokio::spawn(keep(Arc::downgrade(&pool), round));
        Self { pool, _keeper: AbortOnDropHandle::new(keeper) }
    }

    /// The gateway, without connecting to it yet.
    ///
    /// # Errors
    /// If this worker has as many connections as it may have, and all are used.
    pub fn gateway(&self, target: &Target) -> Result<Gateway, Unanswered> {
        let fingerprint = target.fingerprint();
        let mut links = self.pool.links();
        if let Some(gateway) = links.get(&fingerprint) {
            return Ok(gateway.clone());
        }
        if links.len() >= self.pool.settings.max_connections {
            // One that is left alone remembers why: it goes last.
            let rank = |link: &Gateway| Some((!link.is_left_alone(), link.unused_for()?));
            let longest_unused = links.iter().filter_map(|(key, link)| Some((rank(link)?, *key))).max();
            let Some((_, key)) = longest_unused else {
                let message = format!("this worker is connected to {} gateways already", links.len());
                let failure = GatewayFailure::new(FailureClass::Transient, code::WORKER_BUSY, message);
                return Err(Unanswered::Refused(failure));
            };
            links.remove(&key);
        }
        let gateway = Gateway::new(target.clone(), self.pool.settings.clone(), self.pool.devices.clone());
        links.insert(fingerprint, gateway.clone());
        Ok(gateway)
    }

    /// Ends all connections.
    pub async fn close(&self) {
        let links: Vec<Gateway> = self.pool.links().drain().map(|(_, link)| link).collect();
        join_all(links.iter().map(Gateway::close)).await;
    }
}

impl Pool {
    fn links(&self) -> MutexGuard<'_, HashMap<[u8; 32], Gateway>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out those that nobody has used for long. One that is left alone stays: it remembers why.
    fn unused(&self) -> Vec<Gateway> {
        let idle = self.settings.idle;
        let is_unused =
            |link: &Gateway| !link.is_left_alone() && link.unused_for().is_some_and(|unused| unused >= idle);
        self.links().extract_if(|_, link| is_unused(link)).map(|(_, link)| link).collect()
    }
}

async fn keep(pool: Weak<Pool>, round: Duration) {
    loop {
        tokio::time::sleep(round).await;
        let Some(pool) = pool.upgrade() else { return };
        let unused = pool.unused();
        join_all(unused.iter().map(Gateway::close)).await;
    }
}
