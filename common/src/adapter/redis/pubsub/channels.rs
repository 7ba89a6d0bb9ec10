//! Who listens to which channel of one connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::broadcast;

use super::super::topology::Listener;

/// Messages a receiver may lag behind before it is told that it lost some. A channel takes their room at once.
const LAG: usize = 256;
/// Most channels left in one round, so that leaving holds up those who come only briefly.
const LEAVE_AT_ONCE: usize = 250;

/// The channels of the newest connection.
#[derive(Debug, Default)]
pub(super) struct Channels(Mutex<Open>);

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

pub(super) struct Entered {
    pub(super) receiver: broadcast::Receiver<Arc<str>>,
    pub(super) is_confirmed: bool,
    /// The first on this connection.
    pub(super) is_first: bool,
}

impl Channels {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: that connection is over.
    pub(super) fn enter(&self, number: u64, name: &str) -> Option<Entered> {
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

    pub(super) fn confirm(&self, number: u64, name: &str) {
        let mut open = self.lock();
        if open.number == number
            && let Some(channel) = open.channels.get_mut(name)
        {
            channel.is_confirmed = true;
        }
    }

    pub(super) fn is_open(&self, number: u64) -> bool {
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
    pub(super) fn close(&self, number: u64) {
        let mut open = self.lock();
        if number >= open.number {
            *open = Open { number, is_closed: true, ..Open::default() };
        }
    }

    pub(super) fn take_silent(&self, number: u64) -> Vec<String> {
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

/// Hands on what the server says on connection `number`.
pub(super) fn listener(channels: Arc<Channels>, number: u64) -> Listener {
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
