//! The hub on a bus that lags, closes or is away.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use errand_common::{
    domain::{Event, EventType, JobId},
    port::{BusError, BusMessage, StoreError, Subscription, Topic, store::StreamState},
};

use tokio::time::Instant;

use super::{feed::PAUSE, *};
use crate::relay::{frame::tests::event, watch::tests::FakeLog};

/// Messages a subscription holds before it lags.
const ROOM: usize = 2;

/// A bus in the hands of the test.
#[derive(Default)]
struct FakeBus {
    sender: Mutex<Option<broadcast::Sender<Arc<str>>>>,
    subscriptions: AtomicUsize,
    away: AtomicBool,
}

impl FakeBus {
    fn sender(&self) -> MutexGuard<'_, Option<broadcast::Sender<Arc<str>>>> {
        self.sender.lock().expect("lock")
    }

    fn carry(&self, event: &Event) {
        let payload = serde_json::to_string(event).expect("json");
        let sender = self.sender().clone().expect("a subscription");
        sender.send(payload.into()).expect("someone listens");
    }

    /// Ends the subscriptions there are.
    fn close(&self) {
        *self.sender() = None;
    }
}

#[async_trait]
impl Bus for FakeBus {
    async fn publish(&self, _: Vec<BusMessage>) -> Result<(), BusError> {
        Ok(())
    }

    async fn subscribe(&self, _: Topic) -> Result<Subscription, BusError> {
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Err(BusError("away".into()));
        }
        let receiver = self.sender().get_or_insert_with(|| broadcast::channel(ROOM).0).subscribe();
        Ok(Subscription::new(receiver))
    }
}

/// A log that counts how often it is read.
#[derive(Default)]
struct CountedLog {
    log: FakeLog,
    reads: AtomicUsize,
}

#[async_trait]
impl Log for CountedLog {
    async fn tails(&self, streams: &[Stream]) -> Result<Vec<(Stream, StreamState)>, StoreError> {
        self.log.tails(streams).await
    }

    async fn events(&self, stream: Stream, after: i64, limit: u32) -> Result<Vec<Event>, StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.log.events(stream, after, limit).await
    }

    async fn epoch(&self) -> Result<String, StoreError> {
        self.log.epoch().await
    }
}

struct Trial {
    log: Arc<CountedLog>,
    bus: Arc<FakeBus>,
    hub: Hub,
    job: JobId,
    _stop: tokio_util::sync::DropGuard,
}

impl Trial {
    fn new() -> Self {
        let (log, bus, stop) =
            (Arc::new(CountedLog::default()), Arc::new(FakeBus::default()), CancellationToken::new());
        let hub = Hub::start(log.clone(), bus.clone(), 64, &TaskTracker::new(), stop.clone());
        Self { log, bus, hub, job: JobId::new(), _stop: stop.drop_guard() }
    }

    async fn watch(&self) -> broadcast::Receiver<Arc<Frame>> {
        self.hub.watch(Stream::Job(self.job)).await.expect("watched")
    }

    /// Commits an event, of which the bus says nothing yet.
    fn commit(&self, seq: i64) -> Event {
        let event = event(self.job, seq, EventType::Text);
        self.log.log.0.lock().expect("lock").push(event.clone());
        event
    }
}

async fn seqs(live: &mut broadcast::Receiver<Arc<Frame>>, count: usize) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.push(live.recv().await.expect("a frame").seq);
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn what_a_lagging_bus_loses_is_read_from_the_log() {
    let trial = Trial::new();
    let mut live = trial.watch().await;
    // Without a pause, so that the feed hears only of the last ones.
    for seq in 1..=10 {
        trial.bus.carry(&trial.commit(seq));
    }
    assert_eq!(seqs(&mut live, 10).await, (1..=10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_closes_is_subscribed_to_again_and_nothing_is_missed() {
    let trial = Trial::new();
    let mut live = trial.watch().await;
    trial.bus.close();
    for seq in 1..=3 {
        trial.commit(seq);
    }
    assert_eq!(seqs(&mut live, 3).await, [1, 2, 3]);
    while trial.bus.sender().is_none() {
        tokio::time::sleep(PAUSE).await;
    }
    trial.bus.carry(&trial.commit(4));
    assert_eq!(seqs(&mut live, 1).await, [4]);
    assert_eq!(trial.bus.subscriptions.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_is_away_is_asked_now_and_then_and_the_log_tells_meanwhile() {
    let trial = Trial::new();
    trial.bus.away.store(true, Ordering::Relaxed);
    let mut live = trial.watch().await;
    for seq in 1..=5 {
        trial.commit(seq);
        assert_eq!(seqs(&mut live, 1).await, [seq]);
    }
    let asked = trial.bus.subscriptions.load(Ordering::Relaxed);
    assert!((2..=8).contains(&asked), "{asked} times");
}

#[tokio::test(start_paused = true)]
async fn a_feed_ends_with_its_last_watcher() {
    let trial = Trial::new();
    let (one, other) = (trial.watch().await, trial.watch().await);
    assert_eq!(trial.hub.feeds().len(), 1);
    drop(one);
    tokio::time::sleep(limit::TAIL_CHECK * 2).await;
    assert_eq!(trial.hub.feeds().len(), 1, "the other one still watches");
    drop(other);
    tokio::time::sleep(limit::TAIL_CHECK * 2).await;
    assert!(trial.hub.feeds().is_empty());
    let heard = trial.bus.sender().as_ref().map(broadcast::Sender::receiver_count);
    assert_eq!(heard, Some(0), "its subscription is gone too");
}

#[tokio::test(start_paused = true)]
async fn a_busy_stream_that_the_bus_tells_all_of_costs_no_look_at_the_log() {
    let trial = Trial::new();
    let mut live = trial.watch().await;
    for seq in 1..=100 {
        let event = trial.commit(seq);
        // On its way for longer than it takes to check the tail.
        tokio::time::sleep(Duration::from_millis(50)).await;
        trial.bus.carry(&event);
        assert_eq!(seqs(&mut live, 1).await, [seq]);
    }
    assert_eq!(trial.log.reads.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_last_word_that_the_bus_lost_is_read_from_the_log_soon() {
    let trial = Trial::new();
    let mut live = trial.watch().await;
    trial.bus.carry(&trial.commit(1));
    assert_eq!(seqs(&mut live, 1).await, [1]);
    trial.commit(2);
    let began = Instant::now();
    assert_eq!(seqs(&mut live, 1).await, [2]);
    assert!(began.elapsed() <= limit::TAIL_CHECK + limit::TAIL_GRACE * 2, "{:?}", began.elapsed());
}
