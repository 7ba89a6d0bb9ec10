//! The feed of one stream: what the bus says, and from the log what it lost.

use std::{sync::Arc, time::Duration};

use errand_common::{
    domain::{Event, Stream},
    port::{Bus, StoreError, Subscription, Topic, bus::Received},
};
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, sleep_until},
};

use crate::{
    limit,
    problem::chain,
    relay::{frame::Frame, log::Log},
};

/// Pause after a failed attempt to reach the store, and after the bus has closed a subscription.
pub(super) const PAUSE: Duration = Duration::from_millis(250);
/// Longest wait for a subscription.
const BUS_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before the bus is asked again.
const BUS_PAUSE: Duration = Duration::from_secs(1);

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

/// Hears of one stream, and hands its events on.
pub(super) struct FeedTask {
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
    pub(super) fn new(
        stream: Stream,
        log: Arc<dyn Log>,
        bus: Arc<dyn Bus>,
        sender: broadcast::Sender<Arc<Frame>>,
        tail: watch::Sender<Option<i64>>,
    ) -> Self {
        Self { stream, log, bus, sender, tail, last: 0, epoch: "".into() }
    }

    /// Until it is dropped.
    pub(super) async fn run(mut self) {
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
