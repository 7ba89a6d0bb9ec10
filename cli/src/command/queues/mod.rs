//! `errand queues`

mod list;
mod pause;

use std::process::ExitCode;

use clap::Subcommand;

use crate::screen::Screen;

#[derive(Debug, Subcommand)]
pub(crate) enum Queues {
    /// List queues and what waits in them
    List(list::List),
    /// Hand out nothing from a queue; what runs goes on
    Pause(pause::Order),
    /// Hand out from a queue again
    Resume(pause::Order),
}

impl Queues {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => list.run(screen).await,
            Self::Pause(order) => order.run("pause", screen).await,
            Self::Resume(order) => order.run("resume", screen).await,
        }
    }
}
