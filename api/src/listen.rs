//! A listener: accept, serve, and let connections finish.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use errand_common::config::Server;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::limit;

/// The smallest read buffer that the HTTP library takes, in bytes.
const SMALLEST_HEAD_BUFFER: usize = 8 * 1024;
/// Pause after a connection could not be accepted (out of file descriptors, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until `shutdown`, then closes the listener and lets the connections finish.
pub(crate) async fn run(listener: TcpListener, router: Router, server: &Server, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    accept(&listener, &router, server, &shutdown, &mut connections).await;
    drop(listener);
    let drain = Duration::from_secs(u64::from(server.drain_seconds));
    let drained = tokio::time::timeout(drain, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(open = connections.len(), "some requests did not finish in time and are cut off");
        connections.shutdown().await;
    }
}

/// Accepts until `shutdown`. The connections live in `connections`.
pub(crate) async fn accept(
    listener: &TcpListener,
    router: &Router,
    server: &Server,
    shutdown: &CancellationToken,
    connections: &mut JoinSet<()>,
) {
    let mut builder = http1::Builder::new();
    // Twice the limit, so that a head somewhat beyond it gets a problem document; one far beyond it gets a bare 431.
    let head = server.header_limit_kib as usize * 2 * 1024;
    builder.timer(TokioTimer::new()).header_read_timeout(limit::HEAD_READ_TIMEOUT);
    builder.max_buf_size(head.max(SMALLEST_HEAD_BUFFER));
    let room = Arc::new(Semaphore::new(limit::CONNECTIONS));
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => return,
            Ok(permit) = room.clone().acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let served = connection(builder.clone(), stream, peer, router.clone(), shutdown.clone());
                connections.spawn(async move {
                    served.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A client that stops reading must not hold its connection, and what waits to be sent over it, for ever.
#[cfg(target_os = "linux")]
fn cut_when_unread(stream: &TcpStream) {
    let milliseconds = u32::try_from(limit::UNREAD.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT could not be set");
    }
}

/// Elsewhere the system has no such bound.
#[cfg(not(target_os = "linux"))]
const fn cut_when_unread(_: &TcpStream) {}

async fn connection(
    builder: http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) {
    // Events are small and want to leave at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    cut_when_unread(&stream);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}
