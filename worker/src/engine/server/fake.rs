//! A server on loopback that answers each connection with prepared bytes, for tests.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::task::AbortOnDropHandle;

/// What one connection gets, in pieces that are sent apart.
#[derive(Clone, Default)]
pub(in crate::engine) struct Script {
    pieces: Vec<Vec<u8>>,
    ending: Ending,
}

#[derive(Clone, Copy, Default)]
enum Ending {
    #[default]
    Close,
    Reset,
    Hang,
}

impl Script {
    /// A head with these headers, and a body that ends with the connection.
    pub(in crate::engine) fn head(status: &str, headers: &[&str]) -> Self {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        Self::default().then(format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n"))
    }

    /// The head of a stream.
    pub(in crate::engine) fn stream() -> Self {
        Self::head("200 OK", &["content-type: text/event-stream"])
    }

    /// A stream of these `data:` lines.
    pub(in crate::engine) fn events(data: &[&str]) -> Self {
        data.iter().fold(Self::stream(), |script, data| script.then(format!("data: {data}\n\n")))
    }

    /// An answer with a JSON body.
    pub(in crate::engine) fn json(status: &str, headers: &[&str], body: &str) -> Self {
        let headers = [headers, &["content-type: application/json"]].concat();
        Self::head(status, &headers).then(body)
    }

    pub(in crate::engine) fn then(mut self, piece: impl Into<Vec<u8>>) -> Self {
        self.pieces.push(piece.into());
        self
    }

    pub(in crate::engine) fn reset(mut self) -> Self {
        self.ending = Ending::Reset;
        self
    }

    pub(in crate::engine) fn hang(mut self) -> Self {
        self.ending = Ending::Hang;
        self
    }
}

/// Plays its scripts, one a connection.
pub(in crate::engine) struct Fake {
    pub(in crate::engine) base_url: String,
    /// Heads and bodies as they came.
    pub(in crate::engine) requests: mpsc::UnboundedReceiver<String>,
    /// One message for each connection that the client closed while the server hung.
    pub(in crate::engine) gone: mpsc::UnboundedReceiver<()>,
    _task: AbortOnDropHandle<()>,
}

impl Fake {
    pub(in crate::engine) async fn play(scripts: Vec<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base_url = format!("http://{}/v1", listener.local_addr().expect("an address"));
        let (asked, requests) = mpsc::unbounded_channel();
        let (left, gone) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            for script in scripts {
                let (mut connection, _) = listener.accept().await.expect("a connection");
                asked.send(read_request(&mut connection).await).ok();
                answer(connection, script, &left).await;
            }
        });
        Self { base_url, requests, gone, _task: AbortOnDropHandle::new(task) }
    }
}

async fn answer(mut connection: TcpStream, script: Script, left: &mpsc::UnboundedSender<()>) {
    connection.set_nodelay(true).expect("nodelay");
    for piece in script.pieces {
        // A client that has heard enough may be gone.
        if connection.write_all(&piece).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    match script.ending {
        Ending::Close => connection.shutdown().await.unwrap_or_default(),
        Ending::Reset => connection.set_zero_linger().expect("linger"),
        Ending::Hang => {
            let mut byte = [0];
            while connection.read(&mut byte).await.is_ok_and(|count| count > 0) {}
            left.send(()).ok();
        }
    }
}

async fn read_request(connection: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut bytes = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text.into_owned();
            }
        }
        let count = connection.read(&mut bytes).await.expect("a request");
        assert!(count > 0, "the request ended early: {text}");
        request.extend_from_slice(&bytes[..count]);
    }
}
