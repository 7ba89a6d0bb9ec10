//! `errand sessions list`

use std::process::ExitCode;

use chrono::Utc;
use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    arguments::ClientOptions,
    command::listing::{self, Pages, Rows},
    screen::Screen,
    table,
};

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Sessions a page, up to 200 [default: 50]
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// All pages, not only the first
    #[arg(long)]
    all_pages: bool,
    #[command(flatten)]
    client: ClientOptions,
}

/// A session as the server shows it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: String,
    status: String,
    engine_type: String,
    metadata: Value,
    updated_at: String,
}

impl List {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let limit = self.limit.map(|limit| limit.to_string());
        let (path, limit, pages) =
            ("/api/v1/agent/sessions", [("limit", limit.as_deref())], Pages::all(self.all_pages));
        let Rows { rows, more } = listing::rows(path, &limit, pages, &self.client, &mut screen).await?;
        if !self.client.json {
            screen.answer(&text(&screen, &rows))?;
            if rows.is_empty() {
                screen.note("no sessions")?;
            } else if more {
                screen.note("there are more; --all-pages shows them")?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(screen: &Screen, rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let now = Utc::now();
    let mut table = table::new(screen, &["ID", "STATUS", "ENGINE", "AGE", "TITLE"]);
    for row in rows {
        table.add_row([
            row.id.clone(),
            row.status.clone(),
            row.engine_type.clone(),
            table::age(&row.updated_at, now),
            row.metadata["title"].as_str().unwrap_or_default().to_owned(),
        ]);
    }
    table::text(table)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::screen::tests::screen;

    #[test]
    fn a_row_says_what_a_person_looks_for() {
        let row: Row = serde_json::from_value(json!({
            "id": "01", "status": "active", "engineType": "echo", "systemPrompt": null,
            "metadata": {"title": "Fix the build"}, "createdAt": "2026-11-21T07:00:00Z",
            "updatedAt": Utc::now().to_rfc3339(), "stream": {},
        }))
        .expect("a row");
        let (screen, ..) = screen(false);
        let text = text(&screen, &[row]);
        let line: Vec<&str> = text.lines().nth(1).expect("a row").split_whitespace().collect();
        assert_eq!(line, ["01", "active", "echo", "0s", "Fix", "the", "build"]);
    }
}
