//! `errand engines switch`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    screen::Screen,
};

#[derive(Debug, Args)]
pub(crate) struct Switch {
    /// The engine
    name: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl Switch {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let body = json!({"engineType": self.name});
        let answer = Client::new(&self.client)?.send(Request::post("/api/v1/agent/engines/switch", Some(body))).await?;
        if self.client.json {
            screen.line(answer.body.trim_end())?;
        } else {
            screen.line(&format!("tasks that name no engine run on {} from now on", self.name))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
