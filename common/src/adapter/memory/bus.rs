//! The bus inside one process: one broadcast channel a topic, there as long as somebody listens, and a little longer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::broadcast;

use crate::port::{Bus, BusError, BusMessage, Subscription, Topic};

/// Messages a subscriber may lag behind before it is told that it lost some. A channel takes their room at once.
const LAG: usize = 256;
/// Fewer topics than this are not worth looking through.
const FEW: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryBus {
    topics: Mutex<Topics>,
}

#[derive(Debug, Default)]
struct Topics {
    senders: HashMap<Topic, broadcast::Sender<Arc<str>>>,
    /// So many were left the last time those without listeners were dropped.
    left: usize,
}

impl Topics {
    /// Drops topics that nobody listens to and nothing is said in, once they may be half of all.
    fn drop_silent(&mut self) {
        if self.senders.len() >= FEW.max(2 * self.left) {
            self.senders.retain(|_, sender| sender.receiver_count() > 0);
            self.left = self.senders.len();
        }
    }
}

#[async_trait]
impl Bus for MemoryBus {
    async fn publish(&self, messages: Vec<BusMessage>) -> Result<(), BusError> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            // Sending fails only when the last subscriber has gone: then the topic goes too.
            if topics.senders.get(&message.topic).is_some_and(|sender| sender.send(message.payload).is_err()) {
                topics.senders.remove(&message.topic);
            }
        }
        Ok(())
    }

    async fn subscribe(&self, topic: Topic) -> Result<Subscription, BusError> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        topics.drop_silent();
        let sender = topics.senders.entry(topic).or_insert_with(|| broadcast::channel(LAG).0);
        Ok(Subscription::new(sender.subscribe()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{JobId, Stream};

    #[tokio::test]
    async fn topics_that_nobody_listens_to_any_more_are_dropped() {
        let bus = MemoryBus::default();
        let kept = bus.subscribe(Topic::Stream(Stream::Job(JobId::new()))).await.expect("never fails");
        for _ in 0..10 * FEW {
            let topic = Topic::Stream(Stream::Job(JobId::new()));
            drop(bus.subscribe(topic).await.expect("never fails"));
        }
        assert!(bus.topics.lock().expect("not poisoned").senders.len() <= FEW);
        drop(kept);
    }
}
