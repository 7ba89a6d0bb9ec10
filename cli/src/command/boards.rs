//! `errand boards`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::listing;
use crate::{arguments::ClientOptions, client::Request, screen::Screen};

/// What is shown of one.
const SHOWN: &[&str] = &["id", "slug", "name", "paused", "gateway_id", "created_at"];

#[derive(Debug, Subcommand)]
pub(crate) enum Boards {
    /// List boards, newest first
    List(List),
    /// Show a board
    Show(Show),
    /// Make a board
    Add(Add),
    /// Remove a board that has no agents, with what was left on it
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The board's id
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Those of this gateway
    #[arg(long, value_name = "ID")]
    gateway: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// What people call it
    name: String,
    /// Where its agents run
    #[arg(long, value_name = "ID")]
    gateway: Option<String>,
    /// How addresses name it [default: made of the name]
    #[arg(long)]
    slug: Option<String>,
    #[command(flatten)]
    client: ClientOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The board's id
    id: String,
    #[command(flatten)]
    client: ClientOptions,
}

impl Boards {
    pub(crate) async fn run(self, screen: Screen) -> anyhow::Result<ExitCode> {
        match self {
            Self::List(list) => {
                let columns = &[
                    ("ID", "id"),
                    ("SLUG", "slug"),
                    ("PAUSED", "paused"),
                    ("GATEWAY", "gateway_id"),
                    ("NAME", "name"),
                ];
                let filters = [("gateway_id", list.gateway.as_deref())];
                listing::list("/api/v1/boards", &filters, columns, &list.client, screen).await
            }
            Self::Show(show) => {
                let path = listing::path_of("boards", &show.id)?;
                listing::show(&path, SHOWN, &show.client, screen).await
            }
            Self::Add(add) => {
                let body = json!({"name": add.name, "gateway_id": add.gateway, "slug": add.slug});
                listing::change(Request::post("/api/v1/boards", Some(body)), "id", "", &add.client, screen).await
            }
            Self::Remove(remove) => {
                let path = listing::path_of("boards", &remove.id)?;
                listing::change(Request::delete(&path), "message", "", &remove.client, screen).await
            }
        }
    }
}
