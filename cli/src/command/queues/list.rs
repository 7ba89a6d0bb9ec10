//! `errand queues list`

use std::process::ExitCode;

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

/// A queue as the server shows it.
#[derive(Debug, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) paused: bool,
    pub(super) paused_for_all: bool,
    queued: u64,
    blocked: u64,
    scheduled: u64,
    running: u64,
    waiting: u64,
    retrying: u64,
    oldest_age_seconds: Option<f64>,
}

impl List {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let Rows { rows, .. } = listing::rows("/api/v1/queues", &[], Pages::All, &self.client, &mut screen).await?;
        if !self.client.json {
            screen.answer(&text(&screen, &rows))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(screen: &Screen, rows: &[Row]) -> String {
    let header = ["QUEUE", "STATE", "QUEUED", "OLDEST", "RUNNING", "RETRYING", "SCHEDULED", "BLOCKED", "WAITING"];
    let mut table = table::new(screen, &header);
    for row in rows {
        let oldest = row.oldest_age_seconds.map(table::seconds).unwrap_or_default();
        table.add_row([
            row.name.clone(),
            row.state().to_owned(),
            row.queued.to_string(),
            oldest,
            row.running.to_string(),
            row.retrying.to_string(),
            row.scheduled.to_string(),
            row.blocked.to_string(),
            row.waiting.to_string(),
        ]);
    }
    table::text(table)
}

impl Row {
    /// In one word, or three.
    pub(super) const fn state(&self) -> &'static str {
        match (self.paused, self.paused_for_all) {
            (_, true) => "paused for all",
            (true, false) => "paused",
            (false, false) => "open",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::screen::tests::screen;

    #[test]
    fn a_row_says_what_a_person_looks_for() {
        let row: Row = serde_json::from_value(json!({
            "name": "mail", "paused": true, "paused_for_all": false, "queued": 12, "blocked": 1, "scheduled": 2,
            "running": 3, "waiting": 4, "retrying": 5, "oldest_age_seconds": 75.2,
        }))
        .expect("a row");
        let (screen, ..) = screen(false);
        let text = text(&screen, &[row]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["mail", "paused", "12", "1m", "3", "5", "2", "1", "4"]);
    }
}
