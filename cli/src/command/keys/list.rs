//! `errand keys list`

use std::process::ExitCode;

use chrono::Utc;
use clap::Args;
use serde::Deserialize;

use crate::{
    arguments::ClientOptions,
    command::listing::{self, Pages, Rows},
    screen::Screen,
    table,
};

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Deserialize)]
struct Row {
    id: String,
    name: String,
    prefix: String,
    scopes: Vec<String>,
    created_at: String,
    revoked_at: Option<String>,
}

impl List {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let Rows { rows, .. } =
            listing::rows::<Row>("/api/v1/keys", &[], Pages::All, &self.client, &mut screen).await?;
        if self.client.json {
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = table::new(&screen, &["ID", "NAME", "KEY", "SCOPES", "AGE", "STATE"]);
        let now = Utc::now();
        for row in rows {
            table.add_row([
                row.id,
                row.name,
                format!("{}…", row.prefix),
                row.scopes.join(" "),
                table::age(&row.created_at, now),
                if row.revoked_at.is_some() { "revoked" } else { "valid" }.to_owned(),
            ]);
        }
        screen.answer(&table::text(table))?;
        Ok(ExitCode::SUCCESS)
    }
}
