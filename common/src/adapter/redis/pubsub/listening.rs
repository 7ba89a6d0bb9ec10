//! One connection that listens, shared by all who listen to channels of that server.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use redis::{
    Pipeline, RedisError, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cmd,
};
use tokio::sync::{RwLock, broadcast};

use super::{
    super::{
        connection::{Connection, MakeListener},
        topology::{Place, Topology},
    },
    channels::{Channels, listener},
};

/// Most rounds of leaving between two pings.
const LEAVE_ROUNDS: usize = 20;

/// Why there is no subscription.
pub(super) enum Fault {
    /// There is no connection.
    Away(String),
    /// The server's word, or the connection's end.
    Refused(RedisError),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Listening {
    connection: Connection,
    channels: Arc<Channels>,
    /// Read by those who subscribe, written by who leaves: so that no channel is left after somebody has come again.
    leaving: RwLock<()>,
    /// On a cluster, channels are carried by slot, as keys are: a message then goes to one shard only.
    is_sharded: bool,
    ping_interval: Duration,
    patience: Duration,
}

impl Listening {
    pub(super) fn new(topology: Arc<Topology>, place: Place) -> Self {
        let channels = Arc::new(Channels::default());
        let heard = channels.clone();
        let make_listener: MakeListener = Arc::new(move |number| listener(heard.clone(), number));
        let (is_sharded, limits) = (topology.is_cluster(), topology.limits());
        let connection = Connection::new(topology, place, Some(make_listener));
        Self {
            connection,
            channels,
            leaving: RwLock::new(()),
            is_sharded,
            ping_interval: limits.ping_interval,
            patience: limits.command,
        }
    }

    /// Subscribes. `used` tells which connection is being asked, for a caller that loses its patience.
    pub(super) async fn subscribe(
        self: &Arc<Self>,
        channel: &str,
        used: &mut Option<u64>,
    ) -> Result<broadcast::Receiver<Arc<str>>, Fault> {
        loop {
            let (number, mut link) = self.connection.link().await.map_err(Fault::Away)?;
            let _staying = self.leaving.read().await;
            let Some(entered) = self.channels.enter(number, channel) else {
                // It was lost, and nobody has needed another since.
                self.connection.broke(number, "lost");
                continue;
            };
            *used = Some(number);
            if entered.is_first {
                tokio::spawn(watch(Arc::downgrade(self), number, link.clone()));
            }
            if entered.is_confirmed {
                return Ok(entered.receiver);
            }
            let word = if self.is_sharded { "SSUBSCRIBE" } else { "SUBSCRIBE" };
            let answer = link.req_packed_command(cmd(word).arg(channel)).await;
            if let Err(error) = answer.and_then(Value::extract_error) {
                if error.is_io_error() || error.is_unrecoverable_error() {
                    self.lose(number, &error.to_string());
                }
                return Err(Fault::Refused(error));
            }
            self.channels.confirm(number, channel);
            return Ok(entered.receiver);
        }
    }

    /// Ends all receivers of this connection, and the connection.
    pub(super) fn lose(&self, number: u64, why: &str) {
        self.channels.close(number);
        self.connection.broke(number, why);
    }

    /// Leaves some channels that nobody listens to any more; whether there may be others.
    async fn leave_silent(&self, number: u64, link: &mut MultiplexedConnection) -> RedisResult<bool> {
        let _leaving = self.leaving.write().await;
        let silent = self.channels.take_silent(number);
        if silent.is_empty() {
            return Ok(false);
        }
        let word = if self.is_sharded { "SUNSUBSCRIBE" } else { "UNSUBSCRIBE" };
        // One by one: those of different slots can't be left together.
        let mut pipeline = Pipeline::with_capacity(silent.len());
        for channel in &silent {
            pipeline.cmd(word).arg(channel);
        }
        // A refusal means that the slot has gone elsewhere, and with it the subscription.
        link.req_packed_commands(&pipeline, 0, silent.len()).await?;
        Ok(true)
    }
}

/// Looks after one connection until it is lost: a connection that is cut off without a word is found out by this alone.
async fn watch(listening: Weak<Listening>, number: u64, mut link: MultiplexedConnection) {
    loop {
        let Some(interval) = listening.upgrade().map(|listening| listening.ping_interval) else { return };
        tokio::time::sleep(interval).await;
        let Some(listening) = listening.upgrade().filter(|listening| listening.channels.is_open(number)) else {
            return;
        };
        let round = async {
            link.req_packed_command(&cmd("PING")).await?;
            for _ in 0..LEAVE_ROUNDS {
                if !listening.leave_silent(number, &mut link).await? {
                    break;
                }
            }
            Ok::<_, RedisError>(())
        };
        let why = match tokio::time::timeout(listening.patience, round).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer to a ping".to_owned(),
        };
        return listening.lose(number, &why);
    }
}
