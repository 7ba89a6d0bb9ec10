//! Where the promises of queue, bus and gates are tried: in this process, and on Redis in each of its modes.

use std::sync::Arc;

use errand_common::{
    adapter::{
        memory::{MemoryBus, MemoryGates, MemoryQueue},
        redis::Redis,
    },
    config::{self, Secret},
    port::{Bus, Gates, Queue},
};
use errand_tests::redis::{self, unique_prefix};

/// One adapter's home, empty and the test's own.
pub(crate) struct Place {
    redis: Option<config::Redis>,
}

impl Place {
    pub(crate) async fn memory() -> Self {
        Self { redis: None }
    }

    pub(crate) async fn standalone() -> Self {
        Self { redis: Some(settings(&redis::Redis::shared().await.url())) }
    }

    pub(crate) async fn cluster() -> Self {
        Self { redis: Some(settings(&redis::RedisCluster::shared().await.url())) }
    }

    fn open(settings: &config::Redis) -> Redis {
        Redis::open(settings).unwrap().unwrap()
    }

    /// One process's queue.
    pub(crate) fn queue(&self) -> Arc<dyn Queue> {
        match &self.redis {
            None => Arc::new(MemoryQueue::default()),
            Some(settings) => Arc::new(Self::open(settings).queue()),
        }
    }

    /// The gates of two processes that share them; in memory there is but one.
    pub(crate) fn gates(&self) -> (Arc<dyn Gates>, Arc<dyn Gates>) {
        match &self.redis {
            None => {
                let gates = Arc::new(MemoryGates::default());
                (gates.clone(), gates)
            }
            Some(settings) => (Arc::new(Self::open(settings).gates()), Arc::new(Self::open(settings).gates())),
        }
    }

    /// One process's bus.
    pub(crate) fn bus(&self) -> Arc<dyn Bus> {
        match &self.redis {
            None => Arc::new(MemoryBus::default()),
            Some(settings) => Arc::new(Self::open(settings).bus()),
        }
    }
}

/// Patient enough for a loaded machine, and a prefix of its own.
pub(crate) fn settings(url: &str) -> config::Redis {
    config::Redis {
        url: Some(Secret::new(url.to_owned())),
        key_prefix: unique_prefix(),
        connect_timeout_ms: 10_000,
        command_timeout_ms: 10_000,
        ..config::Redis::default()
    }
}

/// Each body becomes a test on each place.
macro_rules! on_each_place {
    ($($(#[$meta:meta])* async fn $name:ident($place:ident: Place) $body:block)+) => {
        $(
            $(#[$meta])*
            mod $name {
                use super::*;
                async fn body($place: Place) $body
                #[test]
                fn memory() {
                    errand_tests::run::run(async { body(Place::memory().await).await });
                }
                #[test]
                fn standalone() {
                    errand_tests::run::run(async { body(Place::standalone().await).await });
                }
                #[test]
                fn cluster() {
                    errand_tests::run::run(async { body(Place::cluster().await).await });
                }
            }
        )+
    };
}
pub(crate) use on_each_place;
