//! What a program writes: its answer as it comes, and the end of its complaints.

use std::collections::VecDeque;

use errand_common::domain::{EventType, FailureClass};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{ChildStderr, ChildStdout},
};

use crate::engine::{TurnContext, TurnFailure, code, text::Utf8Decoder};

/// One read, and so the most text of one event, in bytes.
const READ_SIZE: usize = 16 * 1024;

/// Reads the answer to its end, and makes each piece an event as it comes.
pub(super) async fn read_answer(
    mut stdout: ChildStdout,
    limit_kib: u32,
    context: &TurnContext,
) -> Result<String, TurnFailure> {
    let limit = u64::from(limit_kib) * 1024;
    let mut decoder = Utf8Decoder::default();
    let (mut text, mut total) = (String::new(), 0_u64);
    let mut bytes = vec![0; READ_SIZE];
    loop {
        let piece = read(&mut stdout, &mut bytes).await;
        total += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if total > limit {
            let message = format!("wrote more than its limit of {limit_kib} KiB (`output_limit_kib`) and was stopped");
            return Err(TurnFailure::new(FailureClass::Fatal, code::OUTPUT_LIMIT, message));
        }
        let ended = piece.is_empty();
        let said = if ended { std::mem::take(&mut decoder).finish() } else { decoder.push(piece) };
        if !said.is_empty() {
            context.say(EventType::Text, &said).await?;
            text.push_str(&said);
        }
        if ended {
            return Ok(text);
        }
    }
}

/// Reads the complaints to their end.
pub(in crate::engine) async fn read_tail(mut stderr: ChildStderr, tail: &mut Tail) {
    let mut bytes = vec![0; READ_SIZE];
    loop {
        match read(&mut stderr, &mut bytes).await {
            [] => return,
            piece => tail.push(piece),
        }
    }
}

/// The next bytes; none at the end. A pipe that can't be read is at its end.
async fn read<'a>(from: &mut (impl AsyncRead + Unpin), bytes: &'a mut [u8]) -> &'a [u8] {
    let count = from.read(bytes).await.unwrap_or(0);
    bytes.get(..count).unwrap_or_default()
}

/// The last bytes of a stream.
#[derive(Debug)]
pub(in crate::engine) struct Tail {
    bytes: VecDeque<u8>,
    limit: usize,
    cut: bool,
}

impl Tail {
    pub(in crate::engine) fn new(limit: usize) -> Self {
        Self { bytes: VecDeque::new(), limit, cut: false }
    }

    fn push(&mut self, piece: &[u8]) {
        self.bytes.extend(piece);
        let excess = self.bytes.len().saturating_sub(self.limit);
        self.cut |= excess > 0;
        self.bytes.drain(..excess);
    }

    /// Whole lines, if any is whole; without white space around them.
    pub(in crate::engine) fn into_text(self) -> String {
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
