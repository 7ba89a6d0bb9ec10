//! Watchers of streams: they write down what they receive, and come back with their position whenever they are cut off.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt, TryStreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use sse_stream::SseStream;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use super::{
    history::{Seen, Watched},
    load::Acknowledged,
};
use crate::Client;

/// One job in so many is watched.
const WATCHED_EVERY: u64 = 10;

/// Watchers of jobs at one time.
const JOB_WATCHERS: usize = 64;

/// Watchers of sessions in all.
const SESSION_WATCHERS: usize = 32;

/// A stream that is silent for so long is opened anew: its connection may be half open.
const SILENCE: Duration = Duration::from_secs(12);

/// How long a watcher may take to reach the end of its stream once all is quiet.
const CATCH_UP: Duration = Duration::from_secs(30);

/// The end of each stream, once all is quiet.
pub type Tails = BTreeMap<String, i64>;

/// Watches a sample of what is acknowledged, until the tails are known and reached.
pub async fn watch(
    clients: Vec<Client>,
    mut acknowledged: mpsc::Receiver<Acknowledged>,
    tails: watch::Receiver<Option<Tails>>,
) -> Vec<Watched> {
    let mut watchers = JoinSet::new();
    let mut watched = Vec::new();
    let (mut jobs, mut sessions) = (0, std::collections::BTreeSet::new());
    while let Some(Acknowledged { number, job, session }) = acknowledged.recv().await {
        while let Some(done) = watchers.try_join_next() {
            jobs -= usize::from(keep(done, &mut watched));
        }
        // From the other api than its neighbour's.
        let mut clients = clients.clone();
        let first = usize::try_from(number / WATCHED_EVERY).unwrap_or_default() % clients.len();
        clients.rotate_left(first);
        let watcher = |stream| Watcher { clients, watched: Watched { stream, events: Vec::new(), to_the_end: true } };
        if let Some(session) = session
            && sessions.len() < SESSION_WATCHERS
            && sessions.insert(session)
        {
            watchers.spawn(watcher(format!("session:{session}")).run(Way::Socket, tails.clone()));
        } else if number.is_multiple_of(WATCHED_EVERY) && jobs < JOB_WATCHERS {
            jobs += 1;
            let way = if number.is_multiple_of(WATCHED_EVERY * 4) { Way::Socket } else { Way::Events };
            watchers.spawn(watcher(format!("job:{job}")).run(way, tails.clone()));
        }
    }
    while let Some(done) = watchers.join_next().await {
        keep(done, &mut watched);
    }
    watched
}

/// Keeps what a watcher brought; says whether it watched a job.
fn keep(done: Result<Watched, tokio::task::JoinError>, watched: &mut Vec<Watched>) -> bool {
    let done = done.expect("a watcher does not panic");
    let of_a_job = done.stream.starts_with("job:");
    watched.push(done);
    of_a_job
}

/// How a stream is watched.
#[derive(Clone, Copy)]
enum Way {
    /// Server-sent events.
    Events,
    /// A WebSocket.
    Socket,
}

struct Watcher {
    clients: Vec<Client>,
    watched: Watched,
}

