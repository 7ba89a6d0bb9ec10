//! Queue, bus and gates on Redis: one server, a primary that sentinels name, or a cluster.
//!
//! Everything here may be lost at any time: the store is the truth. So nothing is retried for long, no command waits
//! longer than its time-out, and while the server is away all fail at once.

mod bus;
mod commands;
mod connection;
mod gate;
mod inspect;
mod pubsub;
mod queue;
mod routes;
mod sentinel;
mod slots;
mod topology;

use std::sync::Arc;

pub use bus::RedisBus;
pub use commands::Failure;
pub use gate::RedisGates;
pub use inspect::ServerInfo;
pub use queue::RedisQueue;

use crate::config;
use commands::Commands;
use connection::Limits;
use pubsub::PubSub;
use topology::Topology;

/// Where Redis is and how patient to be. Opening connects to nothing: each connection is made when it is first needed.
#[derive(Clone, Debug)]
pub struct Redis {
    topology: Arc<Topology>,
    prefix: String,
    pubsub: Arc<PubSub>,
}

impl Redis {
    /// By `redis.url`; `None` if it is not set.
    ///
    /// # Errors
    /// The URL can't be used, and why.
    pub fn open(config: &config::Redis) -> Result<Option<Self>, String> {
        let Some(url) = &config.url else { return Ok(None) };
        let topology = Arc::new(Topology::new(config::RedisUrl::parse(url.expose())?, Limits::from(config)));
        let pubsub = Arc::new(PubSub::new(topology.clone()));
        Ok(Some(Self { topology, prefix: config.key_prefix.clone(), pubsub }))
    }

    /// A queue, with a connection of its own for its commands.
    #[must_use]
    pub fn queue(&self) -> RedisQueue {
        RedisQueue::new(self.commands(), self.pubsub.clone(), &self.prefix)
    }

    /// A bus, with a connection of its own for what it sends.
    #[must_use]
    pub fn bus(&self) -> RedisBus {
        RedisBus::new(self.commands(), self.pubsub.clone(), &self.prefix)
    }

    /// Gates, with a connection of their own.
    #[must_use]
    pub fn gates(&self) -> RedisGates {
        RedisGates::new(self.commands(), &self.prefix)
    }

    /// A new connection for commands, or one to each node of a cluster.
    fn commands(&self) -> Commands {
        Commands::new(self.topology.clone())
    }
}
