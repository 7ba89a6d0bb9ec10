//! `errand sessions close`

use std::process::ExitCode;

use clap::Args;

use super::path_of;
use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    screen::Screen,
};

#[derive(Debug, Args)]
pub(crate) struct Close {
    /// The session
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl Close {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let answer = Client::new(&self.client)?.send(Request::delete(&path_of(&self.id)?)).await?;
        if self.client.json {
            screen.line(answer.body.trim_end())?;
        } else {
            screen.line(&format!("{} is closed", self.id))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
