//! `errand submit job`

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::{arguments::ClientOptions, client, exit, screen::Screen};

#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct Job {
    /// Kind of job, such as task
    #[arg(long)]
    kind: String,
    /// Its payload: JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON")]
    payload: String,
    /// Queue [default: the kind's]
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// 0 (first) to 3 (last) [default: 2]
    #[arg(long, value_name = "N")]
    priority: Option<u8>,
    /// Not before this time, such as 2030-01-31T08:00:00Z
    #[arg(long, value_name = "TIME")]
    run_at: Option<String>,
    /// URL that is told of its end, unsigned; `errand webhooks add` makes one that is signed
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// Show what it does as it happens; the outcome is the exit status
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl Job {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        super::send("/api/v1/jobs", self.body()?, self.follow, &self.client, screen).await
    }

    fn body(&self) -> anyhow::Result<Value> {
        let text = client::read_text_or_file(&self.payload)?;
        let payload: Value = serde_json::from_str(&text).context("the payload is not valid JSON")?;
        let mut body = Map::from_iter([("kind".to_owned(), self.kind.clone().into()), ("payload".to_owned(), payload)]);
        body.extend(self.queue.clone().map(|queue| ("queue".to_owned(), queue.into())));
        body.extend(self.priority.map(|priority| ("priority".to_owned(), priority.into())));
        body.extend(self.run_at.clone().map(|run_at| ("run_at".to_owned(), run_at.into())));
        body.extend(self.webhook.as_ref().map(|url| ("webhook".to_owned(), json!({"url": url}))));
        Ok(body.into())
    }
}
