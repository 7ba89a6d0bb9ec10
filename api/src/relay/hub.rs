//! A live feed of each watched stream: gap-free and in order, from the moment one starts to watch.
//!
//! One task a stream listens to the bus. What the bus loses is seen by a gap in the numbers, or by the stream's tail,
//! which is read each second for all streams in one statement; then the feed reads the log. So watchers only join the
//! log with the feed, and never ask the bus.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use errand_common::{
    domain::{Event, Stream},
    port::{Bus, StoreError, Subscription, Topic, bus::Received},
};
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{frame::Frame, log::Log};
use crate::{
    limit,
    problem::{Problem, chain},
};

/// Streams of one statement of the tail check.
const TAILS_AT_ONCE: usize = 1_000;
/// Pause after a failed attempt to reach the store, and after the bus has closed a subscription.
const PAUSE: Duration = Duration::from_millis(250);
/// Longest wait for a subscription.
const BUS_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before the bus is asked again.
const BUS_PAUSE: Duration = Duration::from_secs(1);

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
        let task = FeedTask {
            stream,
            log: self.0.log.clone(),
            bus: self.0.bus.clone(),
            sender: sender.clone(),
            tail: tail.clone(),
            last: 0,
            epoch: "".into(),
        };
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

/// What the bus says next; without one, that it is time to ask for it again.
async fn hear(bus: Option<&mut Subscription>) -> Received {
    match bus {
        Some(subscription) => subscription.next().await,
        None => {
            tokio::time::sleep(BUS_PAUSE).await;
            Received::Closed
        }
    }
}

/// An event that is committed and was not heard of yet.
struct Awaited {
    tail: i64,
    /// The last that was handed on when it was found.
    last: i64,
    until: Instant,
}

impl Awaited {
    fn new(tail: i64, last: i64) -> Self {
        Self { tail, last, until: Instant::now() + limit::TAIL_GRACE }
    }
}

struct FeedTask {
    stream: Stream,
    log: Arc<dyn Log>,
    bus: Arc<dyn Bus>,
    sender: broadcast::Sender<Arc<Frame>>,
    tail: watch::Sender<Option<i64>>,
    /// Number of the last event handed on.
    last: i64,
    epoch: Arc<str>,
}

impl FeedTask {
    async fn run(mut self) {
        let mut bus = self.subscribe().await;
        // From here on the bus is heard, so nothing after this tail is missed without a gap.
        while let Err(error) = self.begin().await {
            tracing::warn!(stream = %self.stream, error = chain(&error), "a stream can't be watched yet");
            tokio::time::sleep(PAUSE).await;
        }
        let mut tail = self.tail.subscribe();
        let mut awaited: Option<Awaited> = None;
        loop {
            let patience = awaited.as_ref().map_or_else(Instant::now, |awaited| awaited.until);
            let received = tokio::select! {
                received = hear(bus.as_mut()) => received,
                changed = tail.changed() => {
                    let told = match changed {
                        Ok(()) => tail.borrow_and_update().unwrap_or_default(),
                        Err(_) => return,
                    };
                    if told <= self.last {
                        continue;
                    }
                    if bus.is_some() {
                        // It is on its way, as a rule: to look at once would read the log of each busy stream each second.
                        awaited.get_or_insert_with(|| Awaited::new(told, self.last)).tail = told;
                        continue;
                    }
                    Received::Lagged
                }
                () = sleep_until(patience), if awaited.is_some() => match awaited.take() {
                    Some(missing) if missing.tail <= self.last => continue,
                    // The bus goes on to tell: it is late, and a loss would show as a gap.
                    Some(late) if late.last < self.last => {
                        awaited = Some(Awaited::new(late.tail, self.last));
                        continue;
                    }
                    _ => Received::Lagged,
                },
            };
            match received {
                Received::Message(payload) => self.heard(&payload).await,
                Received::Lagged => self.read_log().await,
                Received::Closed => {
                    if bus.is_some() {
                        // A bus that closes each subscription at once must not make this a busy loop.
                        tokio::time::sleep(PAUSE).await;
                    }
                    bus = self.subscribe().await;
                    self.read_log().await;
                }
            }
        }
    }

    /// `None`: the bus is away, and the log alone tells until it is back.
    async fn subscribe(&self) -> Option<Subscription> {
        match tokio::time::timeout(BUS_TIMEOUT, self.bus.subscribe(Topic::Stream(self.stream))).await {
            Ok(Ok(subscription)) => Some(subscription),
            Ok(Err(error)) => {
                tracing::debug!(stream = %self.stream, %error, "a stream is polled until the bus is back");
                None
            }
            Err(_) => None,
        }
    }

    async fn begin(&mut self) -> Result<(), StoreError> {
        self.epoch = self.log.epoch().await?.into();
        let tails = self.log.tails(&[self.stream]).await?;
        self.last = tails.first().map_or(0, |(_, state)| state.tail_seq);
        self.tail.send_replace(Some(self.last));
        Ok(())
    }

    async fn heard(&mut self, payload: &str) {
        let Ok(event) = serde_json::from_str::<Event>(payload) else {
            tracing::warn!(stream = %self.stream, "the bus carried what is no event; the log is read instead");
            return self.read_log().await;
        };
        match event.seq_in(self.stream) {
            Some(seq) if seq == self.last + 1 => self.hand_on(event),
            Some(seq) if seq > self.last => self.read_log().await,
            _ => {}
        }
    }

    /// Hands on all that the log has beyond the last.
    async fn read_log(&mut self) {
        loop {
            match self.log.events(self.stream, self.last, limit::LOG_PAGE).await {
                Ok(events) => {
                    let whole = events.len() >= limit::LOG_PAGE as usize;
                    for event in events {
                        self.hand_on(event);
                    }
                    if !whole {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(stream = %self.stream, error = chain(&error), "a stream's log can't be read");
                    // The next tail check finds the rest if nothing is heard before.
                    self.tail.send_if_modified(|known| {
                        *known = Some(self.last);
                        false
                    });
                    return;
                }
            }
        }
    }

    fn hand_on(&mut self, event: Event) {
        if let Some(frame) = Frame::new(self.stream, self.epoch.clone(), event)
            && frame.seq > self.last
        {
            self.last = frame.seq;
            // Nobody there: the tail check will end this feed.
            let _ = self.sender.send(Arc::new(frame));
        }
    }
}

#[cfg(test)]
mod tests;
