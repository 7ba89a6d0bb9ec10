//! The body of a good answer, cut into JSON values: server-sent events, or one object from servers that don't stream.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use errand_common::domain::FailureClass;
use futures::{Stream, StreamExt, stream};
use reqwest::{Response, header::CONTENT_TYPE};
use serde_json::Value;
use sse_stream::{Sse, SseByteStream};

use super::failure::{silent, too_long, transport};
use crate::engine::{TurnFailure, code};

/// JSON around the text of one event may take this much more than the text's limit, in bytes.
const ENVELOPE: usize = 64 * 1024;
/// A whole stream may take so many bytes for each byte of its text's limit: some servers wrap each token in some hundred.
const WRAPPING: usize = 256;

/// What comes next.
pub(super) enum Next {
    /// A piece of the answer.
    Piece(Value),
    /// The server says that nothing follows.
    Done,
    /// Nothing follows, and the server did not say so.
    End,
    /// It can't be read.
    Failed(TurnFailure),
}

type Body = Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>> + Send>>;
type Events = Pin<Box<dyn Stream<Item = Result<Sse, sse_stream::Error>> + Send>>;

/// A good answer's pieces.
pub(super) enum Pieces {
    /// Streamed.
    Events {
        /// One by one.
        events: Events,
        /// Bytes since the last event.
        unparsed: Arc<AtomicUsize>,
    },
    /// In one piece, not read yet.
    Whole(Body),
    /// All taken.
    Taken,
    /// Neither.
    Neither(String),
}

/// Why the bytes of a body end early.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error("transport")]
    Transport(reqwest::Error),
    #[error("silence")]
    Silent(Duration),
    #[error("size")]
    TooLong(usize),
}

impl From<&BodyError> for TurnFailure {
    fn from(error: &BodyError) -> Self {
        match error {
            BodyError::Transport(error) => broken(error),
            BodyError::Silent(idle) => silent(*idle),
            BodyError::TooLong(limit) => too_long(*limit),
        }
    }
}

impl Pieces {
    /// Judged by the content type; a missing one is taken for a stream.
    pub(super) fn new(response: Response, limit: usize, idle: Duration) -> Self {
        let header = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let content_type = header.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let unparsed = Arc::new(AtomicUsize::new(0));
        let body: Body = Box::pin(body(response, Arc::clone(&unparsed), limit, idle));
        match content_type.as_str() {
            "text/event-stream" | "text/plain" | "application/octet-stream" | "" => {
                Self::Events { events: Box::pin(SseByteStream::new(body)), unparsed }
            }
            json if json.contains("json") => Self::Whole(body),
            other => Self::Neither(other.to_owned()),
        }
    }

    /// Cancel-safe while it streams.
    pub(super) async fn next(&mut self) -> Next {
        match self {
            Self::Events { events, unparsed } => next_event(events, unparsed).await,
            Self::Whole(body) => {
                let piece = read_whole(body).await;
                *self = Self::Taken;
                piece
            }
            Self::Taken => Next::Done,
            Self::Neither(content_type) => Next::Failed(not_an_answer(&format!("a body of type {content_type:?}"))),
        }
    }
}

async fn next_event(events: &mut Events, unparsed: &AtomicUsize) -> Next {
    while let Some(event) = events.next().await {
        unparsed.store(0, Ordering::Relaxed);
        let data = match event {
            Ok(event) => event.data.unwrap_or_default(),
            Err(sse_stream::Error::Body(error)) => {
                let known = error.downcast_ref::<BodyError>().map(TurnFailure::from);
                return Next::Failed(known.unwrap_or_else(|| not_an_answer("an unreadable body")));
            }
            Err(_) => return Next::Failed(not_an_answer("a stream that is not UTF-8")),
        };
        match data.trim() {
            // A comment, or a field without data.
            "" => {}
            "[DONE]" => return Next::Done,
            json => return parse(json.as_bytes()),
        }
    }
    Next::End
}

/// The bytes of a streamed body. `unparsed` grows with them, and is set back by whoever finds an event in them.
fn body(
    response: Response,
    unparsed: Arc<AtomicUsize>,
    limit: usize,
    idle: Duration,
) -> impl Stream<Item = Result<Bytes, BodyError>> + Send {
    let most = limit.saturating_add(ENVELOPE);
    let most_in_all = limit.saturating_mul(WRAPPING).saturating_add(ENVELOPE);
    stream::unfold((response, unparsed, 0_usize), move |(mut response, unparsed, taken)| async move {
        let mut taken = taken;
        let piece = match tokio::time::timeout(idle, response.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                let pending = unparsed.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
                taken = taken.saturating_add(bytes.len());
                if pending > most || taken > most_in_all { Err(BodyError::TooLong(limit)) } else { Ok(bytes) }
            }
            Ok(Ok(None)) => return None,
            Ok(Err(error)) => Err(BodyError::Transport(error)),
            Err(_) => Err(BodyError::Silent(idle)),
        };
        Some((piece, (response, unparsed, taken)))
    })
}

async fn read_whole(pieces: &mut Body) -> Next {
    let mut body = Vec::new();
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => body.extend_from_slice(&piece),
            Err(error) => return Next::Failed(TurnFailure::from(&error)),
        }
    }
    parse(&body)
}

fn parse(json: &[u8]) -> Next {
    match serde_json::from_slice(json) {
        Ok(piece) => Next::Piece(piece),
        Err(_) => Next::Failed(not_an_answer("something that is not JSON")),
    }
}

fn broken(error: &reqwest::Error) -> TurnFailure {
    transport("the connection broke in the midst of the answer", error)
}

/// A broken intermediary, or a wrong address: another attempt will tell.
fn not_an_answer(what: &str) -> TurnFailure {
    let message = format!("the server sent {what}; does its `base_url` lead to the API?");
    TurnFailure::new(FailureClass::Transient, code::EXECUTION_ERROR, message)
}
