//! `errand jobs list`

use std::process::ExitCode;

use chrono::Utc;
use clap::Args;
use errand_common::domain::RetryPolicy;
use serde::Deserialize;

use crate::{
    arguments::ClientOptions,
    command::listing::{self, Pages, Rows},
    screen::Screen,
    table,
};

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only in these states, comma-separated, such as failed,cancelled; live means every one that is not final
    #[arg(long, value_name = "STATES")]
    state: Option<String>,
    /// Only of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only in this queue
    #[arg(long)]
    queue: Option<String>,
    /// Jobs a page, up to 200 [default: 50]
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// All pages, not only the first
    #[arg(long)]
    all_pages: bool,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Deserialize)]
struct Row {
    id: String,
    kind: String,
    state: String,
    queue: String,
    attempt: u32,
    max_attempts: u32,
    created_at: String,
    failure: Option<Failure>,
}

impl Row {
    /// Which attempt, of how many; a message to an agent is bounded by time alone.
    fn attempts(&self) -> String {
        if self.max_attempts >= RetryPolicy::MESSAGE.max_attempts {
            return self.attempt.to_string();
        }
        format!("{}/{}", self.attempt, self.max_attempts)
    }
}

#[derive(Debug, Deserialize)]
struct Failure {
    message: String,
}

impl List {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let limit = self.limit.map(|limit| limit.to_string());
        let filters = [
            ("state", self.state.as_deref()),
            ("kind", self.kind.as_deref()),
            ("queue", self.queue.as_deref()),
            ("limit", limit.as_deref()),
        ];
        let pages = Pages::all(self.all_pages);
        let Rows { rows, more } = listing::rows("/api/v1/jobs", &filters, pages, &self.client, &mut screen).await?;
        if !self.client.json {
            screen.answer(&text(&screen, &rows))?;
            if rows.is_empty() {
                screen.note("no jobs")?;
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
    let mut table = table::new(screen, &["ID", "KIND", "STATE", "QUEUE", "ATTEMPT", "AGE", "FAILURE"]);
    for row in rows {
        let failure = row.failure.as_ref().map(|failure| failure.message.lines().next().unwrap_or_default());
        table.add_row([
            row.id.clone(),
            row.kind.clone(),
            row.state.clone(),
            row.queue.clone(),
            row.attempts(),
            table::age(&row.created_at, now),
            failure.unwrap_or_default().chars().take(80).collect(),
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
            "id": "01", "kind": "task", "state": "failed", "queue": "default", "attempt": 3, "max_attempts": 3,
            "created_at": Utc::now().to_rfc3339(), "failure": {"class": "fatal", "message": "exit status 3\nmore"},
        }))
        .expect("a row");
        let (screen, ..) = screen(false);
        let text = text(&screen, &[row]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["ID", "KIND", "STATE", "QUEUE", "ATTEMPT", "AGE", "FAILURE"]);
        assert_eq!(lines[1], ["01", "task", "failed", "default", "3/3", "0s", "exit", "status", "3"]);
        assert_eq!(lines.len(), 2);
        let row: Row = serde_json::from_value(json!({
            "id": "02", "kind": "nudge", "state": "retrying", "queue": "default", "attempt": 4,
            "max_attempts": RetryPolicy::MESSAGE.max_attempts, "created_at": Utc::now().to_rfc3339(),
        }))
        .expect("a row");
        assert_eq!(row.attempts(), "4");
    }
}
