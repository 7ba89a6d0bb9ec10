//! `errand submit`

mod job;
mod task;

use std::process::ExitCode;

use clap::Subcommand;

use crate::screen::Screen;

#[derive(Debug, Subcommand)]
pub(crate) enum Submit {
    /// Submit a prompt for an engine
    Task(task::Task),
    /// Submit a job of any kind
    Job(job::Job),
}

impl Submit {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        match self {
            Self::Task(task) => task.run(screen).await,
            Self::Job(job) => job.run(screen).await,
        }
    }
}
