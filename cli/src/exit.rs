//! Exit statuses, and how an error becomes one.

use std::{io, process::ExitCode};

use errand_common::config::Faults;

use crate::screen::Screen;

/// What the help of following commands says about them.
pub(crate) const HELP: &str = "Exit status:\n  0  the job completed\n  1  the job failed, or an error occurred\n  \
    2  usage or configuration\n  3  the job was cancelled\n  4  the job expired before it started\n  \
    130  stopped by Ctrl-C; the job goes on";

/// The job failed, or an error occurred.
pub(crate) const FAILED: u8 = 1;
/// Wrong arguments or configuration.
pub(crate) const USAGE: u8 = 2;
/// The job was cancelled.
pub(crate) const CANCELLED: u8 = 3;
/// The job expired.
pub(crate) const EXPIRED: u8 = 4;
/// Stopped by Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// The arguments don't make sense together.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The exit status of a job that ended in `state`; `None`: it has not ended.
pub(crate) fn of_state(state: &str) -> Option<ExitCode> {
    match state {
        "completed" => Some(ExitCode::SUCCESS),
        "failed" | "partial" => Some(ExitCode::from(FAILED)),
        "cancelled" => Some(ExitCode::from(CANCELLED)),
        "expired" => Some(ExitCode::from(EXPIRED)),
        _ => None,
    }
}

/// The state that an event of this type ends a job in; `None`: the job goes on.
pub(crate) fn state_after(event_type: &str) -> Option<&'static str> {
    match event_type {
        "completed" => Some("completed"),
        "error" => Some("failed"),
        "cancelled" => Some("cancelled"),
        "expired" => Some("expired"),
        _ => None,
    }
}

/// Tells the person what went wrong. A reader that has closed its pipe has seen enough: nothing is said.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(is_closed_pipe) {
        return ExitCode::SUCCESS;
    }
    Screen::standard().error(&words(error));
    let usage = error.is::<Usage>() || error.is::<Faults>();
    ExitCode::from(if usage { USAGE } else { FAILED })
}

/// An error and its causes on one line. What a cause has said in the words before it is not said again.
pub(crate) fn words(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            text += if text.is_empty() { "" } else { ": " };
            text += &cause;
        }
    }
    text
}

fn is_closed_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn causes_follow_the_error_and_none_is_said_twice() {
        let error = anyhow!("no such file").context("a.db: no such file").context("the database can't be opened");
        assert_eq!(words(&error), "the database can't be opened: a.db: no such file");
    }
}
