//! What the servers tell us: one connection that listens, shared by all who listen in this process.
//!
//! A channel is subscribed for the first who asks and left some time after the last has gone. When the connection is lost
//! all receivers end: messages may have been missed, and only whoever listens knows where to look for them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use redis::{PushInfo, PushKind, RedisResult, Value, cmd};
use tokio::sync::{RwLock, broadcast};

use super::{
    commands::Failure,
    connection::{Connection, Limits, MakeListener},
    topology::{Link, Listener, Topology},
};

/// Messages a receiver may lag behind before it is told that it lost some. A channel takes their room at once.
const LAG: usize = 256;
/// Most channels left in one round, so that leaving holds up those who come only briefly.
const LEAVE_AT_ONCE: usize = 250;

/// See the module.
#[derive(Debug)]
pub(super) struct PubSub {
    connection: Connection,
    channels: Arc<Channels>,
    /// Read by those who subscribe, written by who leaves: so that no channel is left after somebody has come again.
    leaving: RwLock<()>,
    limits: Limits,
}

impl PubSub {
    pub(super) fn new(topology: Arc<Topology>, limits: Limits) -> Self {
        let channels = Arc::new(Channels::default());
        let heard = channels.clone();
        let make_listener: MakeListener = Arc::new(move |number| listener(heard.clone(), number));
        let connection = Connection::new(topology, limits, Some(make_listener));
        Self { connection, channels, leaving: RwLock::new(()), limits }
    }

    /// Subscribes. What is published after this returns is received, or the receiver ends.
    ///
    /// # Errors
    /// The server is away or did not confirm in time.
    pub(super) async fn subscribe(self: &Arc<Self>, channel: &str) -> Result<broadcast::Receiver<Arc<str>>, Failure> {
        let mut used = None;
        match tokio::time::timeout(self.limits.command, self.enter(channel, &mut used)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let silent = Failure::Silent(self.limits.command);
                if let Some(number) = used {
                    self.lose(number, &silent.to_string());
                }
                Err(silent)
            }
        }
    }

    async fn enter(
        self: &Arc<Self>,
        channel: &str,
        used: &mut Option<u64>,
    ) -> Result<broadcast::Receiver<Arc<str>>, Failure> {
        loop {
            let (number, mut link) = self.connection.link().await.map_err(Failure::Away)?;
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
            if let Err(error) = join(&mut link, channel).await {
                self.lose(number, &error.to_string());
                return Err(Failure::Refused(error.to_string()));
            }
            self.channels.confirm(number, channel);
            return Ok(entered.receiver);
        }
    }

    /// Ends all receivers of this connection, and the connection.
    fn lose(&self, number: u64, why: &str) {
        self.channels.close(number);
        self.connection.broke(number, why);
    }

    /// Leaves channels that nobody listens to any more.
    async fn leave_silent(&self, number: u64, link: &mut Link) -> RedisResult<()> {
        let _leaving = self.leaving.write().await;
        let silent = self.channels.take_silent(number);
        if silent.is_empty() { Ok(()) } else { leave(link, &silent).await }
    }
}

/// Looks after one connection until it is lost: a connection that is cut off without a word is found out by this alone.
async fn watch(pubsub: Weak<PubSub>, number: u64, mut link: Link) {
    loop {
        let Some(interval) = pubsub.upgrade().map(|pubsub| pubsub.limits.ping_interval) else { return };
        tokio::time::sleep(interval).await;
        let Some(pubsub) = pubsub.upgrade().filter(|pubsub| pubsub.channels.is_open(number)) else { return };
        let round = async {
            link.command(&cmd("PING")).await?;
            pubsub.leave_silent(number, &mut link).await
        };
        let why = match tokio::time::timeout(pubsub.limits.command, round).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer to a ping".to_owned(),
        };
        return pubsub.lose(number, &why);
    }
}

/// A cluster carries its channels by slot, as its keys: a message then goes to one shard only.
async fn join(link: &mut Link, channel: &str) -> RedisResult<()> {
    match link {
        Link::Node(node) => node.subscribe(channel).await,
        Link::Cluster(cluster) => cluster.ssubscribe(channel).await,
    }
}

