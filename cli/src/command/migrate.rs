//! `errand migrate`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::database;
use crate::{arguments::Global, screen::Screen, settings};

#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// The database [default: ERRAND_DATABASE_URL or database.url]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Migrate {
    pub(crate) async fn run(self, global: &Global, mut screen: Screen) -> anyhow::Result<ExitCode> {
        let config = settings::load(global)?;
        let url = database::require_url(self.database_url.as_deref(), &config)?;
        let backend = database::open(&config, &url).await?;
        backend.store.ping().await?;
        if self.json {
            screen.line(&json!({"up_to_date": true}).to_string())?;
        } else {
            screen.line("The database's schema is up to date.")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
