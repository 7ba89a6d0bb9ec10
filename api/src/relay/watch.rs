//! One watcher's view of a stream: first the log from its position, then live, joined by number.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use errand_common::{
    domain::{Event, EventType, Stream},
    port::store::StreamState,
};
use tokio::sync::broadcast::{self, error::RecvError};

use super::{
    frame::{Frame, ends_job},
    log::Log,
};
use crate::{limit, problem::chain};

/// How often a log that can't be read is tried again before the watcher is let go.
const LOG_ATTEMPTS: u32 = 5;

/// Which events a watcher gets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Only these types; `None`: all.
    pub(crate) types: Option<Vec<EventType>>,
}

impl Filter {
    fn admits(&self, kind: EventType) -> bool {
        self.types.as_ref().is_none_or(|types| types.contains(&kind))
    }

    /// Whether some events may be left out, so that those delivered must say which came before.
    const fn leaves_out(&self) -> bool {
        self.types.is_some()
    }
}

/// What comes next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// An event; with the number of the one delivered before, where some are or were left out.
    Event(Arc<Frame>, Option<i64>),
    /// The job has ended, and all of it was delivered.
    End,
    /// The watcher reads too slowly.
    Slow,
    /// The log can't be read; come again later.
    Failed,
}

/// See the module.
pub(crate) struct Watch {
    stream: Stream,
    log: Arc<dyn Log>,
    live: broadcast::Receiver<Arc<Frame>>,
    epoch: Arc<str>,
    filter: Filter,
    /// Number of the last event taken, delivered or not.
    position: i64,
    /// Number of the last event delivered.
    delivered: i64,
    page: VecDeque<Arc<Frame>>,
    phase: Phase,
    /// The job has ended: what the log has is all there is.
    ended: bool,
    /// The highest number that is known to have been in the log. One who reads the log to its end and doesn't reach it has
    /// lost events to retention.
    tail: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The log has more.
    Log,
    /// The log is read to its end, and nothing was taken from the live feed since: a lag now is owed to the reading.
    Joining,
    /// Only the feed; a lag now is the watcher's own.
    Live,
}

impl Watch {
    /// `live` must have been watched before the stream's state was read, and the log is read after both.
    pub(crate) fn new(
        stream: Stream,
        log: Arc<dyn Log>,
        live: broadcast::Receiver<Arc<Frame>>,
        epoch: Arc<str>,
        after: i64,
        state: &StreamState,
        filter: Filter,
    ) -> Self {
        Self {
            stream,
            log,
            live,
            epoch,
            filter,
            position: after,
            delivered: after,
            page: VecDeque::new(),
            phase: Phase::Log,
            ended: state.ended,
            tail: state.tail_seq,
        }
    }

    /// Waits for the next step. After anything but an event there is none.
    pub(crate) async fn next(&mut self) -> Step {
        loop {
            if let Some(frame) = self.page.pop_front() {
                if let Some(step) = self.take(frame) {
                    return step;
                }
                continue;
            }
            match self.phase {
                Phase::Log => {
                    if self.read_log().await.is_err() {
                        return Step::Failed;
                    }
                }
                Phase::Joining | Phase::Live if self.ended => return Step::End,
                Phase::Joining | Phase::Live => match self.live.recv().await {
                    Ok(frame) => {
                        self.phase = Phase::Live;
                        if frame.seq == self.position + 1 {
                            self.page.push_back(frame);
                        } else if frame.seq > self.position {
                            self.tail = frame.seq;
                            self.phase = Phase::Log;
                        }
                    }
                    Err(RecvError::Lagged(_)) if self.phase == Phase::Joining => self.phase = Phase::Log,
                    Err(RecvError::Lagged(_)) => return Step::Slow,
                    Err(RecvError::Closed) => return Step::Failed,
                },
            }
        }
    }

