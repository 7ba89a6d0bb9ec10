//! The bus on Redis: publish and subscribe.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use redis::Pipeline;

use super::{
    commands::{Commands, Failure},
    pubsub::PubSub,
};
use crate::port::{Bus, BusError, BusMessage, Subscription, Topic};

/// Most messages sent together.
const BATCH: usize = 250;
/// Most channels of a cluster that are published to at once.
const AT_ONCE: usize = 32;

/// See the module.
#[derive(Debug)]
pub struct RedisBus {
    commands: Commands,
    pubsub: Arc<PubSub>,
    prefix: String,
}

impl RedisBus {
    pub(super) fn new(commands: Commands, pubsub: Arc<PubSub>, prefix: &str) -> Self {
        Self { commands, pubsub, prefix: format!("{prefix}:bus:") }
    }

    fn channel(&self, topic: Topic) -> String {
        format!("{}{topic}", self.prefix)
    }

    async fn publish_batch(&self, messages: &[BusMessage]) -> Result<(), Failure> {
        let Some(first) = messages.first() else { return Ok(()) };
        let mut pipeline = Pipeline::with_capacity(messages.len());
        for message in messages {
            pipeline.cmd("PUBLISH").arg(self.channel(message.topic)).arg(&*message.payload);
        }
        self.commands.pipeline(&self.channel(first.topic), &pipeline).await
    }

    /// A pipeline for each channel, since they lie on different nodes.
    async fn publish_by_channel(&self, messages: &[BusMessage]) -> Result<(), Failure> {
        let mut pipelines: BTreeMap<String, Pipeline> = BTreeMap::new();
        for message in messages {
            let channel = self.channel(message.topic);
            let pipeline = pipelines.entry(channel.clone()).or_default();
            pipeline.cmd("SPUBLISH").arg(channel).arg(&*message.payload);
        }
        let each = pipelines
            .into_iter()
            .map(|(channel, pipeline)| async move { self.commands.pipeline(&channel, &pipeline).await });
        // One node that can't be reached must not keep the others from theirs.
        let outcomes: Vec<Result<(), Failure>> = stream::iter(each).buffer_unordered(AT_ONCE).collect().await;
        outcomes.into_iter().collect()
    }
}

#[async_trait]
impl Bus for RedisBus {
    async fn publish(&self, messages: Vec<BusMessage>) -> Result<(), BusError> {
        for batch in messages.chunks(BATCH) {
            let sent = if self.commands.is_cluster() {
                self.publish_by_channel(batch).await
            } else {
                self.publish_batch(batch).await
            };
            sent.map_err(|failure| BusError(failure.to_string()))?;
        }
        Ok(())
    }

    async fn subscribe(&self, topic: Topic) -> Result<Subscription, BusError> {
        let receiver = self.pubsub.subscribe(&self.channel(topic)).await;
        receiver.map(Subscription::new).map_err(|failure| BusError(failure.to_string()))
    }
}
