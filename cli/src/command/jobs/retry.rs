//! `errand jobs retry`

use std::process::ExitCode;

use clap::Args;

use super::job_id;
use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    screen::Screen,
    settings,
};

#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// The job
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl Retry {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let id = job_id(&self.id)?;
        let answer = Client::new(&self.client)?.send(Request::post(&format!("/api/v1/jobs/{id}/retry"), None)).await?;
        if self.client.json {
            screen.line(answer.body.trim_end())?;
        } else {
            let retried = answer.job_id()?;
            screen.line(&retried)?;
            let follow = settings::command(&format!("jobs follow {retried}"), &self.client);
            screen.note(&format!("a new job; follow it: {follow}"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