    fn take(&mut self, frame: Arc<Frame>) -> Option<Step> {
        if frame.seq <= self.position {
            return None;
        }
        self.position = frame.seq;
        if matches!(self.stream, Stream::Job(_)) && ends_job(frame.event.kind) {
            self.ended = true;
        }
        if !self.filter.admits(frame.event.kind) || frame.event.is_withheld(self.stream) {
            return None;
        }
        let left_out = self.filter.leaves_out() || frame.seq != self.delivered + 1;
        let prev = left_out.then_some(self.delivered);
        self.delivered = frame.seq;
        Some(Step::Event(frame, prev))
    }

    async fn read_log(&mut self) -> Result<(), ()> {
        for attempt in 1..=LOG_ATTEMPTS {
            match self.log.events(self.stream, self.position, limit::LOG_PAGE).await {
                Ok(events) => {
                    let seq = |event: Option<&Event>| event.and_then(|event| event.seq_in(self.stream));
                    let whole = events.len() < limit::LOG_PAGE as usize;
                    let follows = seq(events.first()).is_none_or(|first| first == self.position + 1);
                    let reaches = seq(events.last()).unwrap_or(self.position) >= self.tail;
                    if !follows || (whole && !reaches) {
                        // What follows was dropped meanwhile: the watcher begins anew, and is told where.
                        return Err(());
                    }
                    if whole {
                        self.phase = Phase::Joining;
                    }
                    let frames = events.into_iter().filter_map(|e| Frame::new(self.stream, self.epoch.clone(), e));
                    self.page.extend(frames.map(Arc::new));
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(stream = %self.stream, attempt, error = chain(&error), "a log can't be read");
                    tokio::time::sleep(Duration::from_millis(200) * attempt).await;
                }
            }
        }
        Err(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use errand_common::{domain::JobId, port::StoreError};
    use proptest::prelude::*;

    use super::*;
    use crate::relay::frame::tests::event;

    /// A log in memory.
    #[derive(Default)]
    pub(crate) struct FakeLog(pub(crate) Mutex<Vec<Event>>);

    #[async_trait]
    impl Log for FakeLog {
        async fn tails(&self, streams: &[Stream]) -> Result<Vec<(Stream, StreamState)>, StoreError> {
            let tail_seq = self.0.lock().expect("lock").last().map_or(0, |event| event.seq);
            Ok(streams.iter().map(|s| (*s, StreamState { first_seq: 1, tail_seq, ended: false })).collect())
        }

        async fn events(&self, _: Stream, after: i64, limit: u32) -> Result<Vec<Event>, StoreError> {
            let events = self.0.lock().expect("lock");
            Ok(events.iter().filter(|event| event.seq > after).take(limit as usize).cloned().collect())
        }

        async fn epoch(&self) -> Result<String, StoreError> {
            Ok("e".to_owned())
        }
    }

    fn state(tail_seq: i64) -> StreamState {
        StreamState { first_seq: 1, tail_seq, ended: false }
    }

    fn story(job: JobId, length: i64) -> Vec<Event> {
        (1..=length)
            .map(|seq| {
                let kind = match seq {
                    last if last == length => EventType::Completed,
                    seq if seq % 3 == 0 => EventType::Thinking,
                    _ => EventType::Text,
                };
                event(job, seq, kind)
            })
            .collect()
    }

    /// All that a watcher gets: the log holds the first `logged`, the feed carries all after `heard_from`.
    async fn watched(length: i64, logged: i64, heard_from: i64, after: i64, filter: Filter) -> Vec<(i64, Option<i64>)> {
        let job = JobId::new();
        let (stream, events) = (Stream::Job(job), story(job, length));
        let (feed, live) = broadcast::channel(2_048);
        for event in events.iter().filter(|event| event.seq > heard_from) {
            let frame = Frame::new(stream, "e".into(), event.clone()).expect("of this stream");
            feed.send(Arc::new(frame)).expect("someone listens");
        }
        let kept = events.into_iter().filter(|event| event.seq <= logged).collect();
        let log = Arc::new(FakeLog(Mutex::new(kept)));
        let mut watch = Watch::new(stream, log, live, "e".into(), after, &state(logged), filter);
        let mut seen = Vec::new();
        loop {
            match watch.next().await {
                Step::Event(frame, prev) => seen.push((frame.seq, prev)),
                Step::End => return seen,
                step => panic!("{step:?}"),
            }
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_watcher_sees_every_number_once_and_in_order(
            length in 1_i64..700, logged in 0.0..=1.0_f64, heard in 0.0..=1.0_f64, after in 0.0..1.0_f64,
        ) {
            #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "small numbers")]
            let share = |of: i64, part: f64| (of as f64 * part) as i64;
            let logged = share(length, logged);
            let (heard_from, after) = (share(logged, heard), share(logged, after));
            let seen = run(watched(length, logged, heard_from, after, Filter::default()));
            let wanted: Vec<_> = (after + 1..=length).map(|seq| (seq, None)).collect();
            prop_assert_eq!(seen, wanted);
        }
    }

    #[test]
    fn where_events_are_left_out_each_names_the_one_delivered_before() {
        let only = Filter { types: Some(vec![EventType::Thinking, EventType::Completed]) };
        assert_eq!(run(watched(7, 4, 4, 0, only)), [(3, Some(0)), (6, Some(3)), (7, Some(6))]);
    }

    #[test]
    fn what_voice_mode_withholds_is_withheld_from_the_session_alone_and_never_looks_like_a_loss() {
        let (job, session) = (JobId::new(), errand_common::domain::SessionId::new());
        let kinds =
            [EventType::Started, EventType::Thinking, EventType::ToolUse, EventType::Text, EventType::Completed];
        let told: Vec<Event> = (1_i64..)
            .zip(kinds)
            .map(|(seq, kind)| {
                let said = errand_common::domain::NewEvent::new(kind, serde_json::json!({})).by_voice();
                let at = event(job, seq, kind);
                Event { session_id: Some(session), session_seq: Some(seq), data: said.data, ..at }
            })
            .collect();
        let seen = |stream: Stream| {
            let (_feed, live) = broadcast::channel(8);
            let log = Arc::new(FakeLog(Mutex::new(told.clone())));
            let mut watch = Watch::new(stream, log, live, "e".into(), 0, &state(5), Filter::default());
            let mut seen = Vec::new();
            run(async {
                while let Step::Event(frame, prev) = watch.next().await {
                    seen.push((frame.seq, prev));
                    if frame.event.kind == EventType::Completed {
                        break;
                    }
                }
            });
            seen
        };
        assert_eq!(seen(Stream::Session(session)), [(1, None), (4, Some(1)), (5, None)]);
        assert_eq!(seen(Stream::Job(job)).len(), 5);
    }

    #[test]
    fn a_watcher_that_falls_behind_the_live_feed_is_cut_off() {
        let job = JobId::new();
        let stream = Stream::Job(job);
        let (feed, live) = broadcast::channel(2);
        let send = |seq| {
            let frame = Frame::new(stream, "e".into(), event(job, seq, EventType::Text)).expect("of this stream");
            feed.send(Arc::new(frame)).expect("someone listens");
        };
        let log = Arc::new(FakeLog::default());
        let mut watch = Watch::new(stream, log, live, "e".into(), 0, &state(0), Filter::default());
        send(1);
        assert!(matches!(run(watch.next()), Step::Event(frame, None) if frame.seq == 1));
        (2..=5).for_each(send);
        assert!(matches!(run(watch.next()), Step::Slow));
    }

    #[test]
    fn a_watcher_whose_events_are_dropped_while_it_begins_is_told_to_begin_anew() {
        let job = JobId::new();
        let stream = Stream::Job(job);
        for kept in [vec![], story(job, 3).split_off(1)] {
            let (_feed, live) = broadcast::channel(2);
            let log = Arc::new(FakeLog(Mutex::new(kept)));
            let ended = StreamState { ended: true, ..state(3) };
            let mut watch = Watch::new(stream, log, live, "e".into(), 0, &ended, Filter::default());
            assert!(matches!(run(watch.next()), Step::Failed));
        }
    }
}
