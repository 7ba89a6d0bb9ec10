//! Waiting for a push: one subscription for each queue and process, whoever waits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, broadcast},
    task::AbortHandle,
    time::Instant,
};

use super::super::pubsub::PubSub;

/// See the module. With several waiting in one process all are woken; one that comes a moment later finds a permit.
#[derive(Debug)]
pub(super) struct Wakes {
    pubsub: Arc<PubSub>,
    pushed: Arc<Notify>,
    /// By channel, who forwards its messages.
    forwarders: Mutex<HashMap<String, Forwarder>>,
}

#[derive(Debug)]
struct Forwarder(AbortHandle);

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Wakes {
    pub(super) fn new(pubsub: Arc<PubSub>) -> Self {
        Self { pubsub, pushed: Arc::default(), forwarders: Mutex::default() }
    }

    /// Returns when a message has come on one of the channels since the last call, or after `timeout`. Also returns once it
    /// has begun to listen to one of them, for a push before that would have been missed.
    pub(super) async fn wait(&self, channels: &[String], timeout: Duration) {
        let until = Instant::now() + timeout;
        let listening = async {
            if !self.listen(channels).await {
                self.pushed.notified().await;
            }
        };
        let _ = tokio::time::timeout_at(until, listening).await;
    }

    /// Whether it has begun to listen to one of them. Those that can't be reached are left to the caller's own poll.
    async fn listen(&self, channels: &[String]) -> bool {
        let mut is_new = false;
        for channel in channels {
            if self.is_listening(channel) {
                continue;
            }
            let Ok(receiver) = self.pubsub.subscribe(channel).await else { continue };
            let task = tokio::spawn(forward(receiver, self.pushed.clone()));
            let mut forwarders = self.forwarders.lock().unwrap_or_else(PoisonError::into_inner);
            forwarders.insert(channel.clone(), Forwarder(task.abort_handle()));
            is_new = true;
        }
        is_new
    }

    fn is_listening(&self, channel: &str) -> bool {
        let forwarders = self.forwarders.lock().unwrap_or_else(PoisonError::into_inner);
        forwarders.get(channel).is_some_and(|forwarder| !forwarder.0.is_finished())
    }
}

/// Ends with the connection; whoever waits is woken then and listens anew.
async fn forward(mut receiver: broadcast::Receiver<Arc<str>>, pushed: Arc<Notify>) {
    loop {
        let received = receiver.recv().await;
        // Those who wait now, and one who is about to.
        pushed.notify_waiters();
        pushed.notify_one();
        if matches!(received, Err(broadcast::error::RecvError::Closed)) {
            return;
        }
    }
}
