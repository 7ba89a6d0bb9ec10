//! The end of what a program complains about.

use std::collections::VecDeque;

use tokio::{io::AsyncReadExt, process::ChildStderr};

use super::text::Utf8Decoder;

/// One read, in bytes.
const READ_SIZE: usize = 16 * 1024;

/// Reads the complaints to their end. A pipe that can't be read is at its end.
pub(super) async fn read_tail(mut stderr: ChildStderr, tail: &mut Tail) {
    let mut bytes = vec![0; READ_SIZE];
    loop {
        match stderr.read(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(count) => tail.push(bytes.get(..count).unwrap_or_default()),
        }
    }
}

/// The last bytes of a stream.
#[derive(Debug)]
pub(super) struct Tail {
    bytes: VecDeque<u8>,
    limit: usize,
    cut: bool,
}

impl Tail {
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: VecDeque::new(), limit, cut: false }
    }

    fn push(&mut self, piece: &[u8]) {
        self.bytes.extend(piece);
        let excess = self.bytes.len().saturating_sub(self.limit);
        self.cut |= excess > 0;
        self.bytes.drain(..excess);
    }

    /// Whole lines, if any is whole; without white space around them.
    pub(super) fn into_text(self) -> String {
        let bytes: Vec<u8> = self.bytes.into();
        let first_whole =
            if self.cut { bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1) } else { 0 };
        let lines = match bytes.get(first_whole..) {
            Some(lines) if !lines.is_empty() => lines,
            _ => &bytes,
        };
        let mut decoder = Utf8Decoder::default();
        let text = decoder.push(lines) + &decoder.finish();
        text.trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(limit: usize, pieces: &[&[u8]]) -> String {
        let mut tail = Tail::new(limit);
        for piece in pieces {
            tail.push(piece);
        }
        tail.into_text()
    }

    #[test]
    fn a_short_complaint_is_kept_whole() {
        assert_eq!(tail(100, &[b"first\n", b"second\n"]), "first\nsecond");
    }

    #[test]
    fn of_a_long_one_the_last_whole_lines_are_kept() {
        assert_eq!(tail(12, &[b"0123456789\n", b"abc\n", b"defg\n"]), "abc\ndefg");
        assert_eq!(tail(4, &[b"0123456789\n"]), "789");
    }

    #[test]
    fn bytes_that_are_not_text_are_replaced() {
        assert_eq!(tail(100, &[b"a\xff\x00b"]), "a\u{FFFD}\u{FFFD}b");
    }
}
