//! One process of the program: its lines, and ours.

use std::{ffi::OsString, io, path::Path, time::Duration};

use errand_common::domain::FailureClass;
use futures::StreamExt;
use serde_json::Value;
use tokio::{
    process::ChildStdout,
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{
    codec::{FramedRead, LinesCodec, LinesCodecError},
    sync::CancellationToken,
    task::AbortOnDropHandle,
};

use super::{
    frames::{self, Frame},
    request,
};
use crate::{
    engine::{
        TurnFailure, code,
        tail::{Tail, read_tail},
    },
    guard::{Exit, Guarded, Spec, Started, Stdin},
};

/// Lines of ours that may wait until the program reads: it asks few things at a time.
const LINES_AHEAD: usize = 64;
/// How long it may take to end by itself once its input is closed; it writes its last state meanwhile.
const EXIT_WAIT: Duration = Duration::from_secs(3);

/// A process of the program, under a guard.
pub(super) struct Process {
    guarded: Guarded,
    stdout: FramedRead<ChildStdout, LinesCodec>,
    /// Frames of the line read last.
    read: std::vec::IntoIter<Frame>,
    complaints: AbortOnDropHandle<Tail>,
    lines: Option<mpsc::Sender<Vec<u8>>>,
    _feed: AbortOnDropHandle<()>,
    line_limit: usize,
}

impl Process {
    /// Starts it. `line_limit`, `tail_limit`: of what it says and complains, in bytes.
    pub(super) fn start(spec: &Spec, line_limit: usize, tail_limit: usize) -> io::Result<Self> {
        let Started { guarded, stdin, stdout, stderr } = Guarded::spawn(spec)?;
        let (lines, queue) = mpsc::channel(LINES_AHEAD);
        let complaints = async move {
            let mut tail = Tail::new(tail_limit);
            read_tail(stderr, &mut tail).await;
            tail
        };
        Ok(Self {
            guarded,
            stdout: FramedRead::new(stdout, LinesCodec::new_with_max_length(line_limit)),
            read: Vec::new().into_iter(),
            complaints: AbortOnDropHandle::new(tokio::spawn(complaints)),
            lines: Some(lines),
            _feed: AbortOnDropHandle::new(tokio::spawn(feed(stdin, queue))),
            line_limit,
        })
    }

    /// Says one line. What a program that has ended should have read is lost.
    ///
    /// # Errors
    /// The program does not read.
    pub(super) fn say(&self, line: &Value) -> Result<(), TurnFailure> {
        let Some(lines) = &self.lines else { return Ok(()) };
        match lines.try_send(format!("{line}\n").into_bytes()) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                let message = "the program asks and does not read the answers";
                Err(TurnFailure::new(FailureClass::Fatal, code::EXECUTION_ERROR, message))
            }
        }
    }

    /// The next frame; `None` once it has closed its output. Cancel-safe.
    ///
    /// # Errors
    /// A line is over its limit, or no text.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, TurnFailure> {
        loop {
            if let Some(frame) = self.read.next() {
                return Ok(Some(frame));
            }
            match self.stdout.next().await {
                Some(Ok(line)) => self.read = frames::parse(&line).into_iter(),
                Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                    let message =
                        format!("wrote a line of more than {} KiB (`line_limit_kib`)", self.line_limit / 1024);
                    return Err(TurnFailure::new(FailureClass::Fatal, code::OUTPUT_LIMIT, message));
                }
                Some(Err(LinesCodecError::Io(error))) => {
                    let message = format!("its output can't be read: {error}");
                    return Err(TurnFailure::new(FailureClass::Transient, code::EXECUTION_ERROR, message));
                }
                None => return Ok(None),
            }
        }
    }

    /// After its turn: closes its input, upon which it ends, and stops it if it does not. Once the run is to stop (`stop`), all of
    /// that takes no longer than `grace`.
    pub(super) async fn end(mut self, stop: &CancellationToken, grace: Duration) {
        self.until_ended(stop, grace).await;
    }

    async fn until_ended(&mut self, stop: &CancellationToken, grace: Duration) -> Exit {
        self.lines = None;
        let by_itself = async {
            while let Ok(Some(_)) = self.next().await {}
            self.guarded.wait().await
        };
        let hurried = async {
            stop.cancelled().await;
            sleep(grace / 2).await;
        };
        tokio::select! {
            biased;
            exit = by_itself => return exit,
            () = hurried => {}
            () = sleep(EXIT_WAIT) => {}
        }
        tracing::warn!("a program did not end with its turn and is stopped");
        self.guarded.stop(if stop.is_cancelled() { grace / 2 } else { grace }).await
    }

    /// In mid-turn: asks it to end the turn, then to end, then kills what is left, all within `grace`. Returns what it still
    /// said in the first half of that, to the end of its turn; nothing if it did not come to that.
    pub(super) async fn interrupt(mut self, grace: Duration) -> Vec<Frame> {
        let half = Instant::now() + grace / 2;
        let mut said = Vec::new();
        let ended = if self.say(&request::interrupt()).is_ok() {
            timeout_at(half, async {
                while let Ok(Some(frame)) = self.next().await {
                    let over = matches!(frame, Frame::Result(_));
                    said.push(frame);
                    if over {
                        return true;
                    }
                }
                false
            })
            .await
        } else {
            Ok(false)
        };
        self.lines = None;
        if ended == Ok(true) {
            // It has a moment to write its state, and ends.
            let rest = async {
                while let Ok(Some(_)) = self.next().await {}
                self.guarded.wait().await
            };
            if timeout(grace / 4, rest).await.is_err() {
                self.guarded.stop(grace / 4).await;
            }
            return said;
        }
        self.guarded.stop(grace / 2).await;
        Vec::new()
    }

    /// How it ended, once its output is closed, and its complaints. One that does not end is stopped, as by [`Process::end`].
    pub(super) async fn exit(mut self, stop: &CancellationToken, grace: Duration) -> (Exit, String) {
        let exit = self.until_ended(stop, grace).await;
        let complaints = self.complaints.await.map(Tail::into_text).unwrap_or_default();
        (exit, complaints)
    }

    /// Kills it.
    pub(super) async fn kill(mut self) {
        self.guarded.stop(Duration::ZERO).await;
    }
}

async fn feed(mut stdin: Stdin, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(line) = queue.recv().await {
        if stdin.write_all(&line).await.is_err() {
            return;
        }
    }
    // It may have ended first.
    let _ = stdin.close().await;
}

/// What a program says of its version, without being asked anything else.
///
/// # Errors
/// A sentence for the operator.
pub(super) async fn version(spec: Spec, binary: &Path) -> Result<String, String> {
    const LINE_LIMIT: usize = 1_024;
    let spec = Spec { args: vec![OsString::from("--version")], ..spec };
    let started = Guarded::spawn(&spec).map_err(|error| format!("its guard process could not be started: {error}"))?;
    let Started { mut guarded, stdin, stdout, stderr } = started;
    drop(stderr);
    stdin.close().await.ok();
    let mut lines = FramedRead::new(stdout, LinesCodec::new_with_max_length(LINE_LIMIT));
    let line = lines.next().await.and_then(Result::ok).unwrap_or_default();
    drop(lines);
    match guarded.wait().await {
        Exit::Code(0) if !line.trim().is_empty() => Ok(line.trim().to_owned()),
        Exit::NotStarted(errno) => {
            let error = io::Error::from_raw_os_error(errno);
            Err(crate::engine::program::start_error(&binary.to_string_lossy(), &error))
        }
        exit => Err(format!("{} --version did not tell a version ({exit:?})", binary.display())),
    }
}
