//! `errand jobs follow`

use std::process::ExitCode;

use clap::Args;

use super::job_id;
use crate::{arguments::ClientOptions, client::Client, exit, follow, screen::Screen};

#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct Follow {
    /// The job
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl Follow {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        let client = Client::new(&self.client)?;
        follow::follow(&client, &job_id(&self.id)?, &self.client, screen).await
    }
}
