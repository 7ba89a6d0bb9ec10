//! A watcher of streams over WebSocket.

use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest, http::HeaderValue},
};

use crate::{Client, wait};

/// An open socket.
#[derive(Debug)]
pub struct Socket {
    socket: WebSocketStream<TcpStream>,
    close_reason: String,
}

/// Bytes the system takes in for such a socket before its reader does.
const LITTLE_ROOM: u32 = 16 * 1024;

/// What came.
#[derive(Clone, PartialEq, Debug)]
pub enum Incoming {
    /// A frame of the protocol.
    Frame(Value),
    /// The server closed, with this code; 1006 if it just went away.
    Closed(u16),
}

impl Socket {
    /// Opens a socket with the client's key in the header.
    pub async fn open(client: &Client) -> Self {
        Self::connect(client, Some(client.key()), None).await.expect("a socket")
    }

    /// The same with little room on this side, so that a client that does not read is soon felt by the server.
    pub async fn open_narrow(client: &Client) -> Self {
        Self::connect(client, Some(client.key()), Some(LITTLE_ROOM)).await.expect("a socket")
    }

    /// Opens a socket that has yet to say who it is.
    pub async fn open_anonymous(client: &Client) -> Self {
        Self::connect(client, None, None).await.expect("a socket")
    }

    /// The status with which the server refuses to open a socket; `None` if it doesn't.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn refusal(client: &Client) -> Option<u16> {
        match Self::connect(client, Some(client.key()), None).await {
            Ok(_) => None,
            Err(Error::Http(response)) => Some(response.status().as_u16()),
            Err(error) => panic!("no answer: {error}"),
        }
    }

    async fn connect(client: &Client, key: Option<&str>, room: Option<u32>) -> Result<Self, Error> {
        let url = format!("{}/api/v1/stream", client.base().replacen("http", "ws", 1));
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("errand.v1"));
        if let Some(key) = key {
            let value = HeaderValue::from_str(&format!("Bearer {key}")).expect("a header");
            request.headers_mut().insert("authorization", value);
        }
        let stream = TcpSocket::new_v4()?;
        if let Some(room) = room {
            stream.set_recv_buffer_size(room)?;
        }
        let address = client.base().trim_start_matches("http://").parse().expect("an address");
        let stream = stream.connect(address).await?;
        let (socket, response) = wait::bounded("the handshake", client_async(request, stream)).await?;
        assert_eq!(response.headers()["sec-websocket-protocol"], "errand.v1");
        Ok(Self { socket, close_reason: String::new() })
    }

    /// Sends one frame.
    ///
    /// # Panics
    /// If the socket is broken.
    pub async fn send(&mut self, frame: &Value) {
        self.send_text(&frame.to_string()).await;
    }

    /// Sends bytes, which no frame of the protocol is.
    ///
    /// # Panics
    /// If the socket is broken.
    pub async fn send_bytes(&mut self, bytes: &'static [u8]) {
        self.socket.send(Message::binary(bytes)).await.expect("the frame is sent");
    }

    /// What the server closes with, whatever comes before.
    pub async fn close_code(&mut self) -> u16 {
        loop {
            if let Incoming::Closed(code) = self.next().await {
                return code;
            }
        }
    }

    /// The words that came with the close code.
    #[must_use]
    pub fn close_reason(&self) -> &str {
        &self.close_reason
    }

    /// Sends any text.
    ///
    /// # Panics
    /// If the socket is broken.
    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("the frame is sent");
    }

    /// What comes next, pings aside.
    ///
    /// # Panics
    /// If nothing comes in time.
    pub async fn next(&mut self) -> Incoming {
        loop {
            match wait::bounded("the next frame", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => {
                    return Incoming::Frame(serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}")));
                }
                Some(Ok(Message::Close(Some(close)))) => {
                    self.close_reason = close.reason.to_string();
                    return Incoming::Closed(close.code.into());
                }
                Some(Ok(Message::Close(None)) | Err(_)) | None => return Incoming::Closed(1006),
                Some(Ok(_)) => {}
            }
        }
    }

    /// The next frame of the protocol.
    ///
    /// # Panics
    /// If the server closes instead.
    pub async fn frame(&mut self) -> Value {
        match self.next().await {
            Incoming::Frame(frame) => frame,
            Incoming::Closed(code) => panic!("the server closed with {code}"),
        }
    }

    /// Frames up to and including the first of this type.
    ///
    /// # Panics
    /// If the server closes before.
    pub async fn take_until(&mut self, kind: &str) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            frames.push(self.frame().await);
            if frames.last().is_some_and(|frame| frame["type"] == kind) {
                return frames;
            }
        }
    }
}
