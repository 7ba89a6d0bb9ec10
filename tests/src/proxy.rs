//! A TCP proxy that breaks connections in the ways networks do, switchable at run time.
//!
//! What is held back is delivered after healing, as TCP would retransmit it: bytes are never lost within a connection
//! that lives on.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::sleep,
};

/// What a link does to its connections.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Passes everything.
    Pass,
    /// Passes everything late: each read of up to 16 KiB by `base`, and by up to `jitter` more.
    Delay {
        /// The least delay.
        base: Duration,
        /// The most that is added to it.
        jitter: Duration,
    },
    /// Resets every connection, and new ones at once.
    Cut,
    /// Keeps connections open and takes new ones in, and forwards nothing.
    HalfOpen,
    /// Forwards nothing in this direction; the other one works.
    BlackHole(Direction),
    /// Passes so many bytes a second in each direction of each connection.
    Throttle {
        /// The rate.
        bytes_per_second: u32,
    },
}

/// A direction within a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Direction {
    /// From whoever connected to the server.
    Up,
    /// From the server to whoever connected.
    Down,
}

impl Mode {
    const fn holds(self, direction: Direction) -> bool {
        match self {
            Self::HalfOpen => true,
            Self::BlackHole(held) => {
                matches!((held, direction), (Direction::Up, Direction::Up) | (Direction::Down, Direction::Down))
            }
            Self::Pass | Self::Delay { .. } | Self::Cut | Self::Throttle { .. } => false,
        }
    }

    fn pause(self, bytes: usize) -> Duration {
        match self {
            Self::Delay { base, jitter } => base + jitter.mul_f64(rand::random()),
            Self::Throttle { bytes_per_second } => {
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                Duration::from_secs_f64(f64::from(bytes) / f64::from(bytes_per_second.max(1)))
            }
            Self::Pass | Self::Cut | Self::HalfOpen | Self::BlackHole(_) => Duration::ZERO,
        }
    }
}

/// A listening link to one server. Its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    task: AbortHandle,
}

/// The most that is read at once.
const CHUNK: usize = 16 * 1024;

impl Proxy {
    /// Listens on a free port of this machine and passes what comes to `server`, which need not be there yet.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (mode, modes) = watch::channel(Mode::Pass);
        let task = tokio::spawn(accept(listener, server, modes)).abort_handle();
        Ok(Self { address, mode, task })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does, for the connections there are and those to come.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, modes: watch::Receiver<Mode>) {
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => drop(connections.spawn(serve(client, server, modes.clone()))),
                // Out of file descriptors, say: others may end meanwhile.
                Err(_) => sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(mut client: TcpStream, server: SocketAddr, mut modes: watch::Receiver<Mode>) {
    if pass(Direction::Up, &mut modes).await.is_err() {
        reset(&client);
        return;
    }
    let Ok(mut server) = TcpStream::connect(server).await else {
        reset(&client);
        return;
    };
    // Small messages back and forth: waiting to fill packets would be a delay that nobody asked for.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let passed = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::try_join!(
            pump(Direction::Up, from_client, to_server, modes.clone()),
            pump(Direction::Down, from_server, to_client, modes)
        )
    };
    if passed.is_err() {
        reset(&client);
        reset(&server);
    }
}

/// Forwards one direction to its end.
async fn pump(
    direction: Direction,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut modes: watch::Receiver<Mode>,
) -> Result<(), Severed> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = tokio::select! {
            read = from.read(&mut chunk) => read.map_err(|_| Severed)?,
            () = cut(&mut modes) => return Err(Severed),
        };
        let mode = pass(direction, &mut modes).await?;
        if read == 0 {
            return to.shutdown().await.map_err(|_| Severed);
        }
        let pause = mode.pause(read);
        if !pause.is_zero() {
            sleep(pause).await;
            pass(direction, &mut modes).await?;
        }
        to.write_all(&chunk[..read]).await.map_err(|_| Severed)?;
    }
}

/// The connection is over, and not because its ends agreed on that.
struct Severed;

/// Waits until this direction is open.
async fn pass(direction: Direction, modes: &mut watch::Receiver<Mode>) -> Result<Mode, Severed> {
    let mode = *modes.wait_for(|mode| !mode.holds(direction)).await.map_err(|_| Severed)?;
    if mode == Mode::Cut { Err(Severed) } else { Ok(mode) }
}

