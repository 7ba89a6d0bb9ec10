//! `errand jobs cancel`

use std::process::ExitCode;

use clap::Args;

use super::job_id;
use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    screen::Screen,
};

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The job
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl Cancel {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let id = job_id(&self.id)?;
        let answer = Client::new(&self.client)?.send(Request::post(&format!("/api/v1/jobs/{id}/cancel"), None)).await?;
        if self.client.json {
            screen.line(answer.body.trim_end())?;
        } else {
            screen.line(&format!("{id} is cancelled"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
