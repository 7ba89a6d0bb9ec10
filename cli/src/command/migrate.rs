//! `errand migrate`

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::Context;
use clap::Args;
use errand_common::{
    backend::{Backend, Schema},
    config::Config,
};
use serde_json::{Value, json};

use super::database;
use crate::{arguments::Global, exit::Usage, screen::Screen, settings};

/// What its help says at the end.
const HELP: &str = "Several at once wait for each other, and a database that is up to date stays as it is. A database that \
    is ahead, because a newer Errand migrated it, is left alone too.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Migrate {
    /// The database [default: ERRAND_DATABASE_URL or database.url]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// The database came back from a backup: make what watchers remember of it invalid. Stop every other process first
    #[arg(long)]
    restored: bool,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Migrate {
    pub(crate) async fn run(self, global: &Global, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let config = settings::load(global)?;
        let url = database::require_url(self.database_url.as_deref(), &config)?;
        let found = Backend::inspect(&config, &url).await.context("the database can't be opened")?;
        if let (true, Schema::NoFile(file)) = (self.restored, &found) {
            return Err(Usage(format!("there is no file {}; restore it first", file.display())).into());
        }
        let (backend, said) = match found {
            Schema::Newer(version) => {
                let backend = Backend::join(&config, &url).await.context("the database can't be opened")?;
                (backend, format!("The database holds migration {version} of a newer Errand; nothing was changed."))
            }
            _ => (database::open(&config, &url).await?, describe(&found)),
        };
        let mut report = json!({"up_to_date": true});
        if !self.json {
            screen.line(&said)?;
        }
        if self.restored {
            let restored = after_restore(&config, &backend).await?;
            if !self.json {
                screen.line(&format!("Its epoch is {} now: watchers begin anew.", text(&restored["epoch"])))?;
                screen.line(text(&restored["queues"]))?;
            }
            report["restored"] = restored;
        }
        if self.json {
            screen.line(&report.to_string())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn describe(found: &Schema) -> String {
    match found {
        Schema::Behind(1) => "The database's schema is up to date: 1 migration was applied.".to_owned(),
        Schema::Behind(lacking) => format!("The database's schema is up to date: {lacking} migrations were applied."),
        _ => "The database's schema is up to date.".to_owned(),
    }
}

/// A new epoch; and the index in Redis, which may lack jobs that the backup has brought back, is no longer trusted.
async fn after_restore(config: &Config, backend: &Backend) -> anyhow::Result<Value> {
    let epoch = backend.store.renew_epoch().await.context("the epoch can't be renewed")?;
    if config.redis.url.is_none() {
        return Ok(json!({"epoch": epoch, "queues": "No Redis is configured: there is no index to distrust."}));
    }
    let stats = backend.store.queue_stats(None).await.context("the queues can't be read")?;
    let queues: BTreeSet<String> = stats.into_iter().map(|stats| stats.queue).collect();
    let queues: Vec<String> = queues.into_iter().collect();
    let declared = backend.queue.declare_incomplete(&queues).await;
    declared.context("the epoch is renewed, but Redis can't be told to refill its index; empty it with FLUSHDB")?;
    let said = format!("{} queues in Redis will be filled anew from the database.", queues.len());
    Ok(json!({"epoch": epoch, "queues": said}))
}
