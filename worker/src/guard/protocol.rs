//! What worker and guard say to each other: frames of a tag, a length and a body.

use std::time::Duration;

use super::MonotonicInstant;

/// Longest body of a frame, in bytes; a longer one is a fault of the other side.
pub const BODY_LIMIT: usize = 32 * 1024;
/// Bytes for the program's standard input that may be under way before the guard reports them consumed. Bounds the
/// guard's memory, and lets it read orders at any time even if the program never reads.
pub const STDIN_WINDOW: usize = 8 * BODY_LIMIT;
/// The guard reports consumed bytes in portions of at least this many, so that at most two reports are ever unread
/// and it never waits for a worker that is stopped.
pub const CONSUMED_PORTION: usize = STDIN_WINDOW / 2;

const HEADER: usize = 5;

/// From the worker to the guard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// For the program's standard input.
    Data(Vec<u8>),
    /// No more data: close the program's standard input.
    CloseStdin,
    /// Everything is killed at this instant, unless it is moved again.
    Deadline(MonotonicInstant),
    /// SIGTERM to every descendant, SIGKILL to what is left when the grace is over or the program has ended.
    Stop {
        /// Zero kills at once. Milliseconds on the wire.
        grace: Duration,
    },
}

/// From the guard to the worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// So many bytes have reached the program.
    Consumed(u32),
    /// The program has closed its standard input.
    StdinClosed,
    /// The program ended and nothing of it runs any more. The last frame.
    Ended(Exit),
}

/// How a program ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// With a status.
    Code(i32),
    /// Killed by a signal.
    Signal(i32),
    /// It could not be started: an `errno`.
    NotStarted(i32),
    /// The guard was killed before it could tell.
    GuardLost,
}

/// A frame that makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("unreadable frame from the other side of a guard")]
pub struct Garbled;

impl Order {
    /// The frame. `Data` must not be longer than [`BODY_LIMIT`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Data(data) => frame(b'D', data),
            Self::CloseStdin => frame(b'C', &[]),
            Self::Deadline(at) => frame(b'T', &at.nanos().to_le_bytes()),
            Self::Stop { grace } => frame(b'S', &u32::try_from(grace.as_millis()).unwrap_or(u32::MAX).to_le_bytes()),
        }
    }

    fn decode(tag: u8, body: &[u8]) -> Result<Self, Garbled> {
        Ok(match tag {
            b'D' => Self::Data(body.to_vec()),
            b'C' => Self::CloseStdin,
            b'T' => Self::Deadline(MonotonicInstant::from_nanos(u64::from_le_bytes(fixed(body)?))),
            b'S' => Self::Stop { grace: Duration::from_millis(u32::from_le_bytes(fixed(body)?).into()) },
            _ => return Err(Garbled),
        })
    }
}

impl Report {
    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Consumed(bytes) => frame(b'A', &bytes.to_le_bytes()),
            Self::StdinClosed => frame(b'X', &[]),
            Self::Ended(exit) => {
                let (how, number) = match *exit {
                    Exit::Code(code) => (0, code),
                    Exit::Signal(signal) => (1, signal),
                    Exit::NotStarted(errno) => (2, errno),
                    Exit::GuardLost => (3, 0),
                };
                let [a, b, c, d] = number.to_le_bytes();
                frame(b'E', &[how, a, b, c, d])
            }
        }
    }

    fn decode(tag: u8, body: &[u8]) -> Result<Self, Garbled> {
        Ok(match tag {
            b'A' => Self::Consumed(u32::from_le_bytes(fixed(body)?)),
            b'X' => Self::StdinClosed,
            b'E' => {
                let [how, a, b, c, d] = fixed(body)?;
                let number = i32::from_le_bytes([a, b, c, d]);
                Self::Ended(match how {
                    0 => Exit::Code(number),
                    1 => Exit::Signal(number),
                    2 => Exit::NotStarted(number),
                    3 => Exit::GuardLost,
                    _ => return Err(Garbled),
                })
            }
            _ => return Err(Garbled),
        })
    }
}

/// Puts frames together from bytes as they arrive.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    /// Takes more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole order.
    ///
    /// # Errors
    /// [`Garbled`]: nothing sensible can follow.
    pub fn next_order(&mut self) -> Result<Option<Order>, Garbled> {
        self.next_frame(Order::decode)
    }

    /// The next whole report.
    ///
    /// # Errors
    /// [`Garbled`]: nothing sensible can follow.
    pub fn next_report(&mut self) -> Result<Option<Report>, Garbled> {
        self.next_frame(Report::decode)
    }

    fn next_frame<T>(&mut self, decode: fn(u8, &[u8]) -> Result<T, Garbled>) -> Result<Option<T>, Garbled> {
        let Some(&[tag, a, b, c, d]) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(|_| Garbled)?;
        if length > BODY_LIMIT {
            return Err(Garbled);
        }
        let Some(body) = self.buffer.get(HEADER..HEADER + length) else { return Ok(None) };
        let message = decode(tag, body)?;
        self.buffer.drain(..HEADER + length);
        Ok(Some(message))
    }
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    debug_assert!(body.len() <= BODY_LIMIT, "a frame's body is within its limit");
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.push(tag);
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend_from_slice(body);
    frame
}

fn fixed<const N: usize>(body: &[u8]) -> Result<[u8; N], Garbled> {
    body.try_into().map_err(|_| Garbled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let orders = [
            Order::Data(b"hello".to_vec()),
            Order::CloseStdin,
            Order::Deadline(MonotonicInstant::from_nanos(u64::MAX - 1)),
            Order::Stop { grace: Duration::from_millis(1_500) },
        ];
        let bytes: Vec<u8> = orders.iter().flat_map(Order::encode).collect();
        let mut frames = Frames::default();
        let mut seen = Vec::new();
        for byte in bytes {
            frames.push(&[byte]);
            while let Some(order) = frames.next_order().expect("well-formed") {
                seen.push(order);
            }
        }
        assert_eq!(seen, orders);
    }

    #[test]
    fn reports_come_back_as_they_were() {
        let reports = [
            Report::Consumed(7),
            Report::StdinClosed,
            Report::Ended(Exit::Code(3)),
            Report::Ended(Exit::Signal(9)),
            Report::Ended(Exit::NotStarted(2)),
        ];
        let mut frames = Frames::default();
        for report in &reports {
            frames.push(&report.encode());
        }
        for report in reports {
            assert_eq!(frames.next_report(), Ok(Some(report)));
        }
        assert_eq!(frames.next_report(), Ok(None));
    }

    #[test]
    fn a_frame_over_its_limit_is_refused_before_it_is_kept() {
        let mut frames = Frames::default();
        frames.push(&[b'D', 0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(frames.next_order(), Err(Garbled));
    }
}