/// Waits until connections are to be reset.
async fn cut(modes: &mut watch::Receiver<Mode>) {
    // Without a sender the whole proxy is gone.
    let _ = modes.wait_for(|mode| *mode == Mode::Cut).await;
}

/// Closing it will be heard as a reset, not as a goodbye.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::time::timeout;

    use super::*;

    const SHORT: Duration = Duration::from_millis(150);

    /// A server that says back what it is told, and a connection to it through a proxy.
    async fn link() -> (Proxy, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let server = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let proxy = Proxy::start(server).await.expect("a proxy");
        let client = TcpStream::connect(proxy.address()).await.expect("a connection");
        (proxy, client)
    }

    async fn echoed(client: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
        client.write_all(text).await?;
        let mut answer = vec![0; text.len()];
        client.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn it_passes_both_ways_and_the_end_of_the_stream_too() {
        let (_proxy, mut client) = link().await;
        assert_eq!(echoed(&mut client, b"hello").await.expect("an answer"), b"hello");
        client.shutdown().await.expect("shut down");
        let mut rest = Vec::new();
        assert_eq!(client.read_to_end(&mut rest).await.expect("the end"), 0);
    }

    #[tokio::test]
    async fn a_cut_resets_what_is_open_and_what_comes_until_it_heals() {
        let (proxy, mut client) = link().await;
        echoed(&mut client, b"hello").await.expect("an answer");
        proxy.set(Mode::Cut);
        assert!(echoed(&mut client, b"again").await.is_err(), "the connection is gone");
        let mut other = TcpStream::connect(proxy.address()).await.expect("it still listens");
        assert!(echoed(&mut other, b"hello").await.is_err(), "new ones fare no better");
        proxy.set(Mode::Pass);
        let mut third = TcpStream::connect(proxy.address()).await.expect("a connection");
        assert_eq!(echoed(&mut third, b"hello").await.expect("an answer"), b"hello");
    }

    #[tokio::test]
    async fn a_half_open_link_says_nothing_and_delivers_late() {
        let (proxy, mut client) = link().await;
        echoed(&mut client, b"hello").await.expect("an answer");
        proxy.set(Mode::HalfOpen);
        assert!(timeout(SHORT, echoed(&mut client, b"again")).await.is_err(), "nothing comes back");
        let mut other = TcpStream::connect(proxy.address()).await.expect("it takes connections");
        assert!(timeout(SHORT, echoed(&mut other, b"hello")).await.is_err(), "and serves none");
        proxy.set(Mode::Pass);
        let mut late = [0; 5];
        timeout(SHORT * 20, client.read_exact(&mut late)).await.expect("in time").expect("the answer");
        assert_eq!(&late, b"again", "what was sent meanwhile is not lost");
    }

    #[tokio::test]
    async fn a_black_hole_swallows_one_direction_only() {
        let (proxy, mut client) = link().await;
        proxy.set(Mode::BlackHole(Direction::Down));
        assert!(timeout(SHORT, echoed(&mut client, b"hello")).await.is_err());
        proxy.set(Mode::BlackHole(Direction::Up));
        let mut answer = [0; 5];
        timeout(SHORT * 20, client.read_exact(&mut answer)).await.expect("in time").expect("it had reached the server");
        assert!(timeout(SHORT, echoed(&mut client, b"again")).await.is_err());
    }

    #[tokio::test]
    async fn a_delay_delays_and_a_throttle_slows() {
        let (proxy, mut client) = link().await;
        proxy.set(Mode::Delay { base: SHORT, jitter: Duration::ZERO });
        let started = Instant::now();
        echoed(&mut client, b"hello").await.expect("an answer");
        assert!(started.elapsed() >= SHORT * 2, "there and back: {:?}", started.elapsed());
        proxy.set(Mode::Throttle { bytes_per_second: 10_000 });
        let started = Instant::now();
        echoed(&mut client, &[7; 2_000]).await.expect("an answer");
        assert!(started.elapsed() >= Duration::from_millis(300), "{:?}", started.elapsed());
    }
}