impl Watcher {
    async fn run(mut self, way: Way, mut tails: watch::Receiver<Option<Tails>>) -> Watched {
        let mut deadline: Option<Instant> = None;
        loop {
            let ended = {
                let receiving = self.receive(way);
                tokio::select! {
                    ended = receiving => matches!(ended, Ok(true)),
                    () = reached(&mut tails, deadline) => false,
                }
            };
            let tail =
                tails.borrow().as_ref().map(|tails| tails.get(&self.watched.stream).copied().unwrap_or_default());
            if ended || tail.is_some_and(|tail| tail <= self.position()) {
                break;
            }
            if tail.is_some() {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + CATCH_UP);
                if Instant::now() >= deadline {
                    break;
                }
            }
            self.clients.rotate_left(1);
            sleep(Duration::from_millis(100)).await;
        }
        self.watched
    }

    fn position(&self) -> i64 {
        self.watched.events.last().map_or(0, |seen| seen.seq)
    }

    /// Receives until the stream has ended (`true`), or the connection has.
    async fn receive(&mut self, way: Way) -> Result<bool> {
        match way {
            Way::Events => self.receive_events().await,
            Way::Socket => self.receive_socket().await,
        }
    }

    async fn receive_events(&mut self) -> Result<bool> {
        let (family, id) = self.watched.stream.split_once(':').context("a stream's name")?;
        let path = match family {
            "job" => format!("/jobs/{id}/events"),
            _ => format!("/agent/sessions/{id}/events"),
        };
        let mut request = self.clients[0].request(Method::GET, &path).header("accept", "text/event-stream");
        if let Some(last) = self.watched.events.last() {
            request = request.header("last-event-id", format!("{}:{}", last.epoch, last.seq));
        }
        let response = timeout(SILENCE, request.send()).await??.error_for_status()?;
        let mut frames = SseStream::from_bytes_stream(Box::pin(response.bytes_stream().map_err(std::io::Error::other)));
        loop {
            let Some(frame) = timeout(SILENCE, frames.next()).await? else { return Ok(false) };
            let frame = frame.map_err(|error| anyhow::anyhow!("{error:?}"))?;
            if frame.event.as_deref() == Some("end") {
                return Ok(true);
            }
            let Some(data) = frame.data else { continue };
            let data: Value = serde_json::from_str(&data)?;
            let kind = frame.event.or_else(|| data["type"].as_str().map(str::to_owned));
            self.see(&data, kind.unwrap_or_default());
        }
    }

    async fn receive_socket(&mut self) -> Result<bool> {
        let client = &self.clients[0];
        let mut request = format!("{}/api/v1/stream", client.base().replacen("http", "ws", 1)).into_client_request()?;
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("errand.v1"));
        request.headers_mut().insert("authorization", HeaderValue::from_str(&format!("Bearer {}", client.key()))?);
        let (mut socket, _) = timeout(SILENCE, connect_async(request)).await??;
        let mut subscribe = json!({"type": "subscribe", "id": 1, "stream": self.watched.stream});
        if let Some(last) = self.watched.events.last() {
            subscribe["epoch"] = json!(last.epoch);
            subscribe["after"] = json!(last.seq);
        }
        socket.send(Message::text(subscribe.to_string())).await?;
        loop {
            let text = match timeout(SILENCE, socket.next()).await? {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(_))) | None => return Ok(false),
                Some(other) => {
                    other?;
                    continue;
                }
            };
            let frame: Value = serde_json::from_str(&text)?;
            match frame["type"].as_str().unwrap_or_default() {
                "event" => self.see(&frame, frame["event_type"].as_str().unwrap_or_default().to_owned()),
                "end" => return Ok(true),
                "subscribed" => {}
                "error" => bail!("{frame}"),
                other => self.see(&frame, other.to_owned()),
            }
        }
    }

    /// Writes an event down. A snapshot is written down as one: nothing in a run should cause it.
    fn see(&mut self, data: &Value, kind: String) {
        let ts = data["ts"].as_str().and_then(|ts| chrono::DateTime::parse_from_rfc3339(ts).ok());
        self.watched.events.push(Seen {
            epoch: data["epoch"].as_str().unwrap_or_default().to_owned(),
            seq: data["seq"].as_i64().unwrap_or_default(),
            job: data["job_id"].as_str().and_then(|id| id.parse().ok()).unwrap_or_default(),
            kind,
            ts: ts.map_or(0, |ts| ts.timestamp_micros()),
        });
    }
}

/// Waits until the tails are known; after that, until the deadline, or for a moment to see whether more comes.
async fn reached(tails: &mut watch::Receiver<Option<Tails>>, deadline: Option<Instant>) {
    match deadline {
        None => {
            let known = tails.wait_for(Option::is_some).await.is_ok();
            if !known {
                std::future::pending::<()>().await;
            }
        }
        Some(deadline) => {
            let _ = timeout_at(deadline, std::future::pending::<()>()).await;
        }
    }
}
