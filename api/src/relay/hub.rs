//! A live feed of each watched stream: gap-free and in order, from the moment one starts to watch.
//!
//! One task a stream listens to the bus. What the bus loses is seen by a gap in the numbers, or by the stream's tail,
//! which is read each second for all streams in one statement and found to be ahead for a moment; then the feed reads the
//! log. So watchers only join the log with the feed, and never ask the bus.

mod feed;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use errand_common::{domain::Stream, port::Bus};
use tokio::sync::{broadcast, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::feed::FeedTask;
use super::{frame::Frame, log::Log};
use crate::{
    limit,
    problem::{Problem, chain},
};

/// Streams of one statement of the tail check.
const TAILS_AT_ONCE: usize = 1_000;

/// See the module.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Inner>);

struct Inner {
    log: Arc<dyn Log>,
    bus: Arc<dyn Bus>,
    buffer: usize,
    feeds: Mutex<HashMap<Stream, Feed>>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// The hub's end of one stream's task.
struct Feed {
    sender: broadcast::Sender<Arc<Frame>>,
    /// The tail as last read; `None` until the feed is live.
    tail: watch::Sender<Option<i64>>,
    gone: CancellationToken,
}

impl Hub {
    /// Starts the tail check. Everything ends when `stop` is cancelled.
    pub(crate) fn start(
        log: Arc<dyn Log>,
        bus: Arc<dyn Bus>,
        buffer: usize,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let inner = Inner { log, bus, buffer: buffer.max(1), feeds: Mutex::default(), tracker: tracker.clone(), stop };
        let hub = Self(Arc::new(inner));
        tracker.spawn(check_tails(hub.clone()));
        hub
    }

    pub(crate) fn log(&self) -> Arc<dyn Log> {
        self.0.log.clone()
    }

    /// Everything that is committed to `stream` after this returns, and perhaps a little from before.
    pub(crate) async fn watch(&self, stream: Stream) -> Result<broadcast::Receiver<Arc<Frame>>, Problem> {
        let (receiver, mut tail) = self.join(stream);
        let live = tokio::time::timeout(limit::FEED_START, tail.wait_for(Option::is_some)).await;
        match live {
            Ok(Ok(_)) => Ok(receiver),
            Ok(Err(_)) | Err(_) => {
                Err(Problem::unavailable("store_unavailable", "The stream can't be read now; try again"))
            }
        }
    }

    fn join(&self, stream: Stream) -> (broadcast::Receiver<Arc<Frame>>, watch::Receiver<Option<i64>>) {
        let mut feeds = self.feeds();
        if let Some(feed) = feeds.get(&stream) {
            return (feed.sender.subscribe(), feed.tail.subscribe());
        }
        let (sender, receiver) = broadcast::channel(self.0.buffer);
        let (tail, tail_read) = watch::channel(None);
        let gone = self.0.stop.child_token();
        let task = FeedTask::new(stream, self.0.log.clone(), self.0.bus.clone(), sender.clone(), tail.clone());
        let stop = gone.clone();
        self.0.tracker.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task.run() => {}
            }
        });
        feeds.insert(stream, Feed { sender, tail, gone });
        (receiver, tail_read)
    }

    fn feeds(&self) -> MutexGuard<'_, HashMap<Stream, Feed>> {
        self.0.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the feeds that nobody watches; the streams of the others.
    fn watched(&self) -> Vec<Stream> {
        let mut feeds = self.feeds();
        feeds.retain(|_, feed| {
            let watched = feed.sender.receiver_count() > 0;
            if !watched {
                feed.gone.cancel();
            }
            watched
        });
        feeds.keys().copied().collect()
    }

    fn tell_tail(&self, stream: Stream, tail: i64) {
        if let Some(feed) = self.feeds().get(&stream) {
            // A feed that is not live yet reads its own tail first.
            feed.tail.send_if_modified(|known| match known {
                Some(known) if *known < tail => {
                    *known = tail;
                    true
                }
                _ => false,
            });
        }
    }
}

async fn check_tails(hub: Hub) {
    let stop = hub.0.stop.clone();
    let mut away = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(limit::TAIL_CHECK) => {}
        }
        for streams in hub.watched().chunks(TAILS_AT_ONCE) {
            match hub.0.log.tails(streams).await {
                Ok(tails) => {
                    away = false;
                    for (stream, state) in tails {
                        hub.tell_tail(stream, state.tail_seq);
                    }
                }
                Err(error) => {
                    if !away {
                        tracing::warn!(error = chain(&error), "the watched streams' tails can't be read");
                    }
                    away = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