async fn leave(link: &mut Link, channels: &[String]) -> RedisResult<()> {
    match link {
        Link::Node(node) => node.unsubscribe(channels).await,
        Link::Cluster(cluster) => {
            // One by one: they lie in different slots.
            let each = channels.iter().map(|channel| {
                let mut cluster = cluster.clone();
                async move { cluster.sunsubscribe(channel).await }
            });
            futures::future::try_join_all(each).await.map(drop)
        }
    }
}

fn listener(channels: Arc<Channels>, number: u64) -> Listener {
    Arc::new(move |info: PushInfo| match info.kind {
        PushKind::Message | PushKind::SMessage => {
            let mut parts = info.data.into_iter().map(text);
            if let (Some(Some(channel)), Some(Some(payload))) = (parts.next(), parts.next()) {
                channels.deliver(number, &channel, payload.into());
            }
        }
        // We were not asked: a slot has moved to another node.
        PushKind::Unsubscribe | PushKind::SUnsubscribe => {
            let channel = info.data.into_iter().next().and_then(text);
            if channel.is_some_and(|channel| channels.contains(number, &channel)) {
                channels.close(number);
            }
        }
        PushKind::Disconnection => channels.close(number),
        _ => {}
    })
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// The channels of the newest connection.
#[derive(Debug, Default)]
struct Channels(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    /// Which connection.
    number: u64,
    is_closed: bool,
    channels: HashMap<String, Channel>,
}

#[derive(Debug)]
struct Channel {
    sender: broadcast::Sender<Arc<str>>,
    /// The server has said that we are subscribed.
    is_confirmed: bool,
}

struct Entered {
    receiver: broadcast::Receiver<Arc<str>>,
    is_confirmed: bool,
    /// The first on this connection.
    is_first: bool,
}

impl Channels {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: that connection is over.
    fn enter(&self, number: u64, name: &str) -> Option<Entered> {
        let mut open = self.lock();
        let is_first = number > open.number;
        if is_first {
            *open = Open { number, ..Open::default() };
        }
        if open.number != number || open.is_closed {
            return None;
        }
        let channel = open
            .channels
            .entry(name.to_owned())
            .or_insert_with(|| Channel { sender: broadcast::channel(LAG).0, is_confirmed: false });
        Some(Entered { receiver: channel.sender.subscribe(), is_confirmed: channel.is_confirmed, is_first })
    }

    fn confirm(&self, number: u64, name: &str) {
        let mut open = self.lock();
        if open.number == number
            && let Some(channel) = open.channels.get_mut(name)
        {
            channel.is_confirmed = true;
        }
    }

    fn is_open(&self, number: u64) -> bool {
        let open = self.lock();
        open.number == number && !open.is_closed
    }

    fn contains(&self, number: u64, name: &str) -> bool {
        let open = self.lock();
        open.number == number && open.channels.contains_key(name)
    }

    /// Nobody listening is no error: the channel is about to be left.
    fn deliver(&self, number: u64, name: &str, payload: Arc<str>) {
        let open = self.lock();
        if open.number == number
            && let Some(channel) = open.channels.get(name)
        {
            let _ = channel.sender.send(payload);
        }
    }

    /// Ends all receivers. May come before the first has entered.
    fn close(&self, number: u64) {
        let mut open = self.lock();
        if number >= open.number {
            *open = Open { number, is_closed: true, ..Open::default() };
        }
    }

    fn take_silent(&self, number: u64) -> Vec<String> {
        let mut open = self.lock();
        if open.number != number {
            return Vec::new();
        }
        let silent = open.channels.iter().filter(|(_, channel)| channel.sender.receiver_count() == 0);
        let silent: Vec<_> = silent.map(|(name, _)| name.clone()).take(LEAVE_AT_ONCE).collect();
        for name in &silent {
            open.channels.remove(name);
        }
        silent
    }
}
