//! `errand workers`

mod drain;
mod list;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::screen::Screen;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Workers {
    #[command(subcommand)]
    command: Option<Command>,
    /// Without a subcommand.
    #[command(flatten)]
    list: list::List,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the live workers of the whole installation
    List(list::List),
    /// Let a worker finish its runs, or hand them back, and end
    Drain(drain::Drain),
}

impl Workers {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        match self.command {
            None => self.list.run(screen).await,
            Some(Command::List(list)) => list.run(screen).await,
            Some(Command::Drain(drain)) => drain.run(screen).await,
        }
    }
}
