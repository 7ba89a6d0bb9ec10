//! What a program answers, as it comes.

use errand_common::domain::{EventType, FailureClass};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::ChildStdout,
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

/// The next bytes; none at the end. A pipe that can't be read is at its end.
async fn read<'a>(from: &mut (impl AsyncRead + Unpin), bytes: &'a mut [u8]) -> &'a [u8] {
    let count = from.read(bytes).await.unwrap_or(0);
    bytes.get(..count).unwrap_or_default()
}
