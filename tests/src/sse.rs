//! A watcher of a stream over server-sent events.

use std::pin::Pin;

use futures::{Stream, StreamExt, TryStreamExt};
use reqwest::Method;
use serde_json::Value;
use sse_stream::SseStream;

use crate::{Client, wait};

/// One frame as it came.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    /// `<epoch>:<seq>`; control frames may have none.
    pub id: Option<String>,
    /// `snapshot` or `end` on control frames, else nothing.
    pub event: Option<String>,
    /// The data.
    pub data: Value,
}

impl Frame {
    /// The event's type, or the control frame's name.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.event.as_deref().or_else(|| self.data["type"].as_str()).unwrap_or_default()
    }

    /// An event, not a control frame.
    #[must_use]
    pub const fn is_event(&self) -> bool {
        self.event.is_none()
    }

    /// Its number in the stream.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn seq(&self) -> i64 {
        self.data["seq"].as_i64().unwrap_or_else(|| panic!("a number: {self:?}"))
    }
}

/// A stream being watched.
pub struct Sse {
    retry: Option<u64>,
    frames: Pin<Box<dyn Stream<Item = Option<sse_stream::Sse>> + Send>>,
}

impl Sse {
    /// Watches a path below `/api/v1`, with headers of the caller's.
    ///
    /// # Panics
    /// If the server doesn't answer with a stream.
    pub async fn open(client: &Client, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut request = client.request(Method::GET, path).header("accept", "text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = wait::bounded("the stream's head", request.send()).await.expect("a stream");
        assert_eq!(response.status(), 200, "{path}");
        let kind = response.headers()["content-type"].to_str().expect("text");
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        let bytes = response.bytes_stream().map_err(std::io::Error::other);
        // A connection that breaks ends the stream: that is what a killed server looks like.
        let frames = SseStream::from_bytes_stream(Box::pin(bytes)).map(Result::ok);
        Self { retry: None, frames: Box::pin(frames) }
    }

    /// Watches a job from its first event.
    pub async fn of_job(client: &Client, id: &str) -> Self {
        Self::open(client, &format!("/jobs/{id}/events"), &[]).await
    }

    /// Goes on after `last`, as a browser would.
    pub async fn of_job_after(client: &Client, id: &str, last: &str) -> Self {
        Self::open(client, &format!("/jobs/{id}/events"), &[("last-event-id", last)]).await
    }

    /// The next frame; `None` once the connection has ended or broken.
    ///
    /// # Panics
    /// If nothing comes in time.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = wait::bounded("the next frame", self.frames.next()).await??;
            self.retry = frame.retry.or(self.retry);
            let Some(data) = frame.data else { continue };
            let data = serde_json::from_str(&data).unwrap_or_else(|error| panic!("no JSON: {error}: {data}"));
            return Some(Frame { id: frame.id, event: frame.event, data });
        }
    }

    /// After how many milliseconds the server has last told us to come again.
    #[must_use]
    pub const fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Frames up to and including the first for which `last` holds.
    ///
    /// # Panics
    /// If the stream ends before.
    pub async fn take_until(&mut self, last: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("the stream ended early: {frames:#?}"));
            frames.push(frame);
            if frames.last().is_some_and(&last) {
                return frames;
            }
        }
    }

    /// All frames to the end of the stream.
    pub async fn rest(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }
}

/// The events among frames.
#[must_use]
pub fn events(frames: &[Frame]) -> Vec<&Frame> {
    frames.iter().filter(|frame| frame.is_event()).collect()
}

/// Asserts that events are numbered from `first` on, each once and in order.
///
/// # Panics
/// If they aren't.
pub fn assert_gap_free(frames: &[Frame], first: i64) {
    let seen: Vec<i64> = events(frames).into_iter().map(Frame::seq).collect();
    let wanted: Vec<i64> = (first..).take(seen.len()).collect();
    assert_eq!(seen, wanted, "each number once and in order");
}

/// The text that a reader of these events sees: what was retracted is gone.
#[must_use]
pub fn visible_text(frames: &[Frame]) -> String {
    let mut pieces: Vec<(i64, &str)> = Vec::new();
    for frame in events(frames) {
        match frame.kind() {
            "text" => pieces.push((frame.seq(), frame.data["content"].as_str().unwrap_or_default())),
            "text_retracted" => {
                let from = frame.data["from_seq"].as_i64().unwrap_or(0);
                pieces.retain(|(seq, _)| *seq < from);
            }
            _ => {}
        }
    }
    pieces.into_iter().map(|(_, text)| text).collect()
}
