//! How many tasks one worker runs on each engine at once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use errand_common::config::{EngineLimits, Engines};

/// The places of a worker's engines. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    limits: Arc<BTreeMap<String, EngineLimits>>,
    taken: Arc<Mutex<Taken>>,
}

/// How many are taken: of an engine, and of an engine by a tenant. Bounded by the worker's own concurrency.
#[derive(Debug, Default)]
struct Taken {
    engines: HashMap<String, u32>,
    tenants: HashMap<(String, String), u32>,
}

/// A place on an engine; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    taken: Arc<Mutex<Taken>>,
    engine: String,
    tenant: String,
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    pub(crate) fn new(engines: &Engines) -> Self {
        let limits = engines.table.iter().map(|(name, engine)| (name.clone(), engine.limits()));
        Self { limits: Arc::new(limits.collect()), taken: Arc::default() }
    }

    /// A place on `engine` for a task of `tenant`; `None`: all that there are, or all of the tenant's, are taken.
    pub(crate) fn take(&self, engine: &str, tenant: &str) -> Option<Place> {
        let limits = self.limits.get(engine).copied().unwrap_or_default();
        let by_tenant = (engine.to_owned(), tenant.to_owned());
        let mut taken = lock(&self.taken);
        let full = |limit: Option<u32>, count: Option<&u32>| limit.is_some_and(|limit| count.copied() >= Some(limit));
        if full(limits.max_concurrency, taken.engines.get(engine))
            || full(limits.per_tenant_concurrency, taken.tenants.get(&by_tenant))
        {
            return None;
        }
        *taken.engines.entry(engine.to_owned()).or_default() += 1;
        *taken.tenants.entry(by_tenant).or_default() += 1;
        drop(taken);
        Some(Place { taken: Arc::clone(&self.taken), engine: engine.to_owned(), tenant: tenant.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        let by_tenant = (std::mem::take(&mut self.engine), std::mem::take(&mut self.tenant));
        if let Some(count) = taken.engines.get_mut(&by_tenant.0) {
            *count -= 1;
        }
        // Tenants come and go.
        if let Some(count) = taken.tenants.get_mut(&by_tenant) {
            *count -= 1;
            if *count == 0 {
                taken.tenants.remove(&by_tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_and_each_of_its_tenants_have_their_limits() {
        let engines = serde_json::json!({
            "few": {"type": "echo", "max_concurrency": 3, "per_tenant_concurrency": 2},
            "many": {"type": "echo"},
        });
        let places = Places::new(&serde_json::from_value(engines).expect("engines"));
        let first = places.take("few", "a").expect("a place");
        let _second = places.take("few", "a").expect("a place");
        assert!(places.take("few", "a").is_none(), "the tenant has its share");
        let _third = places.take("few", "b").expect("a place");
        assert!(places.take("few", "c").is_none(), "the engine is full");
        drop(first);
        assert!(places.take("few", "a").is_some());
        let unlimited: Vec<_> = (0..100).map(|_| places.take("many", "a").expect("a place")).collect();
        drop(unlimited);
        assert!(lock(&places.taken).tenants.keys().all(|(engine, _)| engine == "few"), "nothing is left of them");
    }
}
