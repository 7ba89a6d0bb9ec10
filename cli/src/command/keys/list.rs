//! `errand keys list`

use std::process::ExitCode;

use chrono::Utc;
use clap::Args;
use serde::Deserialize;

use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    screen::Screen,
    table,
};

#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Deserialize)]
struct Page {
    items: Vec<Row>,
    next_cursor: Option<String>,
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
        let client = Client::new(&self.client)?;
        let mut table = table::new(&screen, &["ID", "NAME", "KEY", "SCOPES", "AGE", "STATE"]);
        let now = Utc::now();
        let mut cursor: Option<String> = None;
        loop {
            let request = Request::get("/api/v1/keys");
            let request = match cursor {
                Some(cursor) => request.with("cursor", cursor),
                None => request,
            };
            let answer = client.send(request).await?;
            if self.client.json {
                screen.line(answer.body.trim_end())?;
            }
            let page: Page = answer.read()?;
            for row in page.items {
                table.add_row([
                    row.id,
                    row.name,
                    format!("{}…", row.prefix),
                    row.scopes.join(" "),
                    table::age(&row.created_at, now),
                    if row.revoked_at.is_some() { "revoked" } else { "valid" }.to_owned(),
                ]);
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        if !self.client.json {
            screen.answer(&table::text(table))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
