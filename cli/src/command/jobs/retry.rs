//! `errand jobs retry`

use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::job_id;
use crate::{
    arguments::ClientOptions,
    client::{Client, Request},
    exit::Usage,
    screen::Screen,
    settings, table,
};

/// The filters, for the conflicts and requirements of arguments.
const FILTERS: &[&str] = &["all", "kind", "state", "queue", "class", "code", "since"];

/// New jobs of one request.
const PAGE: u64 = 100;

#[derive(Debug, Args)]
#[command(
    after_help = "Many at once: name filters, such as --state failed --queue mail, or say --all.\nJobs that a retry \
    repeats already are left alone, and so are ambiguous ones unless --class ambiguous names them."
)]
pub(crate) struct Retry {
    /// The job
    #[arg(required_unless_present_any = FILTERS, conflicts_with_all = FILTERS)]
    id: Option<String>,
    /// Every job that failed, was cancelled or expired
    #[arg(long)]
    all: bool,
    /// Those of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Those in these states, comma-separated: failed, partial, cancelled, expired
    #[arg(long, value_name = "STATES")]
    state: Option<String>,
    /// Those in this queue
    #[arg(long)]
    queue: Option<String>,
    /// Those whose failure is of this class, such as transient, crash or ambiguous
    #[arg(long)]
    class: Option<String>,
    /// Those whose failure has this code, such as WORKER_LOST
    #[arg(long)]
    code: Option<String>,
    /// Those submitted at or after this time, such as 2026-11-21T07:30:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// No more than so many of them, the newest first [default: all of them]
    #[arg(long, value_name = "N", conflicts_with = "id", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Deserialize)]
struct Page {
    items: Vec<Item>,
    skipped: Skipped,
    next_cursor: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Item {
    id: String,
    retry_of: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Skipped {
    already_retried: u64,
    ambiguous: u64,
    unreadable: u64,
}

impl Retry {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        match &self.id {
            Some(id) => self.one(&job_id(id)?, screen).await,
            None => self.many(screen).await,
        }
    }

    async fn one(&self, id: &str, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let answer = Client::new(&self.client)?.send(Request::post(&format!("/api/v1/jobs/{id}/retry"), None)).await?;
        if self.client.json {
            screen.line(answer.body.trim_end())?;
        } else {
            let retried = answer.job_id()?;
            screen.line(&retried)?;
            let follow = settings::command(&format!("jobs follow {retried}"), &self.client);
            screen.note(&format!("a new job; follow it: {follow}"))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Page by page, so that no answer takes long.
    async fn many(&self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let client = Client::new(&self.client)?;
        let mut body = self.filters()?;
        let (mut items, mut skipped) = (Vec::new(), Skipped::default());
        loop {
            if let Some(limit) = self.limit {
                body.insert("limit".to_owned(), (limit - items.len() as u64).min(PAGE).into());
            }
            let answer = client.send(Request::post("/api/v1/jobs/retry", Some(body.clone().into()))).await?;
            if self.client.json {
                screen.line(answer.body.trim_end())?;
            }
            let page: Page = answer.read()?;
            items.extend(page.items);
            skipped.add(page.skipped);
            let done = self.limit.is_some_and(|limit| items.len() as u64 >= limit);
            match page.next_cursor.filter(|_| !done) {
                Some(cursor) => body.insert("cursor".to_owned(), cursor.into()),
                None => break,
            };
            screen.waiting(&format!("retried {}", items.len()))?;
        }
        if !self.client.json {
            let mut table = table::new(&screen, &["NEW JOB", "RETRY OF"]);
            for item in &items {
                table.add_row([&item.id, &item.retry_of]);
            }
            if !items.is_empty() {
                screen.answer(&table::text(table))?;
            }
            screen.note(&summary(items.len(), skipped))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn filters(&self) -> anyhow::Result<Map<String, Value>> {
        let texts = [
            ("kind", &self.kind),
            ("state", &self.state),
            ("queue", &self.queue),
            ("class", &self.class),
            ("code", &self.code),
            ("since", &self.since),
        ];
        let mut body = Map::new();
        for (name, value) in texts {
            // As a rule it is a variable that was not set.
            match value.as_deref() {
                Some("") => return Err(Usage(format!("--{name} must not be empty; leave it out")).into()),
                Some(value) => drop(body.insert(name.to_owned(), value.into())),
                None => {}
            }
        }
        if self.all {
            body.insert("all".to_owned(), true.into());
        }
        Ok(body)
    }
}

impl Skipped {
    fn add(&mut self, other: Self) {
        self.already_retried += other.already_retried;
        self.ambiguous += other.ambiguous;
        self.unreadable += other.unreadable;
    }
}

fn summary(count: usize, skipped: Skipped) -> String {
    let mut text = match count {
        0 => "nothing to retry".to_owned(),
        1 => "1 new job".to_owned(),
        count => format!("{count} new jobs"),
    };
    for (count, why) in [
        (skipped.already_retried, "retried before"),
        (skipped.ambiguous, "ambiguous (--class ambiguous retries them)"),
        (skipped.unreadable, "unreadable"),
    ] {
        if count > 0 {
            text += &format!("; left alone: {count} {why}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_was_left_alone_and_why() {
        assert_eq!(summary(0, Skipped::default()), "nothing to retry");
        let skipped = Skipped { already_retried: 2, ambiguous: 1, unreadable: 0 };
        assert_eq!(
            summary(3, skipped),
            "3 new jobs; left alone: 2 retried before; left alone: 1 ambiguous (--class ambiguous retries them)"
        );
    }
}
