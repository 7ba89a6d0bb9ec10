//! `errand trial`: one small task through the whole system, watched over a WebSocket as a browser would.

mod log;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue},
};

use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    exit,
    screen::Screen,
};
use log::Log;

const SUBPROTOCOL: &str = "errand.v1";

#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct Trial {
    /// Which engine runs it
    #[arg(long, value_name = "NAME", default_value = "echo")]
    engine: String,
    /// Where streams are served [default: where Errand is]
    #[arg(long, env = "ERRAND_RELAY_URL", value_name = "URL")]
    relay_url: Option<String>,
    /// Longest that all of it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    timeout_seconds: u64,
    #[command(flatten)]
    client: ClientOptions,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Trial {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let client = Client::new(&self.client)?;
        let limit = Duration::from_secs(self.timeout_seconds);
        let mut log = Log::default();
        let watched = tokio::time::timeout(limit, self.watch(&client, &mut log, &mut screen)).await;
        let Ok(watched) = watched else {
            bail!("the task did not end within {} s; {}", self.timeout_seconds, log.describe());
        };
        watched?;
        let outcome = log.outcome().context("the stream ended without the task's end")?;
        Ok(exit::of_state(outcome).unwrap_or(ExitCode::from(exit::FAILED)))
    }

    async fn watch(&self, client: &Client, log: &mut Log, screen: &mut Screen) -> anyhow::Result<()> {
        let started = Instant::now();
        let body = json!({"prompt": "This is a trial.", "engineType": self.engine, "metadata": {"trial": true}});
        let job_id = client.send(Request::post("/api/v1/agent/tasks", Some(body))).await?.job_id()?;
        screen.note(&format!("submitted {job_id}"))?;

        let url = stream_url(self.relay_url.as_deref().unwrap_or(client.base().as_str()))?;
        let mut socket = open(&url, client.key()).await.with_context(|| format!("no WebSocket at {url}"))?;
        let stream = format!("job:{job_id}");
        let subscribe = json!({"type": "subscribe", "id": 1, "stream": stream, "after": 0});
        socket.send(Message::text(subscribe.to_string())).await.context("the WebSocket broke")?;
        while !log.ended() {
            let frame = next(&mut socket).await?;
            if let Some(said) = log.take(&frame)? {
                screen.note(&said)?;
            }
        }
        // The server closes too; whether it gets to is of no interest.
        let _ = socket.close(None).await;
        screen.line(&format!("{}, {} ms after its submission", log.describe(), started.elapsed().as_millis()))?;
        Ok(())
    }
}

/// The address of WebSockets at a server.
fn stream_url(base: &str) -> anyhow::Result<String> {
    let address = base.strip_prefix("http").filter(|rest| rest.starts_with("://") || rest.starts_with("s://"));
    let address =
        address.with_context(|| format!("{base:?} is not a URL of a server; write it like http://host:8080"))?;
    Ok(format!("ws{}/api/v1/stream", address.trim_end_matches('/')))
}

async fn open(url: &str, key: Option<&str>) -> anyhow::Result<Socket> {
    let mut request = url.into_client_request()?;
    let headers = request.headers_mut();
    headers.insert("Sec-WebSocket-Protocol", HeaderValue::from_static(SUBPROTOCOL));
    if let Some(key) = key {
        let mut value = HeaderValue::from_str(&format!("Bearer {key}"))?;
        value.set_sensitive(true);
        headers.insert("Authorization", value);
    }
    Ok(connect_async(request).await?.0)
}

/// The next frame of the protocol.
async fn next(socket: &mut Socket) -> anyhow::Result<Value> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).context("a frame is not JSON"),
            Some(Ok(Message::Close(Some(close)))) => {
                bail!("the server closed the WebSocket: {} {}", close.code, close.reason)
            }
            Some(Ok(Message::Close(None))) | None => bail!("the server closed the WebSocket without a word"),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error).context("the WebSocket broke"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_streams_follows_from_the_servers() {
        assert_eq!(stream_url("http://h:1/").expect("a URL"), "ws://h:1/api/v1/stream");
        assert_eq!(stream_url("https://h").expect("a URL"), "wss://h/api/v1/stream");
        assert!(stream_url("httpx://h").is_err() && stream_url("h:1").is_err());
    }
}
