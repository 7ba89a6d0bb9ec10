//! `errand keys revoke`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    exit::Usage,
    screen::Screen,
};

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// The key's id, not its secret
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl Revoke {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        // What was given is not repeated: it may be the secret, by mistake.
        let id = uuid::Uuid::parse_str(&self.id)
            .map_err(|_| Usage("that is not the id of a key; `errand keys list` shows the ids".to_owned()))?;
        let answer = Client::new(&self.client)?.send(Request::delete(&format!("/api/v1/keys/{id}"))).await?;
        match (self.client.json, answer.body.trim()) {
            (true, "") => screen.line(&json!({"id": id, "revoked": true}).to_string())?,
            (true, body) => screen.line(body)?,
            (false, _) => screen.line(&format!("{id} is revoked"))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
