//! The bus: best-effort fan-out of events and control signals.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio::sync::broadcast;

use crate::domain::{Stream, WorkerId};

/// Where a message goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Topic {
    /// Events of one stream; payload is an [`crate::domain::Event`] as JSON.
    Stream(Stream),
    /// Signals to one worker; payload is a [`crate::wire::control::Signal`] as JSON.
    Worker(WorkerId),
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(stream) => stream.fmt(f),
            Self::Worker(id) => write!(f, "worker:{id}"),
        }
    }
}

/// One message.
#[derive(Clone, Debug)]
pub struct BusMessage {
    /// Where it goes.
    pub topic: Topic,
    /// JSON text.
    pub payload: Arc<str>,
}

/// The bus could not be reached. Callers go on: whoever waits for the message finds out by its sweep.
#[derive(Debug, thiserror::Error)]
#[error("bus unavailable: {0}")]
pub struct BusError(pub String);

/// What a subscriber gets next.
#[derive(Clone, Debug)]
pub enum Received {
    /// A message.
    Message(Arc<str>),
    /// Some messages were lost; read the store to find out which.
    Lagged,
    /// No more will come; subscribe again.
    Closed,
}

/// One subscriber's end.
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<Arc<str>>);

impl Subscription {
    /// For adapters.
    #[must_use]
    pub const fn new(receiver: broadcast::Receiver<Arc<str>>) -> Self {
        Self(receiver)
    }

    /// Waits for the next message. Cancelling the future loses nothing.
    pub async fn next(&mut self) -> Received {
        match self.0.recv().await {
            Ok(payload) => Received::Message(payload),
            Err(broadcast::error::RecvError::Lagged(_)) => Received::Lagged,
            Err(broadcast::error::RecvError::Closed) => Received::Closed,
        }
    }
}

/// At-most-once fan-out. Messages of one publisher on one topic arrive in order; any may be lost.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Sends to whoever is subscribed now.
    async fn publish(&self, messages: Vec<BusMessage>) -> Result<(), BusError>;

    /// Subscribes; what is published after this returns is received.
    async fn subscribe(&self, topic: Topic) -> Result<Subscription, BusError>;
}
