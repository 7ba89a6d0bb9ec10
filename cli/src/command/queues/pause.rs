//! `errand queues pause` and `resume`

use std::process::ExitCode;

use clap::Args;

use super::list::Row;
use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    exit::Usage,
    screen::Screen,
};

#[derive(Debug, Args)]
pub(crate) struct Order {
    /// The queue
    queue: String,
    /// For all tenants, not only the key's own; needs the scope fleet
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl Order {
    /// `verb`: pause or resume.
    pub(super) async fn run(self, verb: &str, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let path = format!("/api/v1/queues/{}/{verb}", queue_name(&self.queue)?);
        let request = Request::post(&path, None);
        let request = if self.all { request.with("all", "true") } else { request };
        let answer = Client::new(&self.client)?.send(request).await?;
        if self.client.json {
            screen.line(answer.body.trim_end())?;
        } else {
            let queue: Row = answer.read()?;
            screen.line(&format!("{} is {}", queue.name, queue.state()))?;
            if verb == "resume" && queue.paused {
                screen.note(if queue.paused_for_all && !self.all {
                    "it stays paused for all tenants; `--all`, with the scope fleet, takes that back"
                } else {
                    "it stays paused for your tenant; resume it without --all too"
                })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A name as the server takes it; it becomes part of a path.
fn queue_name(text: &str) -> anyhow::Result<&str> {
    let fits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    // The two that mean something else in a path.
    if fits && text != "." && text != ".." {
        return Ok(text);
    }
    Err(Usage(format!("{text:?} is not the name of a queue; names are made of A-Z a-z 0-9 . _ -")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_lead_to_another_path() {
        for name in ["", "a/b", "..", ".", "a b", "a?all", "ä"] {
            assert!(queue_name(name).is_err(), "{name:?}");
        }
        assert_eq!(queue_name("mail.high-2_x").expect("a name"), "mail.high-2_x");
    }
}
