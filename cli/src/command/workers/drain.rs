//! `errand workers drain`

use std::process::ExitCode;

use clap::Args;

use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    exit::Usage,
    screen::Screen,
};

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The worker's id; `errand workers` shows the ids
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl Drain {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let id = uuid::Uuid::parse_str(&self.id)
            .map_err(|_| Usage(format!("{:?} is not the id of a worker; `errand workers` shows the ids", self.id)))?;
        let path = format!("/api/v1/workers/{id}/drain");
        let answer = Client::new(&self.client)?.send(Request::post(&path, None)).await?;
        if self.client.json {
            screen.line(answer.body.trim_end())?;
        } else {
            screen.line(&format!("{id} drains; its process ends when its runs have"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
