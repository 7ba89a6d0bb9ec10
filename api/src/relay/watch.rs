//! One watcher's view of a stream: first the log from its position, then live, joined by number.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use errand_common::domain::{EventType, Stream};
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
    /// An event; with the number of the one delivered before, where some are left out.
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
    /// `live` must have been watched before the log is read; `ended` as the stream's state says.
    pub(crate) fn new(
        stream: Stream,
        log: Arc<dyn Log>,
        live: broadcast::Receiver<Arc<Frame>>,
        epoch: Arc<str>,
        after: i64,
        ended: bool,
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
            ended,
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
        if !self.filter.admits(frame.event.kind) {
            return None;
        }
        let prev = self.filter.leaves_out().then_some(self.delivered);
        self.delivered = frame.seq;
        Some(Step::Event(frame, prev))
    }

    async fn read_log(&mut self) -> Result<(), ()> {
        for attempt in 1..=LOG_ATTEMPTS {
            match self.log.events(self.stream, self.position, limit::LOG_PAGE).await {
                Ok(events) => {
                    if events.len() < limit::LOG_PAGE as usize {
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
