//! Ports for servers that come back where they were.

use std::{io, net::TcpListener};

/// Below those that the system gives to outgoing connections: one of these could sit on the port of a server that is down
/// for a moment.
const RANGE: std::ops::Range<u16> = 15_000..30_000;

/// Most tries to find one.
const TRIES: u32 = 200;

/// A port on which nobody listens now, and which no outgoing connection will take.
///
/// # Errors
/// If all that were tried are in use.
pub fn free() -> io::Result<u16> {
    for _ in 0..TRIES {
        let port = rand::random_range(RANGE);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("{TRIES} ports of {RANGE:?} are in use")))
}
