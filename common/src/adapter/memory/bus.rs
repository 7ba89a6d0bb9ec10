//! The bus inside one process: one broadcast channel a topic, there as long as somebody listens.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::broadcast;

use crate::port::{Bus, BusError, BusMessage, Subscription, Topic};

/// Messages a subscriber may lag behind before it is told that it lost some.
const LAG: usize = 4_096;

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryBus {
    topics: Mutex<HashMap<Topic, broadcast::Sender<Arc<str>>>>,
}

#[async_trait]
impl Bus for MemoryBus {
    async fn publish(&self, messages: Vec<BusMessage>) -> Result<(), BusError> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        for message in messages {
            // Sending fails only when the last subscriber has gone: then the topic goes too.
            if topics.get(&message.topic).is_some_and(|sender| sender.send(message.payload).is_err()) {
                topics.remove(&message.topic);
            }
        }
        Ok(())
    }

    async fn subscribe(&self, topic: Topic) -> Result<Subscription, BusError> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = topics.entry(topic).or_insert_with(|| broadcast::channel(LAG).0);
        Ok(Subscription::new(sender.subscribe()))
    }
}
