//! What the servers tell us: one connection that listens, on a cluster one to each node, shared by all of this process.
//!
//! A channel is subscribed for the first who asks and left some time after the last has gone. When a connection is lost
//! all its receivers end: messages may have been missed, and only whoever listens knows where to look for them.

mod channels;
mod listening;

use std::sync::Arc;

use tokio::sync::broadcast;

use super::{commands::Failure, routes::Routes, topology::Topology};
use listening::{Fault, Listening};

/// How often one subscription is sent on to another node of a cluster.
const MAX_REDIRECTIONS: u32 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct PubSub {
    routes: Routes<Arc<Listening>>,
}

impl PubSub {
    pub(super) fn new(topology: Arc<Topology>) -> Self {
        let connect = topology.clone();
        Self { routes: Routes::new(topology, move |place| Arc::new(Listening::new(connect.clone(), place))) }
    }

    /// Subscribes. What is published after this returns is received, or the receiver ends.
    ///
    /// # Errors
    /// The server is away or did not confirm in time.
    pub(super) async fn subscribe(&self, channel: &str) -> Result<broadcast::Receiver<Arc<str>>, Failure> {
        let patience = self.routes.topology().limits().command;
        let mut used = None;
        let outcome = tokio::time::timeout(patience, self.follow(channel, &mut used)).await;
        outcome.unwrap_or_else(|_| {
            let silent = Failure::Silent(patience);
            if let Some((listening, Some(number))) = used {
                listening.lose(number, &silent.to_string());
            }
            Err(silent)
        })
    }

    async fn follow(
        &self,
        channel: &str,
        used: &mut Option<(Arc<Listening>, Option<u64>)>,
    ) -> Result<broadcast::Receiver<Arc<str>>, Failure> {
        let mut redirections = 0;
        loop {
            let listening = self.routes.of(channel).await.map_err(Failure::Away)?;
            let (_, number) = used.insert((listening.clone(), None));
            match listening.subscribe(channel, number).await {
                Ok(receiver) => return Ok(receiver),
                Err(Fault::Away(why)) => {
                    self.routes.topology().suspect().await;
                    return Err(Failure::Away(why));
                }
                Err(Fault::Refused(error)) => {
                    if redirections >= MAX_REDIRECTIONS || !self.routes.topology().redirected(&error) {
                        return Err(Failure::Refused(error.to_string()));
                    }
                    redirections += 1;
                }
            }
        }
    }
}
