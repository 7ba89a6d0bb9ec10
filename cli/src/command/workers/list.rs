//! `errand workers list`

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
    host: String,
    version: String,
    queues: Vec<String>,
    engines: Vec<String>,
    concurrency: u32,
    running: u32,
    draining: bool,
    started_at: String,
}

impl List {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let Rows { rows, .. } = listing::rows("/api/v1/workers", &[], Pages::All, &self.client, &mut screen).await?;
        if !self.client.json {
            if rows.is_empty() {
                screen.note("no worker lives")?;
            } else {
                screen.answer(&text(&screen, rows))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(screen: &Screen, rows: Vec<Row>) -> String {
    let now = Utc::now();
    let mut table = table::new(screen, &["ID", "HOST", "VERSION", "STATE", "RUNNING", "AGE", "QUEUES", "ENGINES"]);
    for row in rows {
        table.add_row([
            row.id,
            row.host,
            row.version,
            if row.draining { "draining" } else { "live" }.to_owned(),
            format!("{}/{}", row.running, row.concurrency),
            table::age(&row.started_at, now),
            row.queues.join(","),
            row.engines.join(","),
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
            "id": "01", "host": "box", "version": "0.1.0", "queues": ["a", "b"], "kinds": ["task"], "engines": ["echo"],
            "concurrency": 64, "running": 3, "draining": true, "started_at": Utc::now().to_rfc3339(),
            "alive_until": Utc::now().to_rfc3339(),
        }))
        .expect("a row");
        let (screen, ..) = screen(false);
        let text = text(&screen, vec![row]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["01", "box", "0.1.0", "draining", "3/64", "0s", "a,b", "echo"]);
    }
}
