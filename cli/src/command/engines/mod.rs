//! `errand engines`

mod list;
mod switch;

use std::process::ExitCode;

use clap::Subcommand;

use crate::screen::Screen;

#[derive(Debug, Subcommand)]
pub(crate) enum Engines {
    /// List engines, what they can do, and why one is not available
    List(list::List),
    /// Choose the engine of tasks that name none
    Switch(switch::Switch),
}

impl Engines {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => list.run(screen).await,
            Self::Switch(switch) => switch.run(screen).await,
        }
    }
}
