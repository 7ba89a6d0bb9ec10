//! `errand jobs`

mod cancel;
mod follow;
mod list;
mod retry;
mod show;

use std::process::ExitCode;

use clap::Subcommand;

use crate::{exit::Usage, screen::Screen};

#[derive(Debug, Subcommand)]
pub(crate) enum Jobs {
    /// List jobs, newest first
    List(list::List),
    /// Show one job and what happened to it
    Show(show::Show),
    /// Show what a job does, to its end
    Follow(follow::Follow),
    /// Cancel a job
    Cancel(cancel::Cancel),
    /// Run a failed, cancelled or expired job again, as a new one
    Retry(retry::Retry),
}

impl Jobs {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => list.run(screen).await,
            Self::Show(show) => show.run(screen).await,
            Self::Follow(follow) => follow.run(screen).await,
            Self::Cancel(cancel) => cancel.run(screen).await,
            Self::Retry(retry) => retry.run(screen).await,
        }
    }
}

/// A job's id from the command line, in its usual form; it becomes part of a path.
fn job_id(text: &str) -> anyhow::Result<String> {
    uuid::Uuid::parse_str(text)
        .map(|id| id.to_string())
        .map_err(|_| Usage(format!("{text:?} is not the id of a job; ids look like {}", uuid::Uuid::nil())).into())
}
