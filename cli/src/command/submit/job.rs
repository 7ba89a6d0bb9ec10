//! `errand submit job`

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value};

use crate::{
    arguments::ClientOptions,
    client::{self, Client, Request},
    exit, follow,
    screen::Screen,
};

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
    #[arg(long)]
    queue: Option<String>,
    /// 0 (first) to 3 (last)
    #[arg(long)]
    priority: Option<u8>,
    /// Not before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    run_at: Option<String>,
    /// Show what it does as it happens; the outcome is the exit status
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    client: ClientOptions,
}

impl Job {
    pub(crate) async fn run(self, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let client = Client::new(&self.client)?;
        let answer = client.send(Request::post("/api/v1/jobs", Some(self.body()?))).await?;
        let id = answer.job_id()?;
        if self.follow {
            return follow::follow(&client, &id, self.client.json, screen).await;
        }
        if self.client.json {
            screen.line(answer.body.trim_end())?;
        } else {
            screen.line(&id)?;
            screen.note(&format!("submitted; follow it with `errand jobs follow {id}`"))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn body(&self) -> anyhow::Result<Value> {
        let text = client::read_text_or_file(&self.payload)?;
        let payload: Value = serde_json::from_str(&text).context("the payload is not valid JSON")?;
        let mut body = Map::from_iter([("kind".to_owned(), self.kind.clone().into()), ("payload".to_owned(), payload)]);
        body.extend(self.queue.clone().map(|queue| ("queue".to_owned(), queue.into())));
        body.extend(self.priority.map(|priority| ("priority".to_owned(), priority.into())));
        body.extend(self.run_at.clone().map(|run_at| ("run_at".to_owned(), run_at.into())));
        Ok(body.into())
    }
}
