//! `errand sessions`

mod close;
mod list;
mod messages;
mod show;

use std::process::ExitCode;

use clap::Subcommand;

use crate::{exit::Usage, screen::Screen};

#[derive(Debug, Subcommand)]
pub(crate) enum Sessions {
    /// List conversations, newest first
    List(list::List),
    /// Show one conversation and its tasks
    Show(show::Show),
    /// Show what was said in a conversation
    Messages(messages::Messages),
    /// Close a conversation: it keeps its history and takes no more tasks
    Close(close::Close),
}

impl Sessions {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => list.run(screen).await,
            Self::Show(show) => show.run(screen).await,
            Self::Messages(messages) => messages.run(screen).await,
            Self::Close(close) => close.run(screen).await,
        }
    }
}

/// The path of a session that the command line names; its id is brought into its usual form first.
fn path_of(text: &str) -> anyhow::Result<String> {
    match uuid::Uuid::parse_str(text) {
        Ok(id) => Ok(format!("/api/v1/agent/sessions/{id}")),
        Err(_) => {
            let like = uuid::Uuid::nil();
            Err(Usage(format!("{text:?} is not the id of a session; ids look like {like}")).into())
        }
    }
}
